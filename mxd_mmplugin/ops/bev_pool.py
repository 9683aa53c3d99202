"""BEV pooling: the sum of all points in each cell of a bird's-eye-view grid, as BEVFusion pools camera features
(Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation", arXiv 2205.13542).
"""

from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .sizes import whole
from .tracing import apply


@dataclass(frozen=True, eq=False)
class BEVPoolPlan:
    """Which points each cell sums; made by `bev_pool_plan`, good for any features of these points.

    Attributes:
        shape (tuple[int]): B, D, H, W.
        cells (Tensor): int32 [N], the row-major cell of each point, -1 outside of the grid.
        ranks (Tensor): int32 [N], the points in the order in which they are summed.
        intervals (Tensor): int64, where in `ranks` a tile of cells begins; the layout belongs to the
            device's kernels (csrc/ops/bev_pool.h).
    """

    shape: tuple[int, int, int, int]
    cells: Tensor
    ranks: Tensor
    intervals: Tensor


def bev_pool_plan(coords: Tensor, B: int, D: int, H: int, W: int) -> BEVPoolPlan:
    """Sort points by cell, once for all features that are pooled at the same places.

    Args:
        coords (Tensor): int32 or int64 [N, 4], a point's place along H, W and D and its batch index.
            A point outside of the grid or the batch is in no cell.
        B, D, H, W (int): the grid.

    Returns:
        BEVPoolPlan: see there.

    Raises:
        ValueError: a shape or a size out of its range; TypeError: another dtype.
    """
    shape = whole('B', B), whole('D', D), whole('H', H), whole('W', W)
    return BEVPoolPlan(shape, *torch.ops.mxd.bev_pool_plan(coords, *shape))


class BEVPoolFunction(Function):
    """Autograd of `bev_pool`; the output is [B, D, H, W, C]."""

    @staticmethod
    def forward(
        ctx: Any,
        feats: Tensor,
        cells: Tensor,
        ranks: Tensor,
        intervals: Tensor,
        B: int,
        D: int,
        H: int,
        W: int,
    ) -> Tensor:
        """Sum the points of each cell."""
        ctx.save_for_backward(cells)
        return torch.ops.mxd.bev_pool(feats, cells, ranks, intervals, B, D, H, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Each point has the gradient of its cell."""
        (cells,) = ctx.saved_tensors
        grad_feats = torch.ops.mxd.bev_pool_grad(grad.flatten(0, 3), cells)
        return grad_feats, None, None, None, None, None, None, None


def bev_pool(
    feats: Tensor,
    coords: Union[Tensor, BEVPoolPlan],
    B: Optional[int] = None,
    D: Optional[int] = None,
    H: Optional[int] = None,
    W: Optional[int] = None,
) -> Tensor:
    """Sum the features of the points in each cell.

    Args:
        feats (Tensor): [N, C], float32, float64, float16 or bfloat16 (the last two are summed in
            float32). Autocast leaves them as they are.
        coords (Tensor or BEVPoolPlan): the points' places, see `bev_pool_plan`, or the plan of them;
            with a plan B, D, H and W are its own.
        B, D, H, W (int): the grid.

    Returns:
        Tensor: [B, C, D, H, W], zero where no point is, with the channels last in memory.
        Differentiable once in feats; bit-identical from run to run on the CPU, as a cell is summed
        in the order of its points.

    Raises:
        ValueError: shapes that do not match; TypeError: dtypes that do not.
    """
    if isinstance(coords, BEVPoolPlan):
        plan = coords
        if (B, D, H, W) not in (plan.shape, (None,) * 4):
            raise ValueError(
                f'B, D, H, W must be those of the plan, {plan.shape}, were {B, D, H, W}'
            )
    elif B is None or D is None or H is None or W is None:
        raise ValueError(f'B, D, H and W must be given with coords, were {B}, {D}, {H}, {W}')
    else:
        plan = bev_pool_plan(coords, B, D, H, W)
    out = apply(BEVPoolFunction, feats, plan.cells, plan.ranks, plan.intervals, *plan.shape)
    return out.permute(0, 4, 1, 2, 3)


def npu_bev_pool(feat: Tensor, geom_feat: Tensor, B: int, D: int, H: int, W: int) -> Tensor:
    """`bev_pool` with the argument names of `mx_driving.bev_pool`."""
    return bev_pool(feat, geom_feat, B, D, H, W)
