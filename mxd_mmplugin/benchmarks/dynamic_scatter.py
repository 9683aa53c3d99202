"""Reduction of a LiDAR sweep by voxel, beside PyTorch's own operations: mmcv has no CPU kernel."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import dynamic_scatter, dynamic_voxelize
from .case import Case
from .voxelize import PILLARS, sweep

CHANNELS = 64  # of the first layer of mmdet3d's dynamic voxel encoder


def unique_and_reduce(feats: Tensor, coors: Tensor, reduce_type: str) -> tuple[Tensor, Tensor]:
    """The same by `unique` and `index_reduce_`."""
    inside = (coors >= 0).all(1)
    voxels, index = torch.unique(coors[inside], dim=0, return_inverse=True)
    out = feats.new_zeros(len(voxels), feats.shape[1])
    return out.index_reduce_(0, index, feats[inside], reduce_type, include_self=False), voxels


def _reduce(wanted: int) -> Iterator[Case]:
    cloud = sweep(wanted)
    coors = dynamic_voxelize(cloud, *PILLARS[:2])
    feats = torch.randn(len(cloud), CHANNELS)
    leaf = feats.clone().requires_grad_()
    for ours, theirs in (('max', 'amax'), ('mean', 'mean')):
        name = f'{ours}, {CHANNELS} channels, {len(cloud)} points'
        out, _ = dynamic_scatter(leaf, coors, ours)
        grad = torch.randn_like(out)
        moved = feats.nbytes + out.nbytes
        yield Case(
            name,
            'forward',
            lambda ours=ours: dynamic_scatter(feats, coors, ours),
            {'unique, index_reduce': lambda theirs=theirs: unique_and_reduce(feats, coors, theirs)},
            bytes=coors.nbytes + moved,
            size=len(cloud),
        )
        yield Case(
            name,
            'backward',
            lambda out=out, grad=grad: torch.autograd.grad(out, leaf, grad, retain_graph=True),
            bytes=moved,
            size=len(cloud),
        )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    sizes = {'small': (5000,), 'model': (34_688,), 'large': (10_000, 100_000, 1_000_000)}
    for wanted in sizes[shapes]:
        yield from _reduce(wanted)
