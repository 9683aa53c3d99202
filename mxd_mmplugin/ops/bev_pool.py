"""BEV pooling: the sum of all points in each cell of a bird's-eye-view grid, as BEVFusion pools camera features
(Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation", arXiv 2205.13542).

The fused form takes the points' features as the product of a depth distribution and of the pixels' features, which is
never written (Huang and Huang, "BEVPoolv2: A Cutting-edge Implementation of BEVDet Toward Deployment", arXiv
2211.17111).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .sizes import whole, wholes
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


class BEVPoolFusedFunction(Function):
    """Autograd of `bev_pool_fused`; the output is [B, D, H, W, C]."""

    @staticmethod
    def forward(
        ctx: Any,
        depth: Tensor,
        context: Tensor,
        cells: Tensor,
        ranks: Tensor,
        intervals: Tensor,
        B: int,
        D: int,
        H: int,
        W: int,
    ) -> Tensor:
        """Sum depth times context in each cell."""
        ctx.save_for_backward(depth, context, cells)
        return torch.ops.mxd.bev_pool_fused(depth, context, cells, ranks, intervals, B, D, H, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Each point has the gradient of its cell, times the other factor."""
        depth, context, cells = ctx.saved_tensors
        grads = torch.ops.mxd.bev_pool_fused_grad(grad.flatten(0, 3), depth, context, cells)
        return (*grads, None, None, None, None, None, None, None)


def bev_pool_fused(depth: Tensor, context: Tensor, plan: BEVPoolPlan) -> Tensor:
    """`bev_pool` of depth times context, with no tensor of the points' features.

    The points are the elements of `depth`, in this order. It gives what `bev_pool((depth[..., None] *
    context[:, None]).flatten(0, -2), plan)` gives. On an NPU it is fastest where neighbours in memory along the last
    axis of `depth` mostly fall into the same cell, as the pixels of an image's column do.

    Args:
        depth (Tensor): [N, D, ...], the weight of each of D depths for each pixel of N images; float32,
            float64, float16 or bfloat16 (products and sums of the last two are in float32).
        context (Tensor): [N, ..., C], features of the pixels, of the same dtype.
        plan (BEVPoolPlan): of the depth.numel() points, see `bev_pool_plan`. A point that is in no cell
            counts nowhere, whatever its numbers are; in a cell 0 times NaN is NaN, as in the product.

    Returns:
        Tensor: [B, C, D, H, W] of the plan's grid, with the channels last in memory. Differentiable once
        in depth and context; bit-identical from run to run.

    Raises:
        ValueError: shapes that do not match; TypeError: dtypes that do not.
    """
    if depth.dim() < 2 or context.dim() != depth.dim() or context.shape[1:-1] != depth.shape[2:]:
        raise ValueError(
            'depth must have shape [images, depths, ...] and context [images, ..., channels], '
            f'were {tuple(depth.shape)} and {tuple(context.shape)}'
        )
    # Without -1, which is ambiguous where there are no images.
    pixels = math.prod(depth.shape[2:])
    out = apply(
        BEVPoolFusedFunction,
        depth.reshape(*depth.shape[:2], pixels),
        context.reshape(len(context), pixels, context.shape[-1]),
        plan.cells,
        plan.ranks,
        plan.intervals,
        *plan.shape,
    )
    return out.permute(0, 4, 1, 2, 3)


