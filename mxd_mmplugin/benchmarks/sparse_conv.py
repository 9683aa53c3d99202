"""Sparse convolution, max pooling, sums and dense grids on the voxels of a LiDAR sweep, beside spconv's CPU build.

Forward times include the rulebook, as a network pays for it at the first layer of each resolution, and backward times
its transpose. spconv has no backward on the CPU.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from ..modules import SparseConvTensor, sparse_add
from ..ops import Rulebook, build_rulebook, sparse_conv, sparse_max_pool, sparse_to_dense
from ..packages import is_installed
from .case import Case
from .inputs import GRID, voxels

# Class, input channels, output channels, stride.
LAYERS = (
    ('SubMConv3d', 16, 16, 1),
    ('SubMConv3d', 64, 64, 1),
    ('SubMConv3d', 128, 128, 1),
    ('SparseConv3d', 64, 128, 2),
)
# Channels of submanifold layers that are timed in bfloat16 too.
BFLOAT16 = 16, 32, 64, 128
SMALL, MODEL = 10_000, 80_000
LARGE = 10_000, 30_000, 100_000, 300_000, 1_000_000


def cases(shapes: str) -> Iterator[Case]:
    """Yield the cases of 'small', 'model' or 'large'."""
    if shapes == 'large':
        for wanted in LARGE:
            indices, batch = voxels(wanted)
            for layer in (LAYERS[0], ('SparseConv3d', 16, 32, 2)):
                yield from _convolution(indices, batch, *layer)
            yield from _others(indices, batch, 16)
    else:
        indices, batch = voxels(SMALL if shapes == 'small' else MODEL)
        for layer in LAYERS:
            yield from _convolution(indices, batch, *layer)
        for channels in BFLOAT16:
            layer = 'SubMConv3d', channels, channels, 1
            yield from _convolution(indices, batch, *layer, dtype=torch.bfloat16)
        yield from _others(indices, batch, 64)


def _spconv() -> Optional[ModuleType]:
    if not is_installed('spconv'):
        return None
    from spconv import pytorch

    return pytorch


def _layer_of_spconv(
    kind: str,
    channels: tuple[int, ...],
    indices: Tensor,
    batch: int,
    features: Tensor,
    **arguments: Any,
) -> dict[str, Callable]:
    """A call of spconv's layer on a new tensor, where it is installed."""
    spconv = _spconv()
    if spconv is None:
        return {}
    layer = getattr(spconv, kind)(*channels, 3, padding=1, **arguments).eval()

    @torch.no_grad()
    def run() -> object:
        return layer(spconv.SparseConvTensor(features, indices, GRID, batch))

    return dict(spconv=run)


def _convolution(
    indices: Tensor,
    batch: int,
    kind: str,
    inputs: int,
    outputs: int,
    stride: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Case]:
    count, geometry = len(indices), ([3] * 3, [stride] * 3, [1] * 3, [1] * 3, kind == 'SubMConv3d')
    features = torch.randn(count, inputs, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 3, 3, inputs, outputs, dtype=dtype, requires_grad=True)

    def rulebook() -> Rulebook:
        return build_rulebook(indices, batch, GRID, *geometry)

    @torch.no_grad()
    def forward() -> Tensor:
        return sparse_conv(features, weight, None, rulebook())

    book = rulebook()
    out = sparse_conv(features, weight, None, book)
    grad, pairs = torch.randn_like(out), len(book.pairs)

    def backward() -> None:
        if not book.symmetric:
            torch.ops.mxd.sparse_conv_rulebook_transpose(book.pairs, book.bounds, count)
        torch.autograd.grad(out, (features, weight), grad, retain_graph=True)

    rivals, name = {}, f'{kind} {inputs}->{outputs}' + (f' stride {stride}' if stride > 1 else '')
    if dtype == torch.float32:
        rivals = _layer_of_spconv(
            kind, (inputs, outputs), indices, batch, features.detach(), stride=stride, bias=False
        )
    else:
        name += f' {dtype}'.replace('torch.', '')
    name, flop = f'{name}, {count} voxels', 2 * pairs * inputs * outputs
    if dtype == torch.float32:  # it is the same for all dtypes
        listed = indices.nbytes + book.pairs.nbytes + book.bounds.nbytes
        yield Case(name, 'rulebook', rulebook, bytes=listed, size=count)
    yield Case(name, 'forward', forward, rivals, flop=flop, size=count)
    yield Case(name, 'backward', backward, flop=2 * flop, size=count)


