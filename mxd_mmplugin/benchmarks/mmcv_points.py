"""mmcv's operators for points on our CPU kernels, beside the same in plain PyTorch: mmcv has none for the CPU."""

from collections.abc import Iterator
from typing import Callable

import torch
from mmcv import ops
from torch import Tensor

from .case import Case

PYTORCH = 'PyTorch'
PAIR = 8  # floating point operations of a squared distance
BOX = 13  # of a point and a box


def room(count: int) -> Tensor:
    """Points of a room of 8 by 8 by 3 metres, [1, count, 3]."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(1, count, 3, generator=generator) * torch.tensor([8.0, 8, 3])


def boxes_of(count: int) -> Tensor:
    """Boxes of furniture in it, [1, count, 7]."""
    generator = torch.Generator().manual_seed(count)
    scale = torch.tensor([8.0, 8, 2, 1.5, 1.5, 1, 6.3])
    least = torch.tensor([0, 0, 0, 0.3, 0.3, 0.3, 0])
    return torch.rand(1, count, 7, generator=generator) * scale + least


def sample(points: Tensor, wanted: int) -> Tensor:
    """Furthest point sampling."""
    nearest, last = torch.full(points.shape[:2], 1e10), points.new_zeros(1, 1).long()
    sampled = [last]
    for _ in range(wanted - 1):
        distance = (points - points[:, last[0]]).square().sum(-1)
        nearest = torch.minimum(nearest, distance)
        last = nearest.argmax(1, keepdim=True)
        sampled.append(last)
    return torch.cat(sampled, 1)


def ball(points: Tensor, centres: Tensor, radius: float, wanted: int) -> Tensor:
    """The first points in each ball, the first one again where there are fewer."""
    near = torch.cdist(centres, points) < radius
    number = torch.where(near, torch.arange(points.shape[1]), points.shape[1])
    found = number.topk(wanted, largest=False).values
    return torch.where(found < points.shape[1], found, found[..., :1])


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points [N, 3] are in which boxes [T, 7], bool [T, N]."""
    x, y, z = (points[None] - boxes[:, None, :3]).unbind(-1)
    length, width, height, yaw = boxes[:, 3:, None].unbind(1)
    cos, sin = yaw.cos(), yaw.sin()
    return (
        ((z - height / 2).abs() <= height / 2)
        & ((x * cos + y * sin).abs() < length / 2)
        & ((y * cos - x * sin).abs() < width / 2)
    )


def pool_maxima(rois: Tensor, points: Tensor, feats: Tensor, size: int) -> Tensor:
    """RoI-aware max pooling, of any number of points in a cell."""
    roi, point = inside(points, rois).nonzero().unbind(1)
    x, y, z = (points[point] - rois[roi, :3]).unbind(1)
    cos, sin = rois[roi, 6].cos(), rois[roi, 6].sin()
    local = torch.stack([x * cos + y * sin, y * cos - x * sin, z], 1)
    local[:, :2] += rois[roi, 3:5] / 2
    i, j, k = (local / (rois[roi, 3:6] / size)).long().clamp(0, size - 1).unbind(1)
    cell = ((roi * size + i) * size + j) * size + k
    pooled = feats.new_zeros(len(rois) * size**3, feats.shape[1])
    return pooled.index_reduce_(0, cell, feats[point], 'amax', include_self=False)


def pool_points(points: Tensor, feats: Tensor, rois: Tensor, wanted: int) -> Tensor:
    """RoI point pooling."""
    mask = inside(points, rois)
    number = torch.where(mask, torch.arange(len(points)), len(points))
    found = number.topk(min(wanted, len(points)), largest=False).values
    count = mask.sum(1, keepdim=True).clamp(max=wanted)
    turn = torch.arange(wanted) % count.clamp(min=1)
    rows = found.gather(1, turn).clamp(max=len(points) - 1)
    return torch.cat([points, feats], 1)[rows] * (count > 0).unsqueeze(-1)


def _with_backward(
    name: str, run: Callable[[], Tensor], rival: Callable[[], Tensor], leaf: Tensor, moved: float, size: int
) -> Iterator[Case]:  # fmt: skip
    yield Case(name, 'forward', run, {PYTORCH: rival}, bytes=moved, size=size)
    ours, theirs = run(), rival()
    grad = torch.randn_like(ours)

    def back(out: Tensor) -> Callable:
        return lambda: torch.autograd.grad(out, leaf, grad.view_as(out), retain_graph=True)

    yield Case(name, 'backward', back(ours), {PYTORCH: back(theirs)}, bytes=moved, size=size)


def _sets(count: int, centres: int) -> Iterator[Case]:
    points = room(count)
    middles = points[:, :centres].contiguous()
    pairs = float(count * centres)
    yield Case(
        f'furthest_point_sample, {centres} of {count}',
        'forward',
        lambda: ops.furthest_point_sample(points, centres),
        {PYTORCH: lambda: sample(points, centres)},
        flop=pairs * PAIR,
        size=count,
    )
    yield Case(
        f'ball_query, 64 points, {centres} balls, {count} points',
        'forward',
        lambda: ops.ball_query(0, 0.4, 64, points, middles),
        {PYTORCH: lambda: ball(points, middles, 0.4, 64)},
        flop=pairs * PAIR,
        size=count,
    )
    yield Case(
        f'knn, 32 of {count} points, {centres} centres',
        'forward',
        lambda: ops.knn(32, points, middles),
        {PYTORCH: lambda: torch.cdist(middles, points).topk(32, largest=False)},
        flop=pairs * PAIR,
        size=count,
    )
    yield Case(
        f'three_nn, {count} points, {centres} known',
        'forward',
        lambda: ops.three_nn(points, middles),
        {PYTORCH: lambda: torch.cdist(points, middles).topk(3, largest=False)},
        flop=pairs * PAIR,
        size=count,
    )


