"""Deformable aggregation at Sparse4D's sizes, beside its grid_sample form."""

import math
from collections.abc import Iterator, Sequence
from typing import Callable

import torch
import torch.nn.functional as F

from ..ops import deformable_aggregation
from .case import Case

CHANNELS, GROUPS, POINTS, CAMS = 256, 8, 13, 6
RESOLUTIONS = ((64, 176), (32, 88), (16, 44), (8, 22))  # (h, w) at strides 4 to 32 of 256 by 704


def surround_locations(
    anchors: int, points: int, cams: int, generator: torch.Generator
) -> torch.Tensor:
    """Where the points of anchors around a vehicle are seen, [1, anchors, points, cams, 2].

    Anchors have the size of a car and stand up to 53 m away in any direction; the cameras see 70
    degrees each and share the circle evenly, so that a point is in one or two of six.
    """

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    distance, bearing = 3 + 50 * uniform(anchors, 1), 2 * math.pi * uniform(anchors, 1)
    centre = [distance * bearing.cos(), distance * bearing.sin(), -2 * uniform(anchors, 1)]
    box = torch.tensor([4.0, 4.0, 2.0]) * (uniform(anchors, points, 3) - 0.5)
    x, y, z = (torch.stack(centre, -1) + box)[..., None].unbind(2)  # each [anchors, points, 1]
    yaw = torch.arange(cams) * (2 * math.pi / cams)
    depth = (x * yaw.cos() + y * yaw.sin()).clamp(min=1e-5)
    aside, focal = y * yaw.cos() - x * yaw.sin(), 0.5 / math.tan(math.radians(35))
    across, down = focal * aside / depth, -focal * 704 / 256 * z / depth
    return torch.stack([0.5 + across, 0.4 + down], -1)[None]


def make_inputs(anchors: int, everywhere: bool) -> list:
    """The five arguments, leaves that require a gradient where there is one.

    Args:
        anchors (int): number of anchors.
        everywhere (bool): every point inside of every image, which no real rig has: the worst case.
    """
    generator = torch.Generator().manual_seed(0)
    spatial_shape = torch.tensor([RESOLUTIONS] * CAMS)
    sizes = spatial_shape.prod(-1)
    start = (sizes.flatten().cumsum(0) - sizes.flatten()).view_as(sizes)
    maps = torch.randn(1, int(sizes.sum()), CHANNELS, generator=generator)
    if everywhere:
        locations = torch.rand(1, anchors, POINTS, CAMS, 2, generator=generator)
    else:
        locations = surround_locations(anchors, POINTS, CAMS, generator)
    shape = 1, anchors, POINTS, CAMS, len(RESOLUTIONS), GROUPS
    weight = torch.rand(shape, generator=generator)
    leaves = (x.requires_grad_() for x in (maps, locations, weight))
    maps, locations, weight = leaves
    return [maps, spatial_shape, start, locations, weight]


def pyramid(feature_maps: torch.Tensor) -> list:
    """The same maps as a pyramid gives them, [cam, c, h, w] for each scale."""
    rows = feature_maps.detach().view(CAMS, -1, CHANNELS)
    maps = rows.split([h * w for h, w in RESOLUTIONS], 1)
    return [
        x.transpose(1, 2).reshape(CAMS, CHANNELS, h, w).requires_grad_()
        for x, (h, w) in zip(maps, RESOLUTIONS)
    ]


def grid_sample_form(maps: list, locations: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sparse4D without its operator: `grid_sample` a scale for all cameras, then the weighted sum.

    A scale is summed before the next is read, so that samples of one scale only are in memory.
    """
    grid = locations[0].permute(2, 0, 1, 3) * 2 - 1  # [cam, anchor, pts, 2]
    out = weight.new_zeros(())
    for scale, pixels in enumerate(maps):
        read = F.grid_sample(pixels, grid, align_corners=False)
        read = read.unflatten(1, (GROUPS, -1))
        out = out + torch.einsum('ngcap,apng->agc', read, weight[0, ..., scale, :])
    return out.flatten(1)[None]


def _backward(out: torch.Tensor, leaves: Sequence[torch.Tensor], grad: torch.Tensor) -> Callable:
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _cases(anchors: int, everywhere: bool) -> Iterator[Case]:
    inputs = make_inputs(anchors, everywhere)
    maps, _, _, locations, weight = inputs
    rival = pyramid(maps), locations, weight
    inside = int(((locations > 0) & (locations < 1)).all(-1).sum())
    where = 'all points in all cameras' if everywhere else 'points around a vehicle'
    seen = f'{inside / anchors / POINTS:.1f} cameras a point'
    name = f'{where}, {anchors} anchors x {POINTS} points, {seen}'
    # Four pixels read and weighted, for each sample at each scale; the backward has two such passes.
    flop = 8.0 * inside * len(RESOLUTIONS) * CHANNELS

    def no_grad(function: Callable, *args: object) -> Callable:
        def call() -> torch.Tensor:
            with torch.no_grad():
                return function(*args)

        return call

    yield Case(
        name,
        'forward',
        no_grad(deformable_aggregation, *inputs),
        {'grid_sample': no_grad(grid_sample_form, *rival)},
        flop=flop,
        size=anchors,
    )
    grad = torch.randn(1, anchors, CHANNELS, generator=torch.Generator().manual_seed(1))
    yield Case(
        name,
        'backward',
        _backward(deformable_aggregation(*inputs), (maps, locations, weight), grad),
        {'grid_sample': _backward(grid_sample_form(*rival), (*rival[0], locations, weight), grad)},
        flop=2 * flop,
        size=anchors,
    )


def cases(shapes: str) -> Iterator[Case]:
    """Yields the cases of `shapes`, a key of `SHAPES`."""
    if shapes == 'small':
        yield from _cases(100, everywhere=False)
    elif shapes == 'model':
        yield from _cases(900, everywhere=False)
        yield from _cases(900, everywhere=True)
    else:
        for anchors in (300, 900, 2700):
            yield from _cases(anchors, everywhere=False)
