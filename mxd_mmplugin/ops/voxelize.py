"""Voxelization: which points are in which cell of a grid.

Points are [P, C], the first columns being x, y, z in metres. Along each dimension a point is in cell
`floor((p - low) / size)`, computed in float32 (in float64 where the points are), so that borders fall as in mmcv and in
spconv. The grid has `round((high - low) / size)` cells; points outside of it, and NaN, belong to no voxel. Voxels are
written z, y, x.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .sizes import whole
from .tracing import apply, is_compiling


class Voxels(NamedTuple):
    """What `hard_voxelize` finds: M voxels of P points.

    Attributes:
        voxels (Tensor): [M, max_points, C], the points of each voxel in their order, then zeros.
        coors (Tensor): int32 [M, ndim], z, y, x.
        num_points (Tensor): int32 [M], points in each voxel, `max_points` at most.
        point_voxel_id (Tensor): int64 [P], the voxel of each point, also of those beyond
            `max_points`; -1 where it has none.
    """

    voxels: Tensor
    coors: Tensor
    num_points: Tensor
    point_voxel_id: Tensor


class GatherFunction(Function):
    """Autograd of the points' way into the voxels: a copy, so that the gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, slots: Tensor) -> Tensor:
        """Gather the points that `slots` names."""
        ctx.save_for_backward(slots)
        ctx.num_points = points.shape[0]
        return torch.ops.mxd.voxelize_gather(points, slots, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """A point that is in no slot has no gradient."""
        (slots,) = ctx.saved_tensors
        return torch.ops.mxd.voxelize_gather_grad(grad, slots, ctx.num_points), None


def _floats(values: Sequence[float]) -> list:
    return [float(value) for value in values]


def dynamic_voxelize(
    points: Tensor, voxel_size: Sequence[float], coors_range: Sequence[float]
) -> Tensor:
    """The voxel of each point.

    Args:
        points (Tensor): [P, C], float32, float64, float16 or bfloat16 (the last two are converted
            to float32); the first columns are the coordinates, one for each of `voxel_size`.
        voxel_size (Sequence[float]): edges of a cell in x, y, z, in the unit of the points; 1 to 4
            dimensions.
        coors_range (Sequence[float]): least x, y, z and greatest x, y, z.

    Returns:
        Tensor: int32 [P, ndim], z, y, x, or -1 in every column for a point outside of the range.

    Raises:
        ValueError: shapes that do not match, a grid without cells; TypeError: another dtype.
    """
    return torch.ops.mxd.voxelize_dynamic(points, _floats(voxel_size), _floats(coors_range))


def hard_voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> Voxels:
    """Collect points by voxel, up to a number of points a voxel and a number of voxels.

    Voxels are in the order of their first points, and the points of a voxel in theirs; what is
    beyond a limit is dropped. Time and memory grow with the points, not with the grid.

    Args:
        points, voxel_size, coors_range: see `dynamic_voxelize`.
        max_points (int): points of a voxel, at least 1.
        max_voxels (int): voxels, at least 0.

    Returns:
        Voxels: `voxels` is differentiable once in `points`. The same from run to run.

    Raises:
        ValueError: shapes that do not match, a grid without cells, a limit out of its range;
        TypeError: another dtype.
    """
    return _hard(points, voxel_size, coors_range, max_points, max_voxels, with_ids=True)


def _hard(
    points: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    with_ids: bool,
) -> Voxels:
    coors, num_points, slots, point_voxel_id = torch.ops.mxd.voxelize_hard(
        points,
        _floats(voxel_size),
        _floats(coors_range),
        whole('max_points', max_points),
        whole('max_voxels', max_voxels),
        with_ids,
    )
    return Voxels(apply(GatherFunction, points, slots), coors, num_points, point_voxel_id)


def hard_voxelize_batch(
    points: Sequence[Tensor],
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`hard_voxelize` of all samples of a batch at once, the batch index being one dimension more.

    Args:
        points (Sequence[Tensor]): [P_i, C] a sample.
        voxel_size, coors_range: see `dynamic_voxelize`; at most 3 dimensions.
        max_points (int): points of a voxel, at least 1.
        max_voxels (int): voxels of a sample, at least 0.

    Returns:
        tuple[Tensor, Tensor, Tensor]: voxels [M, max_points, C], sample by sample in the order that
        `hard_voxelize` has; coors int32 [M, 1 + ndim], batch index, z, y, x; num_points int32 [M].
    """
    ndim, samples = len(voxel_size), len(points)
    rows = torch.cat(list(points))
    batch = [
        x.new_full((len(x), 1), i + 0.5) for i, x in enumerate(points)
    ]  # in the cells' middles
    coors, num_points, slots, _ = torch.ops.mxd.voxelize_hard(
        torch.cat([rows[:, :ndim], torch.cat(batch)], dim=1),
        [*_floats(voxel_size), 1.0],
        [*_floats(coors_range[:ndim]), 0.0, *_floats(coors_range[ndim:]), float(samples)],
        int(max_points),
        int(max_voxels) if samples == 1 else len(rows),  # each sample has its own limit, below
        False,
    )
    if samples > 1 and len(coors) > max_voxels:  # a sample may have too many
        index = torch.arange(samples, device=coors.device)
        counts = (coors[:, :1] == index).sum(0).tolist()
        if max(counts) > max_voxels:
            parts = (x.split(counts) for x in (coors, num_points, slots))
            coors, num_points, slots = (torch.cat([x[:max_voxels] for x in part]) for part in parts)
    return apply(GatherFunction, rows, slots), coors, num_points


def voxelization(
    points: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int = 35,
    max_voxels: int = 20000,
    deterministic: bool = True,
) -> Union[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """`mmcv.ops.voxelization`: hard, or dynamic where a limit is -1.

    Args:
        points, voxel_size, coors_range, max_points, max_voxels: see `hard_voxelize`.
        deterministic (bool): not used, the result always is.

    Returns:
        Tensor or tuple[Tensor, Tensor, Tensor]: with a limit of -1 what `dynamic_voxelize` returns,
        else voxels, coors and num_points of `hard_voxelize`.
    """
    if max_points == -1 or max_voxels == -1:
        return dynamic_voxelize(points, voxel_size, coors_range)
    found = _hard(points, voxel_size, coors_range, max_points, max_voxels, with_ids=False)
    return found.voxels, found.coors, found.num_points


def gather_features_by_pc_voxel_id(
    seg_res_features: Tensor, pc_voxel_id: Tensor, invalid_value: float = 0
) -> Tensor:
    """Take what was found for voxels back to the points: `spconv.pytorch.utils`' function.

    Args:
        seg_res_features (Tensor): [M, ...], of any dtype, a row for each voxel.
        pc_voxel_id (Tensor): integers [P], the voxel of each point or -1.
        invalid_value (float): stands in the rows of points that have no voxel.

    Returns:
        Tensor: [P, ...]. Differentiable in `seg_res_features`.

    Raises:
        TypeError: ids that are no integers; ValueError (on a CPU, elsewhere the device's own
        error): an id of M or more.
    """
    if pc_voxel_id.is_floating_point() or pc_voxel_id.dtype == torch.bool:
        raise TypeError(f'pc_voxel_id must hold integers, was {pc_voxel_id.dtype}')
    ids, voxels = pc_voxel_id.to(seg_res_features.device).long(), seg_res_features.shape[0]
    looked_at = ids.device.type == 'cpu' and not is_compiling()
    if looked_at and ids.numel() and ids.max() >= voxels:
        raise ValueError(
            f'pc_voxel_id must be below {voxels}, the rows of seg_res_features, had {ids.max()}'
        )
    # One row more before the others, for the points that have no voxel.
    rest = seg_res_features.new_full((1, *seg_res_features.shape[1:]), invalid_value)
    return torch.cat([rest, seg_res_features])[ids.clamp(min=-1) + 1]


if hasattr(torch.library, 'register_fake'):  # PyTorch 2.4: tracing with sizes that depend on data

    @torch.library.register_fake('mxd::voxelize_hard')
    def _hard_fake(
        points: Tensor,
        voxel_size: Sequence[float],
        coors_range: Sequence[float],
        max_points: int,
        max_voxels: int,
        with_ids: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        voxels = torch.library.get_ctx().new_dynamic_size()
        return (
            points.new_empty(voxels, len(voxel_size), dtype=torch.int32),
            points.new_empty(voxels, dtype=torch.int32),
            points.new_empty(voxels, max_points, dtype=torch.int32),
            points.new_empty(points.shape[0] if with_ids else 0, dtype=torch.int64),
        )
