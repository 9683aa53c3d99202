"""Voxelization of a LiDAR sweep, beside mmcv's and spconv's CPU kernels."""

from collections.abc import Iterator, Sequence
from typing import Callable

import torch
from mmcv.ops import voxelization as mmcv_voxelization
from torch import Tensor

from ..ops import dynamic_voxelize, hard_voxelize
from ..packages import is_installed
from .case import Case
from .inputs import RANGE, VOXEL_SIZE, points

# Voxel size, range, points of a voxel and voxels: CenterPoint's in mmdet3d.
VOXELS = VOXEL_SIZE, RANGE, 10, 120_000
PILLARS = (0.2, 0.2, 8.0), (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), 10, 90_000


def sweep(wanted: int) -> Tensor:
    """`wanted` points: of one sweep at random, or of several that differ by a few centimetres."""
    generator = torch.Generator().manual_seed(0)
    one = points()
    if wanted <= len(one):
        return one[torch.randperm(len(one), generator=generator)[:wanted]]
    many = one.repeat(-(-wanted // len(one)), 1)[:wanted]
    many[:, :3] += torch.randn(wanted, 3, generator=generator) * 0.05
    return many


def _spconv(
    cloud: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> dict[str, Callable]:
    if not is_installed('spconv'):
        return {}
    from spconv.pytorch.utils import PointToVoxel

    layer = PointToVoxel(
        list(voxel_size), list(coors_range), cloud.shape[1], max_voxels, max_points
    )
    return {'spconv': lambda: layer(cloud)}


def _hard(name: str, cloud: Tensor, geometry: tuple) -> Case:
    found = hard_voxelize(cloud, *geometry)
    return Case(
        f'hard, {name}, {len(cloud)} points',
        'forward',
        lambda: hard_voxelize(cloud, *geometry),
        {'mmcv': lambda: mmcv_voxelization(cloud, *geometry), **_spconv(cloud, *geometry)},
        bytes=float(cloud.nbytes + sum(tensor.nbytes for tensor in found)),
        size=len(cloud),
    )


def _backward(name: str, cloud: Tensor, geometry: tuple) -> Case:
    leaf = cloud.clone().requires_grad_()
    voxels = hard_voxelize(leaf, *geometry).voxels
    grad = torch.randn_like(voxels)
    return Case(
        f'hard, {name}, {len(cloud)} points',
        'backward',
        lambda: torch.autograd.grad(voxels, leaf, grad, retain_graph=True),
        bytes=float(2 * cloud.nbytes),
        size=len(cloud),
    )


def _dynamic(name: str, cloud: Tensor, geometry: tuple) -> Case:
    return Case(
        f'dynamic, {name}, {len(cloud)} points',
        'forward',
        lambda: dynamic_voxelize(cloud, *geometry[:2]),
        {'mmcv': lambda: mmcv_voxelization(cloud, *geometry[:2], -1, -1)},
        bytes=float(cloud.nbytes + len(cloud) * 12),
        size=len(cloud),
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    if shapes == 'large':
        for wanted in (10_000, 100_000, 1_000_000):
            yield _hard('voxels of 0.075 m', sweep(wanted), (*VOXELS[:3], wanted))
        return
    cloud = sweep(5000) if shapes == 'small' else points()
    for name, geometry in (('voxels of 0.075 m', VOXELS), ('pillars of 0.2 m', PILLARS)):
        for case in (_hard, _backward, _dynamic):
            yield case(name, cloud, geometry)
