"""What was measured, as a table, as JSON and as a picture."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Optional

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

WIDTH = 128  # of the table, also where the output is no terminal


def _machine() -> dict:
    return dict(
        processor=platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        vectors=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
    )


def _time(ms: float) -> str:
    return f'{ms:.3g} ms' if ms < 1000 else f'{ms / 1e3:.3g} s'


def _bytes(count: Optional[int]) -> str:
    return '' if count is None else f'{count / 2**20:.0f} MiB'


def table(results: list) -> Table:
    """The results of one op; a column for each rival."""
    machine, peak = _machine(), results[0].peak
    out = Table(
        title=f'{results[0].op}: {machine["threads"]} threads, {machine["vectors"]}, '
        f'peak {peak.gflops:.0f} GFLOP/s, {peak.gbs:.1f} GB/s',
        title_justify='left',
    )
    rivals = list(dict.fromkeys(name for r in results for name in r.times if name != 'mxd'))
    out.add_column('case')
    out.add_column('step')
    for head in ('time', 'rate', 'of peak', 'memory'):
        out.add_column(head, justify='right')
    for rival in rivals:
        out.add_column(f'{rival}: time, ratio, memory', justify='right')
    for r in results:
        rate, unit, share = r.rate or (None, None, None)
        row = [r.name, r.step, _time(r.times['mxd'])]
        row += [f'{rate:.3g} {unit}', f'{share:.0%}'] if rate else ['', '']
        row.append(_bytes(r.memory['mxd']))
        for rival in rivals:
            there = rival in r.times
            row.append(
                f'{_time(r.times[rival])}  [bold]{r.ratio(rival):.1f}x[/]  {_bytes(r.memory[rival])}'
                if there
                else ''
            )
        out.add_row(*row)
    return out


def show(results: list) -> None:
    """Print the table of one op."""
    Console(width=WIDTH).print(table(results))


def save_json(results: list, path: Path) -> None:
    """Write the machine and all results."""
    rows = [dataclasses.asdict(result) for result in results]
    path.write_text(json.dumps(dict(machine=_machine(), results=rows), indent=1) + '\n')


def _draw_bars(axes: Axes, results: list) -> None:
    """Time of each case relative to ours, which is 1."""
    rivals = list(dict.fromkeys(name for r in results for name in r.times))
    height = 0.8 / len(rivals)
    for i, rival in enumerate(rivals):
        rows = [(row, r) for row, r in enumerate(results) if rival in r.times]
        bars = axes.barh(
            [row + i * height for row, _ in rows],
            [r.ratio(rival) for _, r in rows],
            height,
            label=rival,
        )
        axes.bar_label(bars, [_time(r.times[rival]) for _, r in rows], padding=3, fontsize=7)
    axes.set_yticks(
        [row + 0.4 - height / 2 for row in range(len(results))],
        [f'{r.name}\n{r.step}' for r in results],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xscale('log')
    axes.margins(x=0.18)
    axes.set_xlim(left=0.5)
    axes.axvline(1, color='black', linewidth=0.6)
    axes.set_xlabel('time, ours = 1')


def _draw_series(axes: Axes, results: list) -> None:
    """Time against size, and the straight line that linear growth would be; a colour a case."""
    series: dict[tuple[str, str], dict[str, list]] = {}
    for r in results:
        for name, time in r.times.items():
            points = series.setdefault((r.name.split(',')[0], r.step), {}).setdefault(name, [])
            points.append((r.size, time))
    colours = colormaps['tab20'](range(20))
    for i, ((case, step), lines) in enumerate(series.items()):
        colour = colours[i % len(colours)]
        for name, points in lines.items():
            sizes, times = zip(*sorted(points))
            if name == 'mxd':
                axes.loglog(sizes, times, '-o', color=colour, markersize=3, label=f'{case} {step}')
                linear = [times[0] * size / sizes[0] for size in sizes]
                axes.loglog(sizes, linear, ':', color=colour, linewidth=0.8)
            else:
                axes.loglog(sizes, times, '--', color=colour, linewidth=0.8)
    rivals = dict.fromkeys(name for r in results for name in r.times if name != 'mxd')
    axes.set_xlabel(f'size (dotted: linear growth; dashed: {", ".join(rivals)})')
    axes.set_ylabel('ms')


def save_plot(results: list, path: Path, series: bool) -> None:
    """Draw one panel an op: bars of relative times, or a `series` of growing sizes."""
    ops = list(dict.fromkeys(r.op for r in results))
    panels = [[r for r in results if r.op == op] for op in ops]
    if not series:  # what has a rival says more; where none is installed, all there is
        panels = [[r for r in rows if len(r.times) > 1] or rows for rows in panels]
    heights = [5 if series else 1 + 0.45 * len(rows) for rows in panels]
    figure = Figure((11, sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, rows in zip(axes, panels):
        (_draw_series if series else _draw_bars)(ax, rows)
        ax.set_title(rows[0].op, loc='left')
        ax.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
        ax.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)
