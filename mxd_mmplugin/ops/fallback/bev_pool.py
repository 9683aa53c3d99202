"""BEV pooling in plain PyTorch, on any device: `index_add_` and its way back.

The plan has the layout that csrc/ops/bev_pool.h describes.
"""

import torch
from torch import Tensor

from .checks import check_float

LIBRARY = torch.library.Library('mxd', 'IMPL')
TILE = 16


def _tiles(cells: int) -> int:
    return (cells + TILE - 1) // TILE


def _check_ints(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.int32:
        raise TypeError(f'{name} must be int32, was {tensor.dtype}')


def plan(coords, B, D, H, W):
    """See `mxd_mmplugin.ops.bev_pool_plan`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: cells int32 [N], ranks int32 [N], intervals int64 [tiles + 1].
    """
    for name, size in dict(B=B, D=D, H=H, W=W).items():
        if size < 1:
            raise ValueError(f'{name} must be at least 1, was {size}')
    if B * D * H * W >= 2**31 - 1:
        raise ValueError(f'B * D * H * W must be below 2**31 - 1, was {B} * {D} * {H} * {W}')
    if coords.dtype not in (torch.int32, torch.int64):
        raise TypeError(f'coords must be int32 or int64, was {coords.dtype}')
    if coords.dim() != 2 or coords.shape[1] != 4:
        raise ValueError(
            f'coords must have shape [points, 4] (H, W, D and batch index), was {list(coords.shape)}'
        )
    inside = ((coords >= 0) & (coords < coords.new_tensor([H, W, D, B]))).all(1)
    h, w, d, b = coords.long().unbind(1)
    plane = b * D + d
    cells = torch.where(inside, (plane * H + h) * W + w, -1).int()
    tiles = B * D * _tiles(H) * _tiles(W)
    tile = (plane * _tiles(H) + h // TILE) * _tiles(W) + w // TILE
    tile, ranks = torch.where(inside, tile, tiles).sort(stable=True)
    intervals = torch.searchsorted(tile, torch.arange(tiles + 1, device=coords.device))
    return cells, ranks.int(), intervals


def forward(feats, cells, ranks, intervals, B, D, H, W):
    """See `mxd_mmplugin.ops.bev_pool`; the output is [B, D, H, W, C]."""
    check_float('feats', feats)
    if feats.dim() != 2:
        raise ValueError(f'feats must have shape [points, channels], was {list(feats.shape)}')
    for name, tensor in (('cells', cells), ('ranks', ranks)):
        _check_ints(name, tensor)
        if tensor.shape != feats.shape[:1]:
            raise ValueError(
                f'feats must have a row for each of the {tensor.numel()} points of the plan, was '
                f'{list(feats.shape)}'
            )
    wide = feats.dtype if feats.dtype == torch.float64 else torch.float32
    rows = (cells >= 0).nonzero().squeeze(1)
    out = torch.zeros(B * D * H * W, feats.shape[1], dtype=wide, device=feats.device)
    out.index_add_(0, cells[rows].long(), feats[rows].to(wide))
    return out.to(feats.dtype).view(B, D, H, W, feats.shape[1])


def grad(grad, cells):
    """Gradient of the features, [N, C], from that of the cells, [B * D * H * W, C]."""
    check_float('grad', grad)
    if grad.dim() != 2:
        raise ValueError(f'grad must have shape [cells, channels], was {list(grad.shape)}')
    _check_ints('cells', cells)
    if not len(grad):
        return grad.new_zeros(len(cells), grad.shape[1])
    return torch.where((cells >= 0)[:, None], grad[cells.clamp(min=0).long()], 0)


for _name, _function in (
    ('bev_pool_plan', plan),
    ('bev_pool', forward),
    ('bev_pool_grad', grad),
):
    LIBRARY.impl(_name, _function, 'CompositeExplicitAutograd')
