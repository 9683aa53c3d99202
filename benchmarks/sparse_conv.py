"""Time sparse convolution on the voxels of a LiDAR frame, beside spconv's CPU build in the same process.

    make bench, or: PYTHONPATH=.rivals python -m benchmarks.sparse_conv [FRAME.bin] [--voxels 80000] [--json FILE]

FRAME.bin is a sweep in nuScenes' format, float32 x, y, z, intensity, ring; without it the recorded frame of the tests
is taken where it is there, else a generated one. Forward times include the rulebook, as a
network pays for it at the first layer of each resolution. spconv has no backward on the CPU, so backward is given as
a multiple of our forward. The peak is a float32 matrix product timed in the same run.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer
from tqdm import tqdm

from mxd_mmplugin.ops import build_rulebook, sparse_conv

VOXEL_SIZE, RANGE = (0.075, 0.075, 0.2), (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
GRID = [41, 1440, 1440]
# Name, input channels, output channels, stride, submanifold.
LAYERS = (
    ('SubMConv3d', 16, 16, 1, True),
    ('SubMConv3d', 64, 64, 1, True),
    ('SubMConv3d', 128, 128, 1, True),
    ('SparseConv3d', 64, 128, 2, False),
)


def voxels_of(frame: Path, wanted: int):
    """Occupied voxels of a sweep, repeated as a batch until there are about `wanted`.

    Returns:
        tuple[Tensor, int]: indices int32 [N, 4], in random order as a shuffled sweep gives them,
        and the batch size.
    """
    points = torch.from_numpy(np.fromfile(frame, np.float32).reshape(-1, 5)[:, :3])
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    points = points[((points >= low) & (points < high)).all(1)]
    cells = ((points - low) / torch.tensor(VOXEL_SIZE)).int().flip(1).unique(dim=0)
    cells = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))]
    batch = max(1, round(wanted / len(cells)))
    rows = [
        torch.cat([torch.full((len(cells), 1), b, dtype=torch.int32), cells], 1)
        for b in range(batch)
    ]
    return torch.cat(rows), batch


def default_frame() -> Path:
    """The recorded frame, else the first generated one."""
    root = Path(__file__).parents[1]
    real = Path(os.environ.get('MXD_REAL_DATA', root.parent / 'shared' / 'real'))
    generated = root / 'data' / 'nuscenes-generated' / 'samples' / 'LIDAR_TOP'
    found = [*real.glob('nuscenes/*LIDAR_TOP*.bin'), *sorted(generated.glob('*.bin'))]
    if not found:
        raise SystemExit('no LiDAR sweep found: name one, or run `make data`')
    return found[0]


def milliseconds(run) -> float:
    """Median over at least two seconds of repeated runs."""
    run()
    timer = Timer('run()', globals=dict(run=run), num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=2).median * 1e3


def spconv_forward(indices, batch, features, channels, stride, subm):
    """A call of spconv's layer on a new tensor, or None where spconv is not installed."""
    try:
        from spconv import pytorch as spconv
    except ImportError:
        return None
    kind = spconv.SubMConv3d if subm else spconv.SparseConv3d
    layer = kind(features.shape[1], channels, 3, stride=stride, padding=1, bias=False).eval()

    @torch.no_grad()
    def run():
        return layer(spconv.SparseConvTensor(features, indices, GRID, batch))

    return run


def measure(indices, batch, inputs, outputs, stride, subm) -> dict:
    """Times of one layer in milliseconds, and its arithmetic."""
    geometry = [3] * 3, [stride] * 3, [1] * 3, [1] * 3, subm
    features = torch.randn(len(indices), inputs, requires_grad=True)
    weight = torch.randn(3, 3, 3, inputs, outputs, requires_grad=True)

    def rulebook():
        return build_rulebook(indices, batch, GRID, *geometry)

    @torch.no_grad()
    def forward():
        return sparse_conv(features, weight, None, rulebook())

    book = rulebook()
    out = sparse_conv(features, weight, None, book)
    grad = torch.randn_like(out)

    def backward():
        # A fresh rulebook's transpose is part of the price; the cached one is dropped.
        book.__dict__.pop('transposed', None)
        torch.autograd.grad(out, (features, weight), grad, retain_graph=True)

    rival = spconv_forward(indices, batch, features.detach(), outputs, stride, subm)
    # In turns, so that both see the same machine.
    rounds = [[milliseconds(run) for run in (forward, backward, rival) if run] for _ in range(3)]
    times = np.median(rounds, axis=0)
    return dict(
        rulebook=milliseconds(rulebook),
        forward=times[0],
        backward=times[1],
        spconv=times[2] if rival else None,
        gflop=2e-9 * len(book.pairs) * inputs * outputs,
    )


def peak_gflops() -> float:
    """Float32 matrix product of this machine, in GFLOP/s."""
    a = torch.randn(2048, 2048)
    return 2 * 2.048**3 / milliseconds(lambda: a @ a) * 1e3


def main() -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('frame', type=Path, nargs='?', help='a LiDAR sweep in the nuScenes format')
    parser.add_argument('--voxels', type=int, default=80_000)
    parser.add_argument('--json', type=Path, help='also write the figures here')
    args = parser.parse_args()

    indices, batch = voxels_of(args.frame or default_frame(), args.voxels)
    peak = peak_gflops()
    table = Table(
        title=f'{len(indices)} voxels, {torch.get_num_threads()} threads, '
        f'{torch.backends.cpu.get_cpu_capability()}, GEMM peak {peak:.0f} GFLOP/s'
    )
    heads = ('layer', 'rulebook', 'forward', 'spconv', 'ratio', 'backward', 'x forward', 'of peak')
    for head in heads:
        table.add_column(head, justify='left' if head == 'layer' else 'right')
    results = []
    for name, inputs, outputs, stride, subm in tqdm(LAYERS, desc='measure'):
        figures = measure(indices, batch, inputs, outputs, stride, subm)
        label = f'{name} {inputs}->{outputs}' + (f' stride {stride}' if stride > 1 else '')
        spconv, forward = figures['spconv'], figures['forward']
        arithmetic = figures['gflop'] / (forward - figures['rulebook']) * 1e3
        table.add_row(
            label,
            f'{figures["rulebook"]:.1f} ms',
            f'{forward:.1f} ms',
            f'{spconv:.1f} ms' if spconv else 'not installed',
            f'{spconv / forward:.1f}x' if spconv else '',
            f'{figures["backward"]:.1f} ms',
            f'{figures["backward"] / forward:.2f}',
            f'{arithmetic / peak:.0%}',
        )
        results.append(dict(layer=label, **figures))
    Console(width=112).print(table)  # also where the output is no terminal
    if args.json:
        args.json.write_text(
            json.dumps(dict(voxels=len(indices), peak=peak, layers=results), indent=1)
        )


if __name__ == '__main__':
    main()
