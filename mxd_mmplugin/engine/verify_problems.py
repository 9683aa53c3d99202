"""Calls of every operator for `mxd verify`: small ones, odd ones, and one at the size of a model."""

import math
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Optional

import torch
from torch import Tensor

from .. import ops
from ..ops import fallback

FLOATS = torch.float32, torch.float16, torch.bfloat16


class Problem(NamedTuple):
    """One call of an operator.

    Attributes:
        name: what is special about it.
        function: takes the tensors of `leaves` and `rest` on one device, returns a tensor or several.
        leaves: floating tensors, whose gradients are compared too.
        rest: other tensors.
    """

    name: str
    function: Callable
    leaves: tuple
    rest: tuple = ()


class Operator(NamedTuple):
    """An operator: the family that `MXD_DISABLE` knows, its dtypes, and its problems, small ones first.

    `problems(dtype, generator)` yields them.
    """

    family: str
    problems: Callable
    dtypes: tuple = FLOATS


def _randn(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).to(dtype)


def _voxels(
    generator: torch.Generator, count: int, shape: Sequence[int], batch_size: int = 2
) -> Tensor:
    """`count` different voxels of a grid in any order, int32 [count, ndim + 1]."""
    sizes = batch_size, *shape
    cells = torch.randperm(math.prod(sizes), generator=generator)[:count]
    columns = []
    for size in reversed(sizes):
        columns.append(cells % size)
        cells = cells // size
    return torch.stack(columns[::-1], 1).int()


class Geometry(NamedTuple):
    """What a sparse layer does: its grid, its window, the same in every dimension, and its kind."""

    shape: tuple[int, ...]
    kernel: int
    stride: int
    padding: int
    kind: str  # regular, subm, transposed or inverse


SPARSE = {  # the number of voxels, and what the layer does with them
    'strided': (150, Geometry((6, 9, 8), 3, 2, 1, 'regular')),
    'no voxel': (0, Geometry((6, 9, 8), 3, 1, 1, 'subm')),
    'one voxel': (1, Geometry((6, 9, 8), 3, 2, 1, 'regular')),
    'submanifold': (150, Geometry((6, 9, 8), 3, 1, 1, 'subm')),
    'transposed': (90, Geometry((4, 5, 3), 3, 2, 1, 'transposed')),
    'inverse': (150, Geometry((6, 9, 8), 3, 2, 1, 'inverse')),
    'even kernel': (150, Geometry((6, 9, 8), 2, 2, 0, 'regular')),
    'two dimensions': (200, Geometry((20, 30), 3, 2, 1, 'regular')),
    'submanifold of a model': (6000, Geometry((11, 100, 100), 3, 1, 1, 'subm')),
    'strided of a model': (6000, Geometry((11, 100, 100), 3, 2, 1, 'regular')),
}
CHANNELS = (5, 7), (16, 32), (4, 4), (1, 3), (8, 17), (16, 5), (3, 130), (9, 9), (64, 64), (64, 128)


def _rulebook(indices: Tensor, geometry: Geometry) -> ops.Rulebook:
    ndim = len(geometry.shape)
    book = ops.build_rulebook(
        indices,
        2,
        geometry.shape,
        kernel_size=[geometry.kernel] * ndim,
        stride=[geometry.stride] * ndim,
        padding=[geometry.padding] * ndim,
        dilation=[1] * ndim,
        subm=geometry.kind == 'subm',
        transposed=geometry.kind == 'transposed',
    )
    return book.inverse if geometry.kind == 'inverse' else book


