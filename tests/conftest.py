"""Fixtures that several test files use."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get('MXD_REAL_DATA', ROOT.parent / 'shared' / 'real'))


@pytest.fixture(scope='session')
def real_nuscenes() -> Path:
    """Folder with one recorded nuScenes key frame; skips where it is absent."""
    folder = REAL_DATA / 'nuscenes'
    if not folder.is_dir():
        pytest.skip(f'no real recording at {folder} (set MXD_REAL_DATA)')
    return folder


@pytest.fixture(scope='session')
def real_points(real_nuscenes) -> torch.Tensor:
    """The LiDAR sweep of the real frame, float32 [34688, 5]: x, y, z, intensity, ring."""
    return torch.from_numpy(
        np.fromfile(next(real_nuscenes.glob('*LIDAR_TOP*.bin')), np.float32).reshape(-1, 5)
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
