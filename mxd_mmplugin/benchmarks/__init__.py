"""Time the operators beside each installed rival, in one process.

Each figure is the median of repeated calls, ours and the rivals' in turns. Rates are compared with the peak of this
machine, a float32 matrix product and a copy that are timed in the same run. The LiDAR sweep is the one that the
environment variable MXD_FRAME names, else a recorded or generated one that is found in the checkout.
"""

import argparse
import importlib
from pathlib import Path

from tqdm import tqdm

from ..packages import is_installed
from . import report
from .case import SHAPES
from .measurement import measure, measure_peak

OPS = (
    'sparse_conv',
    'modulated_deform_conv',
    'deformable_aggregation',
    'voxelize',
    'dynamic_scatter',
    'bev_pool',
    'rotated_iou',
    'mmcv_points',
    'view_transform',
    'sparse4d',
    'step',
)
# Op -> the rival that is a package which nothing else needs.
RIVALS = dict(sparse_conv='spconv', voxelize='spconv')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('op', nargs='*', help=f'which of {", ".join(OPS)}; all without')
    what = '; '.join(f'{name}: {text}' for name, text in SHAPES.items())
    parser.add_argument('--shapes', choices=SHAPES, default='model', help=f'{what} (model)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here too')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw them here too')


def run(args: argparse.Namespace) -> int:
    """Measure, print a table an op, and write what was asked for."""
    for op in args.op:
        if op not in OPS:
            raise SystemExit(f'mxd bench: op must be one of {", ".join(OPS)}, was {op!r}')
    ops, results = args.op or OPS, []
    for rival in dict.fromkeys(RIVALS[op] for op in ops if op in RIVALS):
        if not is_installed(rival):
            print(
                f'{rival} is left out, as it is not installed: '
                '`make bench` installs it on x86-64, the only processor it has wheels for.'
            )
    for op in ops:
        cases = importlib.import_module(f'.{op}', __name__).cases(args.shapes)
        peak = measure_peak()
        rows = []
        with tqdm(cases, desc=op, unit='case', leave=False) as progress:
            for case in progress:
                progress.set_postfix_str(f'{case.name} {case.step}')
                rows.append(measure(op, case, peak))
        report.show(rows)
        results += rows
    if args.json:
        report.save_json(results, args.json)
    if args.plot:
        report.save_plot(results, args.plot, series=args.shapes == 'large')
    return 0
