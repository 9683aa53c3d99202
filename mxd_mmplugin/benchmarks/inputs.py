"""What to measure on: LiDAR points and voxels, of a recorded frame where there is one, and cameras."""

import math
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# CenterPoint's 0.075 m grid in mmdet3d: x, y, z.
VOXEL_SIZE, RANGE = (0.075, 0.075, 0.2), (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
GRID = [41, 1440, 1440]  # z, y, x; SparseEncoder has one cell more in z


def frame() -> Path:
    """A sweep in nuScenes' format: `MXD_FRAME`, the recorded one of the tests, or a generated one."""
    if 'MXD_FRAME' in os.environ:
        return Path(os.environ['MXD_FRAME'])
    root = Path(__file__).parents[2]
    real = Path(os.environ.get('MXD_REAL_DATA', root.parent / 'shared' / 'real'))
    generated = root / 'data' / 'nuscenes-generated' / 'samples' / 'LIDAR_TOP'
    found = [*real.glob('nuscenes/*LIDAR_TOP*.bin'), *sorted(generated.glob('*.bin'))]
    if not found:
        raise SystemExit('no LiDAR sweep found: set MXD_FRAME to one, or run `make data`')
    return found[0]


@lru_cache(maxsize=1)
def points() -> Tensor:
    """The sweep, float32 [P, 5]: x, y, z in metres, intensity, ring."""
    return torch.from_numpy(np.fromfile(frame(), np.float32).reshape(-1, 5))


@lru_cache(maxsize=1)
def _cells() -> Tensor:
    xyz, low, high = points()[:, :3], torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    xyz = xyz[((xyz >= low) & (xyz < high)).all(1)]
    cells = ((xyz - low) / torch.tensor(VOXEL_SIZE)).int().flip(1).unique(dim=0)
    return cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))]


def voxels(wanted: int) -> tuple[Tensor, int]:
    """About `wanted` occupied voxels of the sweep, as a batch that repeats it.

    Args:
        wanted (int): fewer than one sweep has are taken from it at random.

    Returns:
        tuple[Tensor, int]: indices int32 [N, 4] (batch, z, y, x), in random order as a shuffled
        sweep gives them, and the batch size. The grid is `GRID`.
    """
    cells = _cells()
    if wanted < len(cells):
        cells = cells[:wanted]
    batch = max(1, round(wanted / len(cells)))
    rows = [
        torch.cat([torch.full((len(cells), 1), b, dtype=torch.int32), cells], 1)
        for b in range(batch)
    ]
    return torch.cat(rows), batch


def cameras(count: int, image: tuple) -> tuple:
    """Intrinsics and camera2lidar, [1, N, 4, 4], of cameras around a car, whose images are height, width pixels."""
    height, width = image
    eyes = torch.eye(4).repeat(1, count, 1, 1)
    intrinsics, camera2lidar = eyes.clone(), eyes.clone()
    intrinsics[..., :2, :3] = torch.tensor(
        [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2]]
    )
    # Turned and moved a little, so that no row of pixels looks along a border of the cells.
    heading = torch.arange(count) * (2 * math.pi / count) + 0.1
    camera2lidar[..., :3, 3] = torch.tensor([0.37, 0.21, 1.6])
    cos, sin, zero = heading.cos(), heading.sin(), torch.zeros(count)
    right = torch.stack([sin, -cos, zero], -1)
    down, forward = torch.tensor([0.0, 0, -1]).expand(count, 3), torch.stack([cos, sin, zero], -1)
    camera2lidar[0, :, :3, :3] = torch.stack([right, down, forward], -1)
    return intrinsics, camera2lidar
