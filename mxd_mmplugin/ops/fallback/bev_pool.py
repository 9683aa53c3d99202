"""BEV pooling in plain PyTorch, on any device: `index_add_` and its way back.

The plan has the layout that csrc/ops/bev_pool.h describes.
"""

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form

TILE = 16


def _tiles(cells: int) -> int:
    return (cells + TILE - 1) // TILE


@plain_form('bev_pool_plan')
def plan(coords: Tensor, B: int, D: int, H: int, W: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `mxd_mmplugin.ops.bev_pool_plan`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: cells int32 [N], ranks int32 [N], intervals int64 [tiles + 1].
    """
    inside = ((coords >= 0) & (coords < coords.new_tensor([H, W, D, B]))).all(1)
    h, w, d, b = coords.long().unbind(1)
    plane = b * D + d
    cells = torch.where(inside, (plane * H + h) * W + w, -1).int()
    tiles = B * D * _tiles(H) * _tiles(W)
    tile = (plane * _tiles(H) + h // TILE) * _tiles(W) + w // TILE
    tile, ranks = torch.where(inside, tile, tiles).sort(stable=True)
    intervals = torch.searchsorted(tile, torch.arange(tiles + 1, device=coords.device))
    return cells, ranks.int(), intervals


@plain_form('bev_pool')
def forward(
    feats: Tensor, cells: Tensor, ranks: Tensor, intervals: Tensor, B: int, D: int, H: int, W: int
) -> Tensor:
    """See `mxd_mmplugin.ops.bev_pool`; the output is [B, D, H, W, C]."""
    wide = compute_dtype(feats.dtype)
    rows = (cells >= 0).nonzero().squeeze(1)
    out = torch.zeros(B * D * H * W, feats.shape[1], dtype=wide, device=feats.device)
    out.index_add_(0, cells[rows].long(), feats[rows].to(wide))
    return out.to(feats.dtype).view(B, D, H, W, feats.shape[1])


@plain_form('bev_pool_grad')
def grad(grad: Tensor, cells: Tensor) -> Tensor:
    """Gradient of the features, [N, C], from that of the cells, [B * D * H * W, C]."""
    return _point_grad(grad, cells)


def _point_grad(grad: Tensor, cells: Tensor) -> Tensor:
    if not len(grad):
        return grad.new_zeros(len(cells), grad.shape[1])
    return torch.where((cells >= 0)[:, None], grad[cells.clamp(min=0).long()], 0)


def _lift(depth: Tensor, context: Tensor) -> Tensor:
    """The features of the points, [images * depths * pixels, C], in the wide dtype."""
    wide = compute_dtype(depth.dtype)
    return (depth.to(wide).unsqueeze(-1) * context.to(wide).unsqueeze(1)).flatten(0, 2)


@plain_form('bev_pool_fused')
def fused(
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
    """See `mxd_mmplugin.ops.bev_pool_fused`; depth [images, depths, pixels], context [images, pixels, C].

    Returns:
        Tensor: [B, D, H, W, C].
    """
    out = forward(_lift(depth, context), cells, ranks, intervals, B, D, H, W)
    return out.to(context.dtype)


@plain_form('bev_pool_fused_grad')
def fused_grad(
    grad: Tensor, depth: Tensor, context: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the depth and of the context from that of the cells, [B * D * H * W, C]."""
    wide = compute_dtype(depth.dtype)
    inside = (cells >= 0).view(depth.shape).unsqueeze(-1)
    lifted = _point_grad(grad.to(wide), cells).view(*depth.shape, context.shape[-1])
    grad_depth = (lifted * context.to(wide).unsqueeze(1)).where(inside, 0).sum(-1)
    grad_context = (lifted * depth.to(wide).unsqueeze(-1)).where(inside, 0).sum(1)
    return grad_depth.to(depth.dtype), grad_context.to(context.dtype)
