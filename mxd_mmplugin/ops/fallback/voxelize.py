"""Voxelization in plain PyTorch, on any device: `unique` over the cells and stable sorts."""

import math

import torch
from torch import Tensor

from .checks import check_float

LIBRARY = torch.library.Library('mxd', 'IMPL')


def _float32(values) -> list:
    return torch.tensor(values, dtype=torch.float32).tolist()


def _grid(voxel_size, coors_range) -> list:
    """Cells in x, y, z, rounded half away from zero."""
    ndim = len(voxel_size)
    if not 1 <= ndim <= 4:
        raise ValueError(f'voxel_size must have 1 to 4 numbers, was {voxel_size}')
    if len(coors_range) != 2 * ndim:
        raise ValueError(
            f'coors_range must have {2 * ndim} numbers, the least and then the greatest '
            f'coordinates, was {coors_range}'
        )
    sizes = _float32(voxel_size)
    if not all(size > 0 and math.isfinite(size) for size in sizes):
        raise ValueError(f'voxel_size must be above 0 in every dimension, was {voxel_size}')
    limits = torch.tensor(coors_range, dtype=torch.float32)
    extent = ((limits[ndim:] - limits[:ndim]) / torch.tensor(sizes)).double()
    cells = (extent + 0.5).floor()
    if not ((cells >= 1) & (cells < 2**31 - 1)).all():
        raise ValueError(
            f'coors_range must hold 1 to 2**31 - 1 cells of voxel_size {voxel_size} in every '
            f'dimension, was {coors_range}'
        )
    cells = [int(n) for n in cells]
    if math.prod(cells) >= 2**63:
        raise ValueError(
            f'coors_range must hold fewer than 2**63 cells of voxel_size {voxel_size}, was '
            f'{coors_range}'
        )
    return cells


def _check_points(points: Tensor, ndim: int) -> None:
    check_float('points', points)
    if points.dim() != 2 or points.shape[1] < ndim:
        raise ValueError(
            f'points must have shape [points, {ndim} or more], was {list(points.shape)}'
        )


def _check_slots(slots: Tensor, num_points: int) -> None:
    if slots.dtype != torch.int32:
        raise TypeError(f'slots must be int32, was {slots.dtype}')
    if slots.dim() != 2:
        raise ValueError(f'slots must have shape [voxels, max_points], was {list(slots.shape)}')
    if ((slots < -1) | (slots >= num_points)).any():
        raise ValueError(f'slots must be at least -1 and below {num_points}, and some are not')


def _cells(points: Tensor, voxel_size, coors_range, grid: list):
    """Cell of each point, int64 [P, ndim] in x, y, z, and whether it is inside the grid."""
    ndim = len(grid)
    coordinates = points[:, :ndim]
    if points.dtype != torch.float64:
        coordinates = coordinates.float()
    low, size = (coordinates.new_tensor(_float32(v)) for v in (coors_range[:ndim], voxel_size))
    cells = (coordinates - low) / size
    inside = ((cells >= 0) & (cells < cells.new_tensor(grid))).all(1)
    return torch.where(inside[:, None], cells, 0).long(), inside


def dynamic(points, voxel_size, coors_range):
    """See `mxd_mmplugin.ops.dynamic_voxelize`."""
    grid = _grid(voxel_size, coors_range)
    _check_points(points, len(grid))
    cells, inside = _cells(points, voxel_size, coors_range, grid)
    return torch.where(inside[:, None], cells.flip(1), -1).int()


def hard(points, voxel_size, coors_range, max_points, max_voxels):
    """See `mxd_mmplugin.ops.hard_voxelize`.

    Returns:
        tuple[Tensor, ...]: coors int32 [M, ndim], num_points int32 [M], slots int32
        [M, max_points] (the point in each slot, or -1) and point_voxel_id int64 [P].
    """
    grid = _grid(voxel_size, coors_range)
    _check_points(points, len(grid))
    if max_points < 1:
        raise ValueError(f'max_points must be at least 1, was {max_points}')
    if max_voxels < 0:
        raise ValueError(f'max_voxels must be at least 0, was {max_voxels}')
    cells, inside = _cells(points, voxel_size, coors_range, grid)
    rows = inside.nonzero().squeeze(1)  # of the points inside
    cells = cells[rows]
    key = cells.new_zeros(len(cells))
    for column, size in zip(reversed(cells.unbind(1)), reversed(grid)):
        key = key * size + column
    _, group, size = torch.unique(key, return_inverse=True, return_counts=True)
    # By voxel, and by number within a voxel.
    order = torch.argsort(group, stable=True)
    start = size.cumsum(0) - size
    leaders = order[start].sort()
    voxel = torch.empty_like(group)  # of each group
    voxel = leaders.indices.new_empty(len(size)).index_put(
        (leaders.indices,), torch.arange(len(size), device=points.device)
    )
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(order), device=points.device) - start[group[order]]
    voxels = min(len(size), max_voxels)
    coors = cells[leaders.values[:voxels]].flip(1).int()
    num_points = size[leaders.indices[:voxels]].clamp(max=max_points).int()
    point_voxel = voxel[group]
    point_voxel_id = rows.new_full((len(points),), -1)
    point_voxel_id[rows] = torch.where(point_voxel < voxels, point_voxel, -1)
    kept = (point_voxel < voxels) & (rank < max_points)
    slots = rows.new_full((voxels, max_points), -1, dtype=torch.int32)
    slots[point_voxel[kept], rank[kept]] = rows[kept].int()
    return coors, num_points, slots, point_voxel_id


def gather(points, slots, empty_mean):
    """The points in the slots, [M, max_points, C]; in empty slots zeros, or the voxel's mean."""
    check_float('points', points)
    if points.dim() != 2:
        raise ValueError(f'points must have shape [points, channels], was {list(points.shape)}')
    _check_slots(slots, len(points))
    filled = (slots >= 0)[..., None]
    if not len(points):
        return points.new_zeros(*slots.shape, points.shape[1])
    voxels = torch.where(filled, points[slots.clamp(min=0).long()], 0)
    if empty_mean:
        wide = voxels if voxels.dtype == torch.float64 else voxels.float()
        mean = wide.sum(1, keepdim=True) / filled.sum(1, keepdim=True).clamp(min=1)
        voxels = torch.where(filled, voxels, mean.to(voxels.dtype))
    return voxels


def gather_grad(grad, slots, num_points):
    """Gradient of `gather` in the points, [num_points, C]."""
    check_float('grad', grad)
    if num_points < 0:
        raise ValueError(f'num_points must be at least 0, was {num_points}')
    _check_slots(slots, num_points)
    if grad.dim() != 3 or grad.shape[:2] != slots.shape:
        raise ValueError(
            f'grad must have shape [{slots.shape[0]}, {slots.shape[1]}, channels], was '
            f'{list(grad.shape)}'
        )
    out = grad.new_zeros(num_points, grad.shape[2])
    filled = slots >= 0
    out[slots[filled].long()] = grad[filled]
    return out


for _name, _function in (
    ('voxelize_dynamic', dynamic),
    ('voxelize_hard', hard),
    ('voxelize_gather', gather),
    ('voxelize_gather_grad', gather_grad),
):
    LIBRARY.impl(_name, _function, 'CompositeExplicitAutograd')
