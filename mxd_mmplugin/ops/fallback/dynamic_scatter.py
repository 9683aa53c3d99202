"""Reduction of points by voxel in plain PyTorch, on any device: `unique`, then `index_add_` or `scatter_reduce_`."""

import torch

from .checks import check_float

LIBRARY = torch.library.Library('mxd', 'IMPL')


def plan(coors):
    """The voxels and their points; the layout is told in csrc/ops/dynamic_scatter.h."""
    if coors.dtype not in (torch.int32, torch.int64):
        raise TypeError(f'coors must be int32 or int64, was {coors.dtype}')
    if coors.dim() != 2 or coors.shape[1] < 1:
        raise ValueError(f'coors must have shape [points, dimensions], was {list(coors.shape)}')
    inside = (coors >= 0).all(1)
    voxel_coors, voxel, counts = torch.unique(
        coors[inside], dim=0, return_inverse=True, return_counts=True
    )
    point_voxel = voxel.new_full((len(coors),), -1)
    point_voxel[inside] = voxel
    ranks = inside.nonzero().squeeze(1)[voxel.argsort(stable=True)]
    intervals = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return voxel_coors, point_voxel.int(), ranks.int(), intervals


def forward(feats, ranks, intervals, reduce_type):
    """See `mxd_mmplugin.ops.dynamic_scatter`.

    Returns:
        tuple[Tensor, Tensor]: voxel_feats [M, C], and for 'max' the point of each, int32 [M, C],
        else without rows.
    """
    if reduce_type not in ('sum', 'mean', 'max'):
        raise ValueError(f"reduce_type must be 'sum', 'mean' or 'max', was '{reduce_type}'")
    check_float('feats', feats)
    if feats.dim() != 2:
        raise ValueError(f'feats must have shape [points, channels], was {list(feats.shape)}')
    if ranks.dtype != torch.int32:
        raise TypeError(f'ranks must be int32, was {ranks.dtype}')
    if intervals.dtype != torch.int64:
        raise TypeError(f'intervals must be int64, was {intervals.dtype}')
    counts = intervals.diff()
    voxels, channels = len(counts), feats.shape[1]
    voxel = torch.arange(voxels, device=feats.device).repeat_interleave(counts)
    rows = feats[ranks.long()]
    if reduce_type == 'max':
        out = feats.new_full((voxels, channels), -torch.inf)
        index = voxel[:, None].expand(-1, channels)
        # NaN never is the greatest.
        out.scatter_reduce_(0, index, rows.nan_to_num(-torch.inf, torch.inf, -torch.inf), 'amax')
        last = len(feats)
        points = torch.where(rows == out[voxel], ranks[:, None], last).int()
        argmax = points.new_full((voxels, channels), last).scatter_reduce_(0, index, points, 'amin')
        first = ranks[intervals[:-1]][:, None].expand(-1, channels)
        return out, torch.where(argmax == last, first, argmax)
    wide = feats.dtype if feats.dtype == torch.float64 else torch.float32
    out = torch.zeros(voxels, channels, dtype=wide, device=feats.device)
    out.index_add_(0, voxel, rows.to(wide))
    if reduce_type == 'mean':
        out = out / counts[:, None]
    return out.to(feats.dtype), ranks.new_empty(0, channels)


for _name, _function in (('dynamic_scatter_plan', plan), ('dynamic_scatter', forward)):
    LIBRARY.impl(_name, _function, 'CompositeExplicitAutograd')