def _groups(count: int, centres: int) -> Iterator[Case]:
    points = room(count)
    middles = points[:, :centres].contiguous()
    feats = torch.randn(1, 64, count, requires_grad=True)
    idx = ops.ball_query(0, 0.4, 64, points, middles)
    rows = idx.long().flatten(1)[:, None].expand(-1, 64, -1)
    yield from _with_backward(
        f'grouping_operation, 64 channels, {centres} groups of 64',
        lambda: ops.grouping_operation(feats, idx),
        lambda: feats.gather(2, rows),
        feats,
        float(idx.nbytes + 2 * 4 * 64 * idx.numel()),
        count,
    )
    known = torch.randn(1, 64, centres, requires_grad=True)
    _, near = ops.three_nn(points, middles)
    weight = torch.rand(1, count, 3)
    corners = near.long().flatten(1)[:, None].expand(-1, 64, -1)
    yield from _with_backward(
        f'three_interpolate, 64 channels, {count} points',
        lambda: ops.three_interpolate(known, near, weight),
        lambda: (known.gather(2, corners).unflatten(2, (count, 3)) * weight[:, None]).sum(-1),
        known,
        float(near.nbytes + weight.nbytes + known.nbytes + 4 * 64 * count),
        count,
    )
    weights, channels, neighbours, few = 8, 32, 16, centres // 4
    place = ops.knn(neighbours, middles, middles[:, :few].contiguous()).transpose(1, 2).long()
    scores = torch.rand(1, few, neighbours, weights)
    parts = torch.randn(1, centres, weights, channels, requires_grad=True)

    def assign() -> Tensor:
        rows = parts[0][place[0]]
        difference = rows - rows[:, :1]
        return torch.einsum('nkm,nkmo->onk', scores[0], difference)[None]

    yield from _with_backward(
        f'assign_score_withk, {weights} x {channels} channels, {few} x {neighbours} neighbours',
        lambda: ops.assign_score_withk(scores, parts, parts, place),
        assign,
        parts,
        float(scores.nbytes + 2 * parts.nbytes + 4 * channels * few * neighbours),
        count,
    )


def _boxes(count: int, number: int, channels: int) -> Iterator[Case]:
    points, boxes = room(count), boxes_of(number)
    feats = torch.randn(count, channels, requires_grad=True)
    yield Case(
        f'points_in_boxes_all, {count} points, {number} boxes',
        'forward',
        lambda: ops.points_in_boxes_all(points, boxes),
        {PYTORCH: lambda: inside(points[0], boxes[0]).t().int()},
        flop=float(count * number * BOX),
        size=count,
    )
    yield Case(
        f'points_in_boxes_part, {count} points, {number} boxes',
        'forward',
        lambda: ops.points_in_boxes_part(points, boxes),
        {PYTORCH: lambda: inside(points[0], boxes[0]).to(torch.uint8).argmax(0)},
        flop=float(count * number * BOX),
        size=count,
    )
    pool = ops.RoIAwarePool3d(12, 128, 'max')
    yield from _with_backward(
        f'RoIAwarePool3d, {channels} channels, {number} RoIs of 12^3 cells, {count} points',
        lambda: pool(boxes[0], points[0], feats),
        lambda: pool_maxima(boxes[0], points[0], feats, 12),
        feats,
        float(feats.nbytes + 4 * number * 12**3 * (channels + 1)),
        count,
    )
    several = ops.RoIPointPool3d(512)
    given = feats.detach()[None]
    yield Case(
        f'RoIPointPool3d, {channels} channels, {number} RoIs of 512 points, {count} points',
        'forward',
        lambda: several(points, given, boxes),
        {PYTORCH: lambda: pool_points(points[0], given[0], boxes[0], 512)},
        bytes=float(feats.nbytes + 4 * number * 512 * (3 + channels)),
        size=count,
    )


def focal_loss(logits: Tensor, hot: Tensor) -> Tensor:
    """The sum, of the usual gamma and alpha."""
    right = torch.where(hot, logits, -logits)
    factor = torch.where(hot, 0.25, 0.75)
    return (-factor * (1 - right.sigmoid()) ** 2 * torch.nn.functional.logsigmoid(right)).sum()


def _loss(rows: int, classes: int) -> Iterator[Case]:
    logits = torch.randn(rows, classes, requires_grad=True)
    target = torch.randint(classes + 1, (rows,))
    hot = torch.nn.functional.one_hot(target, classes + 1)[:, :-1].bool()
    yield from _with_backward(
        f'sigmoid_focal_loss, {rows} x {classes}',
        lambda: ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum'),
        lambda: focal_loss(logits, hot),
        logits,
        float(2 * logits.nbytes),
        rows,
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    sizes = {
        'small': ((500, 64, 8, 400),),
        'model': ((16_384, 2048, 128, 100_000),),
        'large': (
            (4096, 512, 32, 20_000),
            (16_384, 2048, 128, 100_000),
            (40_960, 4096, 256, 400_000),
        ),
    }
    for points, centres, boxes, rows in sizes[shapes]:
        yield from _sets(points, centres)
        yield from _groups(points, centres)
        yield from _boxes(points, boxes, 16)
        yield from _loss(rows, 10)
