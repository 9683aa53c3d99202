"""What a run asks of an Atlas A2: launches, waits, copies, modelled time, by operator and by part of the model."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .roofline import LAUNCH_US, WAIT_US, cost

PHASES = ('forward', 'backward', 'optimizer', 'validation')
COPIES = ('to device', 'to host')
SHOWN = 30  # operators of the AI core; all others are always shown


def calls_of(calls: Iterable[dict]) -> list[dict]:
    """Calls of operators and launches of kernels, with what each costs.

    Args:
        calls (Iterable[dict]): lines of the profile.

    Returns:
        list[dict]: for each call its name, on (where it runs), dtypes, us (of the device, or of the host where it
        runs there), bytes, bound, launches (0 for a copy between host and device), waits, and its place: phase, part
        (of the model, the first name of the module), line and native.
    """
    rows = []
    for call in calls:
        if 'kernel' in call:
            name, on, dtypes = call['kernel'], 'kernel', ''
            us, total, bound = (
                call['modelled_us'],
                call['bytes_in'] + call['bytes_out'],
                call['bound'],
            )
        else:
            name, on = call['operator'], call['on']
            dtypes = ' '.join(dict.fromkeys(dtype for dtype, _ in call['inputs']))
            us, total, bound = cost(call)
        rows.append(
            dict(name=name, on=on, dtypes=dtypes, us=us, bytes=total, bound=bound)
            | dict(launches=int(on not in COPIES), waits=call.get('syncs', 0))
            | dict(
                phase=call.get('phase') or 'forward',
                part=call.get('module', '').split('.')[0] or 'rest',
            )
            | dict(line=call.get('line', ''), native=call.get('native', ''))
        )
    return rows


def host_us(rows: Iterable[dict]) -> float:
    """The time that the host needs for launches, waits and what runs on it."""
    return sum(
        LAUNCH_US * row['launches']
        + WAIT_US * row['waits']
        + (row['us'] if row['on'] in (*COPIES, 'host') else 0)
        for row in rows
    )


def device_us(rows: Iterable[dict]) -> float:
    """The time that the device needs."""
    return sum(row['us'] for row in rows if row['on'] not in (*COPIES, 'host'))


def steps(rows: list[dict]) -> int:
    """How many training steps there are: backward passes that an optimizer comes after."""
    phases = [row['phase'] for row in rows]
    return sum(pair == ('backward', 'optimizer') for pair in zip(phases, phases[1:]))


def unknown(rows: Iterable[dict]) -> list[str]:
    """The operators that the table of CANN's operators does not have."""
    return sorted({row['name'] for row in rows if row['on'] == 'unknown'})


