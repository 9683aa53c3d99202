"""Reduction of points by voxel in plain PyTorch, on any device: `unique`, then `index_add_` or `scatter_reduce_`."""

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form


@plain_form('dynamic_scatter_plan')
def plan(coors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The voxels and their points; the layout is told in csrc/ops/dynamic_scatter.h."""
    inside = (coors >= 0).all(1)
    voxel_coors, voxel, counts = torch.unique(
        coors[inside], dim=0, return_inverse=True, return_counts=True
    )
    point_voxel = voxel.new_full((len(coors),), -1)
    point_voxel[inside] = voxel
    ranks = inside.nonzero().squeeze(1)[voxel.argsort(stable=True)]
    intervals = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return voxel_coors, point_voxel.int(), ranks.int(), intervals


@plain_form('dynamic_scatter')
def forward(
    feats: Tensor, ranks: Tensor, intervals: Tensor, reduce_type: str
) -> tuple[Tensor, Tensor]:
    """See `mxd_mmplugin.ops.dynamic_scatter`.

    Returns:
        tuple[Tensor, Tensor]: voxel_feats [M, C], and for 'max' the point of each, int32 [M, C],
        else without rows.
    """
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
    wide = compute_dtype(feats.dtype)
    out = torch.zeros(voxels, channels, dtype=wide, device=feats.device)
    out.index_add_(0, voxel, rows.to(wide))
    if reduce_type == 'mean':
        out = out / counts[:, None]
    return out.to(feats.dtype), ranks.new_empty(0, channels)