def rulebooks(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Output voxels, and the pairs in an order that no layout changes, forward and transposed."""

    def ordered(pairs: Tensor, bounds: Tensor) -> Tensor:
        pairs, bounds = pairs.cpu(), bounds.cpu()  # an NPU has no good sort of int64
        offsets = fallback.sparse_conv.offset_of_pairs(bounds)
        return ((offsets << 42) + (pairs[:, 0].long() << 21) + pairs[:, 1]).sort().values

    for name, (count, geometry) in SPARSE.items():

        def function(indices: Tensor, geometry: Geometry = geometry) -> tuple[Tensor, ...]:
            book = _rulebook(indices, geometry)
            return book.out_indices, ordered(book.pairs, book.bounds), ordered(*book.transpose)

        yield Problem(name, function, (), (_voxels(generator, count, geometry.shape),))


def sparse_conv(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Sparse convolutions of every kind, with a bias."""
    for (name, (count, geometry)), (inputs, outputs) in zip(SPARSE.items(), CHANNELS):

        def function(
            features: Tensor,
            weight: Tensor,
            bias: Tensor,
            indices: Tensor,
            geometry: Geometry = geometry,
        ) -> Tensor:
            book = _rulebook(indices, geometry)
            return ops.sparse_conv(features, weight, bias, book)

        shape = geometry.shape
        indices = _voxels(generator, count, shape)
        if geometry.kind == 'inverse':
            with fallback.Plain():  # whatever the kernel does, there is a problem for it
                count = len(_rulebook(indices, geometry).indices)
        volume = geometry.kernel ** len(shape)
        weight = torch.randn(*[geometry.kernel] * len(shape), inputs, outputs, generator=generator)
        leaves = (
            _randn(generator, dtype, count, inputs),
            (weight / math.sqrt(volume * inputs)).to(dtype),
            _randn(generator, dtype, outputs),
        )
        yield Problem(name, function, leaves, (indices,))


def sparse_pool(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Sparse max pooling over the regular windows."""
    for (name, (count, geometry)), (channels, _) in zip(SPARSE.items(), CHANNELS):
        if geometry.kind in ('regular', 'subm'):

            def function(
                features: Tensor, indices: Tensor, geometry: Geometry = geometry
            ) -> Tensor:
                return ops.sparse_max_pool(features, _rulebook(indices, geometry))

            leaves = (_randn(generator, dtype, count, channels),)
            yield Problem(name, function, leaves, (_voxels(generator, count, geometry.shape),))


def sparse_add(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Sums of two sparse tensors over the union of their voxels."""
    shape = 6, 30, 40

    def function(a: Tensor, b: Tensor, at_a: Tensor, at_b: Tensor) -> tuple[Tensor, ...]:
        sites, rows = ops.sparse_union([at_a, at_b], 2, shape)
        return sites, rows, ops.sparse_sum([a, b], rows, len(sites))

    for counts, channels in (
        ((150, 90), 5),
        ((0, 90), 4),
        ((1, 1), 1),
        ((0, 0), 3),
        ((300, 300), 17),
        ((3000, 2000), 64),
    ):
        leaves = (_randn(generator, dtype, count, channels) for count in counts)
        rest = (_voxels(generator, count, shape) for count in counts)
        yield Problem(f'{counts[0]} and {counts[1]} voxels', function, (*leaves,), (*rest,))


def sparse_dense(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Sparse voxels to a dense grid and back, channels first and last."""
    for count, shape, channels in (
        (150, (6, 9, 8), 5),
        (0, (6, 9, 8), 4),
        (1, (6, 9, 8), 1),
        (4000, (2, 60, 60), 64),
    ):
        for first in (True, False):

            def function(
                features: Tensor,
                dense: Tensor,
                indices: Tensor,
                shape: Sequence[int] = shape,
                first: bool = first,
            ) -> tuple[Tensor, ...]:
                return (
                    ops.sparse_to_dense(features, indices, 2, shape, first),
                    ops.sparse_from_dense(dense, indices, first),
                )

            size = (2, channels, *shape) if first else (2, *shape, channels)
            leaves = (
                _randn(generator, dtype, count, channels),
                _randn(generator, dtype, *size),
            )
            name = f'{count} voxels, channels {"first" if first else "last"}'
            yield Problem(name, function, leaves, (_voxels(generator, count, shape),))


def deformable_aggregation(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Sparse4D's aggregation: half of the points are outside of the images."""
    for name, bs, anchors, points, cams, channels, groups, maps in (
        ('small', 2, 6, 3, 2, 8, 2, ((5, 7), (3, 4))),
        ('no anchor', 1, 0, 3, 2, 8, 2, ((5, 7),)),
        ('one sample', 1, 1, 1, 1, 1, 1, ((1, 1),)),
        ('odd channels', 1, 9, 5, 3, 21, 3, ((5, 7), (3, 4), (1, 2))),
        ('one group', 2, 7, 4, 2, 40, 1, ((8, 8),)),
        ('of a model', 1, 60, 13, 6, 256, 8, ((16, 44), (8, 22), (4, 11), (2, 6))),
    ):
        shapes = torch.tensor([maps] * cams)
        sizes = shapes.prod(-1).flatten()
        start = (sizes.cumsum(0) - sizes).view(cams, len(maps))
        shape = bs, anchors, points, cams
        leaves = (
            _randn(generator, dtype, bs, int(sizes.sum()), channels),
            torch.rand(*shape, 2, generator=generator) * 1.4 - 0.2,
            torch.rand(*shape, len(maps), groups, generator=generator).to(dtype),
        )

        def function(
            features: Tensor, locations: Tensor, weight: Tensor, shapes: Tensor, start: Tensor
        ) -> Tensor:
            return ops.deformable_aggregation(features, shapes, start, locations, weight)

        yield Problem(name, function, leaves, (shapes, start))


def _deform_conv(
    dtype: torch.dtype, generator: torch.Generator, modulated: bool
) -> Iterator[Problem]:
    for name, batch, size, inputs, outputs, kernel, stride, dilation, groups, deform_groups in (
        ('small', 2, (7, 6), 4, 6, 3, 1, 1, 2, 2),
        ('no image', 0, (7, 6), 4, 6, 3, 1, 1, 1, 1),
        ('one pixel', 1, (1, 1), 1, 1, 1, 1, 1, 1, 1),
        ('odd channels', 1, (9, 11), 15, 7, 3, 1, 1, 1, 3),
        ('stride 2', 2, (9, 11), 8, 16, 3, 2, 1, 1, 1),
        ('dilation 2', 1, (9, 11), 8, 16, 3, 1, 2, 1, 1),
        ('of a model', 1, (16, 44), 128, 128, 3, 1, 1, 1, 1),
    ):
        padding = kernel // 2 * dilation
        out = [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in size]
        samples = deform_groups * kernel * kernel
        weight = torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator)
        leaves = [
            _randn(generator, dtype, batch, inputs, *size),
            _randn(generator, dtype, batch, 2 * samples, *out),
            (weight / math.sqrt(inputs * kernel * kernel)).to(dtype),
        ]
        geometry = stride, padding, dilation, groups, deform_groups
        if modulated:
            leaves += [
                torch.rand(batch, samples, *out, generator=generator).to(dtype),
                _randn(generator, dtype, outputs),
            ]

        def function(
            x: Tensor,
            offset: Tensor,
            weight: Tensor,
            mask: Optional[Tensor] = None,
            bias: Optional[Tensor] = None,
            geometry: tuple[int, int, int, int, int] = geometry,
        ) -> Tensor:
            if mask is None:
                return ops.deform_conv2d(x, offset, weight, *geometry)
            return ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)

        yield Problem(name, function, tuple(leaves))


def deform_conv2d(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Deformable convolution, v1."""
    yield from _deform_conv(dtype, generator, False)


def modulated_deform_conv2d(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Modulated deformable convolution, v2."""
    yield from _deform_conv(dtype, generator, True)


def _clouds(
    dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[str, Tensor, Sequence[float], Sequence[float]]]:
    """Yield name, points, voxel size and range; no point of float32 is near a border of the cells.

    In 16 bits points lie on borders, but sizes are powers of two there, and a cell is exact.
    """
    size = (0.075, 0.075, 0.2) if dtype == torch.float32 else (0.5, 0.5, 0.25)
    for name, count, columns, grid in (
        ('small', 300, 5, (8, 10, 4)),
        ('no point', 0, 4, (8, 10, 4)),
        ('one point', 1, 3, (8, 10, 4)),
        ('one cell', 70, 4, (1, 1, 1)),
        ('a pillar each', 500, 4, (40, 40, 1)),
        ('of a model', 20000, 5, (256, 256, 40)),
    ):
        cells, low = torch.tensor(grid), [-n * s / 2 for n, s in zip(grid, size)]
        # One cell around the grid is outside.
        place = (torch.rand(count, 3, generator=generator) * (cells + 2)).floor() - 1
        place += 0.2 + 0.6 * torch.rand(count, 3, generator=generator)
        points = torch.rand(count, columns, generator=generator)
        points[:, :3] = place * torch.tensor(size) + torch.tensor(low)
        yield name, points.to(dtype), size, (*low, *(-n for n in low))


def hard_voxelize(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Hard voxelization, some points and voxels beyond the limits."""
    for name, points, size, area in _clouds(dtype, generator):

        def function(
            points: Tensor, size: Sequence[float] = size, area: Sequence[float] = area
        ) -> tuple[Tensor, ...]:
            return tuple(ops.hard_voxelize(points, size, area, 5, 9000))

        yield Problem(name, function, (points,))


def dynamic_voxelize(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Dynamic voxelization."""
    for name, points, size, area in _clouds(dtype, generator):

        def function(
            points: Tensor, size: Sequence[float] = size, area: Sequence[float] = area
        ) -> Tensor:
            return ops.dynamic_voxelize(points, size, area)

        yield Problem(name, function, (), (points,))


def dynamic_scatter(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Reduction of the points of each voxel, in the three ways."""
    for count, channels, cells in ((90, 6, 3), (0, 4, 3), (1, 1, 3), (8000, 64, 12)):
        for reduce_type in ('max', 'mean', 'sum'):

            def function(
                feats: Tensor, coors: Tensor, reduce_type: str = reduce_type
            ) -> tuple[Tensor, Tensor]:
                return ops.dynamic_scatter(feats, coors, reduce_type)

            coors = torch.randint(-1, cells, (count, 3), generator=generator).int()
            leaves = (_randn(generator, dtype, count, channels),)
            yield Problem(f'{reduce_type} of {count} points', function, leaves, (coors,))


def bev_pool(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """BEV pooling; some points are outside of the grid."""
    for count, channels, grid in (
        (200, 5, (2, 3, 10, 12)),
        (0, 4, (1, 1, 8, 8)),
        (1, 1, (1, 1, 1, 1)),
        (500, 17, (1, 1, 33, 47)),
        (900, 3, (3, 2, 16, 16)),
        (15000, 80, (1, 1, 128, 128)),
    ):
        b, d, h, w = grid
        columns = [torch.randint(-1, n + 1, (count,), generator=generator) for n in (h, w, d, b)]

        def function(
            feats: Tensor, coords: Tensor, grid: tuple[int, int, int, int] = grid
        ) -> Tensor:
            return ops.bev_pool(feats, coords, *grid)

        leaves = (_randn(generator, dtype, count, channels),)
        yield Problem(f'{count} points', function, leaves, (torch.stack(columns, 1),))


def bev_pool_fused(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """BEV pooling of depth times context; neighbours share a cell, and some points are outside of the grid."""
    for size, channels, grid in (
        ((2, 3, 8), 5, (2, 3, 10, 12)),
        ((0, 4, 3), 4, (1, 1, 8, 8)),
        ((1, 1, 1), 1, (1, 1, 1, 1)),
        ((2, 9, 75), 33, (1, 1, 13, 17)),
        ((3, 20, 256), 80, (1, 1, 64, 64)),
    ):
        count = math.prod(size)
        b, d, h, w = grid
        columns = [torch.randint(-1, n + 1, (count,), generator=generator) for n in (h, w, d, b)]
        coords = torch.stack(columns, 1)[torch.arange(count) // 8 * 8]

        def function(
            depth: Tensor,
            context: Tensor,
            coords: Tensor,
            grid: tuple[int, int, int, int] = grid,
        ) -> Tensor:
            return ops.bev_pool_fused(depth, context, ops.bev_pool_plan(coords, *grid))

        images, _, pixels = size
        leaves = (
            _randn(generator, dtype, *size),
            _randn(generator, dtype, images, pixels, channels),
        )
        yield Problem(f'{count} points', function, leaves, (coords,))


def draw_gaussians(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Bumps on heatmaps; some middles are outside of the map, some bumps on no map."""
    for count, radius, shape in (
        (9, 3, (2, 10, 12)),
        (0, 3, (2, 10, 12)),
        (1, 0, (1, 1, 1)),
        (20, 40, (3, 33, 47)),
        (30, 300, (1, 40, 700)),
        (200, 8, (40, 128, 128)),
    ):
        columns = [torch.randint(-1, n + 1, (count,), generator=generator).int() for n in shape]
        radii = torch.randint(-1, radius + 1, (count,), generator=generator).int()

        def function(
            channels: Tensor,
            centers: Tensor,
            radii: Tensor,
            shape: tuple[int, int, int] = shape,
        ) -> Tensor:
            return ops.draw_gaussians(channels, centers, radii, shape)

        rest = columns[0], torch.stack(columns[1:], 1), radii
        yield Problem(f'{count} bumps', function, (), rest)


def _boxes(generator: torch.Generator, dtype: torch.dtype, count: int, spread: float) -> Tensor:
    """Rotated boxes [count, 5] in a square with sides of `spread`."""
    boxes = torch.rand(count, 5, generator=generator)
    boxes = boxes * torch.tensor([spread, spread, 4, 4, 8]) + torch.tensor([0, 0, 0.2, 0.2, -4])
    return boxes.to(dtype)


def rotated_iou(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Overlaps of rotated boxes, all pairs and aligned."""
    for first, second in ((9, 12), (0, 3), (1, 1), (200, 60), (3, 1500), (700, 5)):

        def function(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
            few = min(len(a), len(b))
            return (
                ops.box_iou_rotated(a, b),
                ops.box_iou_rotated(a, b, 'iof', clockwise=False),
                ops.box_iou_rotated(a[:few], b[:few], aligned=True),
            )

        rest = _boxes(generator, dtype, first, 8), _boxes(generator, dtype, second, 8)
        yield Problem(f'{first} and {second} boxes', function, (), rest)


def rotated_nms(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Problem]:
    """Suppression by overlap, with and without labels, by distance, and in groups."""
    for count in (12, 0, 1, 64, 257, 1000):

        def function(
            boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor
        ) -> tuple[Tensor, ...]:
            return (
                ops.nms_rotated(boxes, scores, 0.2)[1],
                ops.nms_rotated(boxes, scores, 0.2, labels)[1],
                ops.circle_nms(boxes[:, :2], scores, 2.0),
                *ops.grouped_nms(torch.stack([boxes, boxes.flip(0)]), valid, 0.2),
                *ops.grouped_nms(boxes[None, :, :2], valid[:1], 2.0),
            )

        scores = torch.randn(count, generator=generator).to(dtype)
        labels = torch.randint(3, (count,), generator=generator).int()
        boxes = _boxes(generator, dtype, count, max(count, 4) ** 0.5)
        valid = torch.rand(2, count, generator=generator) < 0.7
        yield Problem(f'{count} boxes', function, (), (boxes, scores, labels, valid))


OPERATORS = {
    'sparse_conv_rulebook': Operator('sparse_conv', rulebooks, (torch.int32,)),
    'sparse_conv': Operator('sparse_conv', sparse_conv),
    'sparse_max_pool': Operator('sparse_pool', sparse_pool),
    'sparse_add': Operator('sparse_add', sparse_add),
    'sparse_dense': Operator('sparse_dense', sparse_dense),
    'deformable_aggregation': Operator('deformable_aggregation', deformable_aggregation),
    'deform_conv2d': Operator('modulated_deform_conv', deform_conv2d),
    'modulated_deform_conv2d': Operator('modulated_deform_conv', modulated_deform_conv2d),
    'hard_voxelize': Operator('voxelize', hard_voxelize),
    'dynamic_voxelize': Operator('voxelize', dynamic_voxelize),
    'dynamic_scatter': Operator('dynamic_scatter', dynamic_scatter),
    'draw_gaussians': Operator('draw_gaussians', draw_gaussians, (torch.float32,)),
    'bev_pool': Operator('bev_pool', bev_pool),
    'bev_pool_fused': Operator('bev_pool', bev_pool_fused),
    'rotated_iou': Operator('rotated_iou', rotated_iou),
    'rotated_nms': Operator('rotated_iou', rotated_nms, (torch.float32,)),
}