def grouped(rows: Iterable[dict], *keys: str) -> dict[tuple, list[dict]]:
    """The rows by the values of some of their keys, in the order of their first."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify='left')
    for head in heads:
        left = head in ('operator', 'on', 'dtypes', 'bound by', 'part', 'where')
        table.add_column(head, justify='left' if left else 'right', overflow='fold')
    return table


def _megabytes(rows: Iterable[dict]) -> str:
    return f'{sum(row["bytes"] for row in rows) / 2**20:.1f} MiB'


def operators_table(rows: list[dict]) -> Table:
    """Kernels and operators together, the most expensive first."""
    groups = sorted(
        grouped(rows, 'name', 'on').items(),
        key=lambda group: -(host_us(group[1]) + device_us(group[1])),
    )
    heads = 'operator', 'on', 'dtypes', 'launches', 'waits', 'time', 'each', 'bytes', 'bound by'
    table = _table('Operators and kernels', *heads)
    rest: list[dict] = []
    shown = 0
    for (name, on), members in groups:
        if on == 'AI core' and (shown := shown + 1) > SHOWN:
            rest += members
            continue
        us = sum(row['us'] for row in members)
        # Dtypes matter where they sent the call away from the AI core.
        dtypes = '' if on == 'AI core' else ', '.join({row['dtypes']: 0 for row in members})
        table.add_row(
            name,
            on,
            dtypes,
            str(len(members)),
            str(sum(row['waits'] for row in members) or ''),
            f'{us / 1e3:.3f} ms',
            f'{us / len(members):.1f} us',
            _megabytes(members),
            Counter(row['bound'] for row in members).most_common(1)[0][0],
        )
    if rest:
        us = sum(row['us'] for row in rest)
        count = len(grouped(rest, 'name'))
        table.add_row(
            f'{count} others', 'AI core', '', str(len(rest)), '', f'{us / 1e3:.3f} ms', '', '', ''
        )
    return table


def waits_table(rows: list[dict], native_line: dict[str, str]) -> Table:
    """Waits, and copies between host and device, by the line that asks for them."""
    table = _table('Waits and copies', 'operator', 'waits', 'copies', 'bytes', 'part', 'where')
    moves = [row for row in rows if row['waits'] or row['on'] in COPIES]
    groups = grouped(moves, 'name', 'on', 'phase', 'part', 'line', 'native').items()
    for (name, on, phase, part, line, native), members in sorted(
        groups, key=lambda group: -len(group[1])
    ):
        copies = len(members) if on in COPIES else 0
        table.add_row(
            f'{name} {on}' if copies else name,
            str(sum(row['waits'] for row in members)),
            str(copies or ''),
            _megabytes(members),
            f'{phase} {part}'.strip(),
            ' < '.join(filter(None, (native_line.get(native, native), line))),
        )
    return table


def parts_table(rows: list[dict], title: str, *keys: str) -> Table:
    """Launches, waits and time by phase, or by phase and part of the model, as `keys` name it."""
    heads = 'part', 'launches', 'waits', 'host', 'device', 'AI CPU', 'on host', 'unknown'
    table = _table(title, *heads)
    groups = grouped(rows, *keys)
    order = sorted(groups, key=lambda key: (PHASES.index(key[0]), -host_us(groups[key])))
    for key, members in [(' '.join(key), groups[key]) for key in order] + [('all', rows)]:
        places = Counter(row['on'] for row in members)
        table.add_row(
            key,
            str(sum(row['launches'] for row in members)),
            str(sum(row['waits'] for row in members)),
            f'{host_us(members) / 1e3:.2f} ms',
            f'{device_us(members) / 1e3:.2f} ms',
            *(str(places[place] or '') for place in ('AI CPU', 'host', 'unknown')),
        )
    return table


def report(console: Console, rows: list[dict], native_line: dict[str, str]) -> None:
    """Print the tables of a run, and what bounds it."""
    console.print(operators_table(rows))
    console.print(waits_table(rows, native_line))
    console.print(parts_table(rows, 'Parts of the model', 'phase', 'part'))
    console.print(parts_table(rows, 'Phases', 'phase'))
    names = {row['name'] for row in rows if row['on'] not in (*COPIES, 'kernel')}
    lacking = unknown(rows)
    console.print(
        f'{len(names) - len(lacking)} of {len(names)} operators are in the table of CANN'
        + (f'; unknown: {", ".join(lacking)}' if lacking else '')
    )
    count = steps(rows)
    host, device = host_us(rows) / 1e3, device_us(rows) / 1e3
    console.print(
        f'{count} training step{"s" * (count != 1)}. The host needs {host:.1f} ms ({LAUNCH_US:.0f} us a launch, '
        f'{WAIT_US:.0f} us a wait), the device {device:.1f} ms: bound by the {"host" if host > device else "device"}'
    )


def draw(rows: list[dict], path: Path) -> None:
    """Draw the time of host and device in each phase of a training step, stacked by part of the model.

    Args:
        rows (list[dict]): from `calls_of`.
        path (Path): the picture.
    """
    from matplotlib.figure import Figure

    per_step = max(steps(rows), 1)
    phases = [phase for phase in PHASES if any(row['phase'] == phase for row in rows)]
    parts = grouped(sorted(rows, key=lambda row: row['part']), 'part')
    figure = Figure(figsize=(2.5 + 2.2 * len(phases), 5), layout='constrained')
    axes = figure.subplots()
    colours = dict(zip(parts, _colours(len(parts))))
    for at, phase in enumerate(phases):
        for shift, time in ((-0.2, host_us), (0.2, device_us)):
            bottom = 0.0
            for part, members in parts.items():
                height = time([row for row in members if row['phase'] == phase]) / 1e3 / per_step
                axes.bar(at + shift, height, 0.36, bottom, color=colours[part])
                bottom += height
            axes.annotate(f'{bottom:.1f}', (at + shift, bottom), ha='center', va='bottom')
    axes.set_xticks(
        [at + shift for at in range(len(phases)) for shift in (-0.2, 0, 0.2)],
        [text for phase in phases for text in ('host', f'\n{phase}', 'device')],
    )
    axes.tick_params(axis='x', length=0)
    axes.set_ylabel('ms, modelled, a training step')
    handles = [axes.bar(0, 0, color=colour, label=part[0]) for part, colour in colours.items()]
    axes.legend(handles=handles[::-1], loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=150)


def _colours(count: int) -> list:
    from matplotlib import colormaps

    return [colormaps['tab20'](i) for i in range(count)]
