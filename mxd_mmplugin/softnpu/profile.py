"""What a run costs on an Atlas A2, by the software NPU's model of it: its kernels, and the whole of it."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Optional, Union

from rich.console import Console
from rich.table import Table

from . import usage

PIPES = ('S', 'V', 'M', 'MTE1', 'MTE2', 'MTE3', 'FIX')
WIDTH = 160  # of the table, also where the output is no terminal


def load(path: Union[str, Path]) -> list[dict]:
    """The lines of the file that MXD_SOFTNPU_PROFILE named: launches of kernels and calls of operators."""
    path = Path(path)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kernels(path: Union[str, Path]) -> list[dict]:
    """The launches of kernels, summed up by kernel, the longest first.

    Args:
        path (str | Path): as for `load`.

    Returns:
        list[dict]: for each kernel its name, launches, blocks (the most), modelled_us, bound_us (the larger of
        moving the bytes and doing the arithmetic, spread evenly), bound (what its slowest core does most), busy
        (share of the time by pipe), bytes_in, bytes_out, scalar_local and scalar_global.
    """
    rows: dict[str, dict] = {}
    bounds: dict[str, dict[str, float]] = {}  # by kernel, the time under each bound
    for launch in load(path):
        if 'kernel' not in launch:
            continue
        name = launch['kernel']
        row = rows.setdefault(
            name,
            dict.fromkeys(
                (
                    'launches',
                    'blocks',
                    'modelled_us',
                    'bound_us',
                    'cycles',
                    'bytes_in',
                    'bytes_out',
                ),
                0,
            )
            | {'kernel': name, 'scalar_local': 0, 'scalar_global': 0}
            | {'busy': dict.fromkeys(PIPES, 0.0)},
        )
        row['launches'] += 1
        row['blocks'] = max(row['blocks'], launch['blocks'])
        row['bound_us'] += max(launch['traffic_us'], launch['vector_us'], launch['cube_us'])
        for key in (
            'modelled_us',
            'cycles',
            'bytes_in',
            'bytes_out',
            'scalar_local',
            'scalar_global',
        ):
            row[key] += launch[key]
        for pipe in PIPES:
            row['busy'][pipe] += launch['pipes'][pipe]['busy_max']
        of_kernel = bounds.setdefault(name, {})
        of_kernel[launch['bound']] = of_kernel.get(launch['bound'], 0) + launch['modelled_us']
    for name, row in rows.items():
        cycles = row.pop('cycles')
        row['busy'] = {pipe: busy / cycles if cycles else 0 for pipe, busy in row['busy'].items()}
        row['bound'] = max(bounds[name], key=bounds[name].__getitem__)
    return sorted(rows.values(), key=lambda row: -row['modelled_us'])


def _bytes(count: int) -> str:
    return f'{count / 2**20:.1f} MiB' if count >= 2**20 else f'{count / 2**10:.1f} KiB'


def _table(rows: list[dict]) -> Table:
    total = sum(row['modelled_us'] for row in rows)
    table = Table(
        title=f'Kernels on an Atlas A2, modelled: {total / 1e3:.3f} ms in all', title_justify='left'
    )
    table.add_column('kernel', no_wrap=True)
    table.add_column('bound by')
    heads = ('launches', 'time', 'each', 'of its bound', 'in', 'out', 'scalar', *PIPES)
    for head in heads:
        table.add_column(head, justify='right')
    for row in rows:
        ratio = row['modelled_us'] / row['bound_us'] if row['bound_us'] else float('inf')
        table.add_row(
            row['kernel'],
            row['bound'],
            str(row['launches']),
            f'{row["modelled_us"] / 1e3:.3f} ms',
            f'{row["modelled_us"] / row["launches"]:.1f} us',
            f'{ratio:.1f}x',
            _bytes(row['bytes_in']),
            _bytes(row['bytes_out']),
            str(row['scalar_local'] + row['scalar_global']),
            *(f'{row["busy"][pipe]:.0%}' if row['busy'][pipe] else '' for pipe in PIPES),
        )
    return table


def native_lines(places: Iterable[str]) -> dict[str, str]:
    """Lines of C++ by place in a library.

    Args:
        places (Iterable[str]): 'library+offset'.

    Returns:
        dict[str, str]: 'file:line' for each place that addr2line knows the line of.
    """
    lines = {}
    for place in set(filter(None, places)) if shutil.which('addr2line') else ():
        library, _, offset = place.rpartition('+')
        command = ['addr2line', '-e', library, offset]
        found = subprocess.run(command, capture_output=True, text=True).stdout.split()
        if found and not found[0].startswith('?'):
            lines[place] = '/'.join(found[0].split('/')[-3:])
        else:
            lines[place] = f'{Path(library).name}+{offset}'
    return lines


def report(path: Union[str, Path], picture: Optional[Path] = None) -> list[dict]:
    """Print the profile of a run as tables.

    Args:
        path (str | Path): as for `load`.
        picture (Path, optional): a picture of the time by phase and part of the model is drawn there.

    Returns:
        list[dict]: what `kernels` returns.
    """
    calls = load(path)
    rows = kernels(path)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(_table(rows) if rows else 'No kernel was launched.')
    if len(calls) > sum(row['launches'] for row in rows):
        used = usage.calls_of(calls)
        usage.report(console, used, native_lines(row['native'] for row in used))
        if picture:
            usage.draw(used, picture)
    return rows