def _others(indices: Tensor, batch: int, channels: int) -> Iterator[Case]:
    yield from _max_pool(indices, batch, channels)
    yield from _sum(indices, batch, channels)
    yield from _dense(indices, batch, channels)


def _max_pool(indices: Tensor, batch: int, channels: int) -> Iterator[Case]:
    count, geometry = len(indices), ([3] * 3, [2] * 3, [1] * 3, [1] * 3)
    features = torch.randn(count, channels, requires_grad=True)

    @torch.no_grad()
    def forward() -> Tensor:
        return sparse_max_pool(features, build_rulebook(indices, batch, GRID, *geometry))

    book = build_rulebook(indices, batch, GRID, *geometry)
    out = sparse_max_pool(features, book)
    grad = torch.randn_like(out)

    def backward() -> None:
        torch.ops.mxd.sparse_conv_rulebook_transpose(book.pairs, book.bounds, count)
        torch.autograd.grad(out, features, grad, retain_graph=True)

    rivals = _layer_of_spconv('SparseMaxPool3d', (), indices, batch, features.detach(), stride=2)
    name = f'SparseMaxPool3d {channels} stride 2, {count} voxels'
    moved = 4 * channels * (count + 2 * len(out))  # the argmax beside the output
    yield Case(name, 'forward', forward, rivals, bytes=moved + book.pairs.nbytes, size=count)
    yield Case(name, 'backward', backward, bytes=moved + 2 * book.pairs.nbytes, size=count)


def _sum(indices: Tensor, batch: int, channels: int) -> Iterator[Case]:
    """Two tensors that share about half of their voxels."""
    count = len(indices)
    other = (indices - torch.tensor([0, 0, 0, 1], dtype=torch.int32)).clamp(min=0).unique(dim=0)
    leaves = [torch.randn(len(rows), channels, requires_grad=True) for rows in (indices, other)]

    def run() -> Tensor:
        args = zip(leaves, (indices, other))
        return sparse_add(*(SparseConvTensor(x, rows, GRID, batch) for x, rows in args)).features

    @torch.no_grad()
    def forward() -> Tensor:
        return run()

    out, spconv, rivals = run(), _spconv(), {}
    if spconv:

        @torch.no_grad()
        def theirs() -> object:
            args = zip(leaves, (indices, other))
            tensors = (spconv.SparseConvTensor(x, rows, GRID, batch) for x, rows in args)
            return spconv.functional.sparse_add(*tensors)

        rivals['spconv'] = theirs
    grad = torch.randn_like(out)

    def backward() -> None:
        torch.autograd.grad(out, leaves, grad, retain_graph=True)

    name, size = f'sparse_add {channels}, {count} voxels', 4 * channels * len(out)
    moved = 4 * channels * sum(map(len, leaves))
    yield Case(name, 'forward', forward, rivals, bytes=moved + size, size=count)
    yield Case(name, 'backward', backward, bytes=2 * moved, size=count)


def _dense(indices: Tensor, batch: int, channels: int) -> Iterator[Case]:
    """The grid that a detector's head sees: an eighth of the resolution, two cells high."""
    shape = [2, 180, 180]
    cells = (indices // torch.tensor([1, 21, 8, 8], dtype=torch.int32)).unique(dim=0)
    features = torch.randn(len(cells), channels, requires_grad=True)
    out = sparse_to_dense(features, cells, batch, shape)
    grad, rivals, back, spconv = torch.randn_like(out), {}, {}, _spconv()

    @torch.no_grad()
    def forward() -> Tensor:
        return sparse_to_dense(features, cells, batch, shape)

    def backward() -> None:
        torch.autograd.grad(out, features, grad, retain_graph=True)

    if spconv:
        rivals['spconv'] = spconv.SparseConvTensor(features.detach(), cells, shape, batch).dense
        leaf = spconv.SparseConvTensor(features, cells, shape, batch).dense()
        back['spconv'] = lambda: torch.autograd.grad(leaf, features, grad, retain_graph=True)
    name, moved = f'dense {channels}, {len(cells)} voxels', 4 * out.numel()
    yield Case(name, 'forward', forward, rivals, bytes=moved, size=len(indices))
    moved = 2 * features.nbytes
    yield Case(name, 'backward', backward, back, bytes=moved, size=len(indices))
