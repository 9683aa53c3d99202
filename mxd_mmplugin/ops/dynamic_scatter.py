"""Reduction of points by voxel, as the voxel encoders after a dynamic voxelization need it."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .tracing import apply


class DynamicScatterFunction(Function):
    """Autograd of `dynamic_scatter` over a plan of the points."""

    @staticmethod
    def forward(
        ctx: Any,
        feats: Tensor,
        point_voxel: Tensor,
        ranks: Tensor,
        intervals: Tensor,
        reduce_type: str,
    ) -> Tensor:
        """Reduce the points of each voxel."""
        out, argmax = torch.ops.mxd.dynamic_scatter(feats, ranks, intervals, reduce_type)
        ctx.save_for_backward(point_voxel, intervals, argmax)
        ctx.reduce_type = reduce_type
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """A maximum's gradient goes to the point it comes from, any other to all points."""
        point_voxel, intervals, argmax = ctx.saved_tensors
        if ctx.reduce_type == 'max':
            grad_feats = grad.new_zeros(point_voxel.shape[0], grad.shape[1])
            grad_feats.scatter_(0, argmax.long(), grad)
        else:
            if ctx.reduce_type == 'mean':
                grad = grad / intervals.diff()[:, None]
            grad_feats = torch.ops.mxd.bev_pool_grad(grad, point_voxel)
        return grad_feats, None, None, None, None


def dynamic_scatter(
    feats: Tensor, coors: Tensor, reduce_type: str = 'max'
) -> tuple[Tensor, Tensor]:
    """Reduce the points of each voxel: `mmcv.ops.dynamic_scatter`, which has no CPU kernel.

    Args:
        feats (Tensor): [N, C], float32, float64, float16 or bfloat16 (the last two are summed in
            float32). Autocast leaves them as they are.
        coors (Tensor): int32 or int64 [N, ndim], the voxel of each point. A point with a negative
            coordinate has none.
        reduce_type (str): 'max', 'mean' or 'sum'.

    Returns:
        tuple[Tensor, Tensor]: voxel_feats [M, C] and voxel_coors [M, ndim], the dtype of coors, the
        voxels that have points in ascending order. Differentiable once in feats; of equal maxima the
        first point has the gradient. The same from run to run on the CPU.

    Raises:
        ValueError: shapes that do not match, another reduce_type; TypeError: another dtype.
    """
    if feats.shape[:1] != coors.shape[:1]:
        raise ValueError(
            f'feats must have a row for each of the {coors.shape[0]} coors, was {list(feats.shape)}'
        )
    voxel_coors, *plan = torch.ops.mxd.dynamic_scatter_plan(coors)
    return apply(DynamicScatterFunction, feats, *plan, reduce_type), voxel_coors


npu_dynamic_scatter = dynamic_scatter  # mx_driving's name of it


if hasattr(torch.library, 'register_fake'):  # PyTorch 2.4: tracing with sizes that depend on data

    @torch.library.register_fake('mxd::dynamic_scatter_plan')
    def _plan_fake(coors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sizes = torch.library.get_ctx()
        voxels = sizes.new_dynamic_size()
        return (
            coors.new_empty(voxels, coors.shape[1]),
            coors.new_empty(coors.shape[0], dtype=torch.int32),
            coors.new_empty(sizes.new_dynamic_size(), dtype=torch.int32),
            coors.new_empty(voxels + 1, dtype=torch.int64),
        )