def _coords(cells: Tensor, D: int, H: int, W: int) -> Tensor:
    """The places of cells, as `bev_pool_plan` takes them; cell -1 is outside of every grid."""
    plane = cells // (H * W)
    return torch.stack([cells // W % H, cells % W, plane % D, plane // D], dim=1)


def _checked_ranks(*lists: tuple[str, Tensor, int]) -> list[Tensor]:
    """Lists of one length, each with its name and the limit of its numbers, as int64."""
    count = lists[0][1].shape[:1]
    for name, ranks, _ in lists:
        if ranks.dtype not in (torch.int32, torch.int64):
            raise TypeError(f'{name} must be int32 or int64, was {ranks.dtype}')
        if ranks.dim() != 1 or ranks.shape != count:
            raise ValueError(
                f'{name} must have the shape of ranks_depth, [entries], was {[*ranks.shape]}'
            )
    for name, ranks, limit in lists:
        if len(ranks) and not ((ranks >= 0) & (ranks < limit)).all():
            raise ValueError(f'{name} must be at least 0 and below {limit}, and some are not')
    return [ranks.long() for _, ranks, _ in lists]


def bev_pool_v2(
    depth: Tensor,
    feat: Tensor,
    ranks_depth: Tensor,
    ranks_feat: Tensor,
    ranks_bev: Tensor,
    bev_feat_shape: Sequence[int],
    interval_starts: Optional[Tensor] = None,
    interval_lengths: Optional[Tensor] = None,
) -> Tensor:
    """`bev_pool_fused` with the arguments of `mx_driving.bev_pool_v2` and of BEVDet.

    It makes a plan in each call and waits for an NPU, to see what the lists hold: `bev_pool_plan`, once, and
    `bev_pool_fused` are faster.

    Args:
        depth (Tensor): [B, N, D, fH, fW].
        feat (Tensor): [B, N, fH, fW, C], of the same dtype.
        ranks_depth, ranks_feat, ranks_bev (Tensor): int32 or int64 [entries]; entry i adds element
            ranks_depth[i] of depth times row ranks_feat[i] of feat to cell ranks_bev[i] of the grid. The
            features are not written where the lists are as BEVDet makes them: no element of depth twice,
            and each with the row of its pixel. With other lists they are.
        bev_feat_shape (Sequence[int]): B, D, H, W, C of the grid.
        interval_starts, interval_lengths (Tensor): not used: ranks_bev says the same.

    Returns:
        Tensor: [B, C, D, H, W].

    Raises:
        ValueError: shapes that do not match, or numbers out of range; TypeError: dtypes that do not.
    """
    if depth.dim() != 5 or feat.dim() != 5 or feat.shape[:4] != depth.shape[:2] + depth.shape[3:]:
        raise ValueError(
            'depth must have shape [B, N, D, fH, fW] and feat [B, N, fH, fW, C], '
            f'were {tuple(depth.shape)} and {tuple(feat.shape)}'
        )
    sizes = wholes('bev_feat_shape', bev_feat_shape)
    if len(sizes) != 5:
        raise ValueError(f'bev_feat_shape must have 5 numbers, had {len(sizes)}')
    B, D, H, W, channels = sizes
    if channels != feat.shape[-1]:
        raise ValueError(f'bev_feat_shape must end with {feat.shape[-1]}, was {channels}')
    numbers = _checked_ranks(
        ('ranks_depth', ranks_depth, depth.numel()),
        ('ranks_feat', ranks_feat, feat.numel() // max(channels, 1)),
        ('ranks_bev', ranks_bev, B * D * H * W),
    )
    of_depth, of_feat, of_bev = numbers
    cells = torch.full((depth.numel(),), -1, dtype=torch.int32, device=depth.device)
    cells[of_depth] = of_bev.int()
    depths, pixels = depth.shape[2], depth.shape[3] * depth.shape[4]
    row = of_depth // (depths * pixels) * pixels + of_depth % pixels if len(of_depth) else of_depth
    if (row == of_feat).all() and (cells >= 0).sum() == len(of_depth):
        plan = bev_pool_plan(_coords(cells, D, H, W), B, D, H, W)
        return bev_pool_fused(depth.flatten(0, 1), feat.flatten(0, 1), plan)
    feats = depth.flatten()[of_depth].unsqueeze(-1) * feat.flatten(0, 3)[of_feat]
    return bev_pool(feats, _coords(of_bev, D, H, W), B, D, H, W)
