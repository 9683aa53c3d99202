"""Voxelization in plain PyTorch, on any device: `unique` over the cells and stable sorts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form


def _float32(values: Sequence[float]) -> list[float]:
    return torch.tensor(values, dtype=torch.float32).tolist()


def _grid(voxel_size: Sequence[float], coors_range: Sequence[float]) -> list[int]:
    """Cells in x, y, z, rounded half away from zero."""
    ndim = len(voxel_size)
    limits = torch.tensor(coors_range, dtype=torch.float32)
    sizes = torch.tensor(voxel_size, dtype=torch.float32)
    extent = ((limits[ndim:] - limits[:ndim]) / sizes).double()
    return [int(n) for n in (extent + 0.5).floor()]


def _check_slots(slots: Tensor, num_points: int) -> None:
    """What the C++ check cannot see: the data."""
    if ((slots < -1) | (slots >= num_points)).any():
        raise ValueError(f'slots must be at least -1 and below {num_points}, and some are not')


def _cells(
    points: Tensor, voxel_size: Sequence[float], coors_range: Sequence[float], grid: list[int]
) -> tuple[Tensor, Tensor]:
    """Cell of each point, int64 [P, ndim] in x, y, z, and whether it is inside the grid."""
    ndim = len(grid)
    coordinates = points[:, :ndim].to(compute_dtype(points.dtype))
    low, size = (coordinates.new_tensor(_float32(v)) for v in (coors_range[:ndim], voxel_size))
    cells = (coordinates - low) / size
    inside = ((cells >= 0) & (cells < cells.new_tensor(grid))).all(1)
    return torch.where(inside[:, None], cells, 0).long(), inside


@plain_form('voxelize_dynamic')
def dynamic(points: Tensor, voxel_size: Sequence[float], coors_range: Sequence[float]) -> Tensor:
    """See `mxd_mmplugin.ops.dynamic_voxelize`."""
    grid = _grid(voxel_size, coors_range)
    cells, inside = _cells(points, voxel_size, coors_range, grid)
    return torch.where(inside[:, None], cells.flip(1), -1).int()


@plain_form('voxelize_hard')
def hard(
    points: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    with_ids: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `mxd_mmplugin.ops.hard_voxelize`.

    Returns:
        tuple[Tensor, ...]: coors int32 [M, ndim], num_points int32 [M], slots int32
        [M, max_points] (the point in each slot, or -1) and point_voxel_id int64 [P], or [0] without ids.
    """
    grid = _grid(voxel_size, coors_range)
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
    return coors, num_points, slots, point_voxel_id if with_ids else point_voxel_id[:0]


@plain_form('voxelize_gather')
def gather(points: Tensor, slots: Tensor, empty_mean: bool) -> Tensor:
    """The points in the slots, [M, max_points, C]; in empty slots zeros, or the voxel's mean."""
    _check_slots(slots, len(points))
    filled = (slots >= 0)[..., None]
    if not len(points):
        return points.new_zeros(*slots.shape, points.shape[1])
    voxels = torch.where(filled, points[slots.clamp(min=0).long()], 0)
    if empty_mean:
        wide = voxels.to(compute_dtype(voxels.dtype))
        mean = wide.sum(1, keepdim=True) / filled.sum(1, keepdim=True).clamp(min=1)
        voxels = torch.where(filled, voxels, mean.to(voxels.dtype))
    return voxels


@plain_form('voxelize_gather_grad')
def gather_grad(grad: Tensor, slots: Tensor, num_points: int) -> Tensor:
    """Gradient of `gather` in the points, [num_points, C]."""
    _check_slots(slots, num_points)
    out = grad.new_zeros(num_points, grad.shape[2])
    filled = slots >= 0
    out[slots[filled].long()] = grad[filled]
    return out
