"""BEV pooling of camera frustums, beside `index_add_` and the sorted cumulative sum of BEVFusion's first form; and the
fused pooling of depth times context beside the pooling of their product.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import bev_pool, bev_pool_fused, bev_pool_plan
from .case import Case

SECTOR = math.radians(70)  # that a camera sees


def frustums(cameras: int, depths: int, height: int, width: int, cells: int) -> Tensor:
    """Places of the points that cameras around a car look at, 1 to 60 m deep, on a 108 m square.

    Returns:
        Tensor: int64 [cameras * depths * height * width, 4], places along H, W, D and batch index,
        some of them outside of the grid.
    """
    depth = torch.linspace(1, 60, depths).view(1, -1, 1, 1)
    heading = torch.arange(cameras).view(-1, 1, 1, 1) * (2 * math.pi / cameras)
    angle = heading + torch.linspace(-SECTOR / 2, SECTOR / 2, width)
    metres = torch.stack([depth * angle.cos(), depth * angle.sin()], -1)
    place = ((metres + 54) * (cells / 108)).floor().long()
    place = place.expand(cameras, depths, height, width, 2).reshape(-1, 2)
    return torch.cat([place, torch.zeros_like(place)], 1)


def _cells(coords: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The points inside and their cells, of one image batch and one height."""
    inside = ((coords[:, :2] >= 0) & (coords[:, :2] < size)).all(1).nonzero().squeeze(1)
    return inside, coords[inside, 0] * size + coords[inside, 1]


def index_add(feats: Tensor, coords: Tensor, size: int) -> Tensor:
    """The direct form: [size * size, C]."""
    inside, cells = _cells(coords, size)
    if len(inside) < len(feats):
        feats = feats[inside]
    return feats.new_zeros(size * size, feats.shape[1]).index_add_(0, cells, feats)


def cumulative_sum(feats: Tensor, coords: Tensor, size: int) -> Tensor:
    """Sort by cell, sum along all points, and take differences at the ends of the cells."""
    inside, cells = _cells(coords, size)
    cells, order = cells.sort()
    total = feats[inside[order]].cumsum(0)
    ends = torch.cat(
        [(cells[1:] != cells[:-1]).nonzero().squeeze(1), cells.new_tensor([len(cells) - 1])]
    )
    total = total[ends]
    total[1:] -= total[:-1].clone()
    out = feats.new_zeros(size * size, feats.shape[1])
    out[cells[ends]] = total
    return out


def _pool(image: tuple[int, int, int, int], channels: int, size: int) -> Iterator[Case]:
    coords = frustums(*image, size)
    feats = torch.randn(len(coords), channels)
    grid = 1, 1, size, size
    name = f'{channels} channels on {size} x {size}, {len(coords)} points'
    moved = float(feats.nbytes + 4 * channels * size * size)
    rivals = {
        'index_add': lambda: index_add(feats, coords, size),
        'cumulative sum': lambda: cumulative_sum(feats, coords, size),
    }
    yield Case(
        name,
        'plan',
        lambda: bev_pool_plan(coords, *grid),
        bytes=coords.nbytes + 8 * len(coords),  # cells and ranks
        size=len(coords),
    )
    yield Case(
        name,
        'plan and forward',
        lambda: bev_pool(feats, coords, *grid),
        rivals,
        bytes=moved,
        size=len(coords),
    )
    plan = bev_pool_plan(coords, *grid)
    inside, cells = _cells(coords, size)
    kept = feats[inside]
    out = kept.new_zeros(size * size, channels)
    yield Case(
        name,
        'forward',
        lambda: bev_pool(feats, plan),
        {'index_add': lambda: torch.zeros_like(out).index_add_(0, cells, kept)},
        bytes=moved,
        size=len(coords),
    )
    leaf = feats.requires_grad_()
    pooled = bev_pool(leaf, plan)
    grad = torch.randn(1, size, size, 1, channels).permute(0, 4, 3, 1, 2)
    rows = grad.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    index = plan.cells.long().clamp(min=0)
    yield Case(
        name,
        'backward',
        lambda: torch.autograd.grad(pooled, leaf, grad, retain_graph=True),
        {'index_add': lambda: rows[index]},
        bytes=moved,
        size=len(coords),
    )


def _fused(image: tuple[int, int, int, int], channels: int, size: int) -> Iterator[Case]:
    cameras, depths, height, width = image
    coords = frustums(*image, size).view(*image, 4).transpose(2, 3).reshape(-1, 4)
    plan = bev_pool_plan(coords, 1, 1, size, size)
    depth = torch.randn(cameras, depths, width, height).softmax(1).requires_grad_()
    context = torch.randn(cameras, width, height, channels, requires_grad=True)
    leaves = depth, context

    def product() -> Tensor:
        return bev_pool((depth.unsqueeze(-1) * context.unsqueeze(1)).flatten(0, 3), plan)

    name = f'depth x context, {channels} channels on {size} x {size}, {len(coords)} points'
    cells = 4 * channels * size * size
    moved = float(depth.nbytes + context.nbytes + cells)
    no_grad = torch.no_grad()
    yield Case(
        name,
        'forward',
        no_grad(lambda: bev_pool_fused(*leaves, plan)),
        {'product, then bev_pool': no_grad(product)},
        bytes=moved,
        size=len(coords),
    )
    ours, theirs = bev_pool_fused(*leaves, plan), product()
    grad = torch.randn(ours.permute(0, 2, 3, 4, 1).shape).permute(0, 4, 1, 2, 3)

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    yield Case(
        name,
        'backward',
        lambda: backward(ours),
        {'product, then bev_pool': lambda: backward(theirs)},
        bytes=2 * moved - cells,
        size=len(coords),
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    if shapes == 'small':
        yield from _pool((6, 20, 8, 22), 32, 90)
        yield from _fused((6, 20, 8, 22), 32, 90)
    elif shapes == 'model':
        yield from _pool((6, 59, 16, 44), 80, 180)
        yield from _pool((6, 118, 32, 88), 80, 360)
        yield from _fused((6, 118, 32, 88), 80, 360)
    else:
        for depths in (6, 30, 150):
            yield from _pool((6, depths, 32, 88), 40, 360)
