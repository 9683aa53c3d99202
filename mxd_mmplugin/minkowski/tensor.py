"""MinkowskiEngine's sparse tensor: features at voxels, whose coordinates may be negative."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Optional

import torch
from torch import Tensor

from ..ops import Rulebook, build_rulebook, sparse_sum, sparse_union
from ..ops.interpolate import InterpolateFunction
from ..ops.tracing import apply

ALIGNMENT = 1024  # the grid begins at a multiple of every stride that a model has


@dataclass(frozen=True)
class Grid:
    """The finest grid of a batch, which all its sparse tensors share (MinkowskiEngine's coordinate manager).

    Attributes:
        origin (Tensor): int32 [3], the coordinates where cells are counted from.
        shape (tuple[int, int, int]): cells in each dimension.
        batch_size (int): of the batch.
    """

    origin: Tensor
    shape: tuple[int, ...]
    batch_size: int


@dataclass(eq=False)
class Voxels:
    """Some cells of a grid (MinkowskiEngine's coordinate map key).

    Attributes:
        cells (Tensor): int32 [N, 4], batch index and cells of `stride` coordinates each, from the grid's origin.
        stride (int): coordinates in a cell, in each dimension.
        grid (Grid): the finest grid.
    """

    cells: Tensor
    stride: int
    grid: Grid
    _made: dict = field(default_factory=dict, repr=False)  # what was derived from them

    @property
    def shape(self) -> list[int]:
        """Cells of this stride in each dimension."""
        return [-(-size // self.stride) for size in self.grid.shape]

    @cached_property
    def samples(self) -> tuple[Tensor, ...]:
        """The plan of `mxd.dynamic_scatter` by batch index, and before it the sample of each voxel among those."""
        _, *plan = torch.ops.mxd.dynamic_scatter_plan(self.cells[:, :1].contiguous())
        return tuple(plan)

    @cached_property
    def permutations(self) -> list[Tensor]:
        """For each sample the rows of its voxels."""
        batch = self.cells[:, 0]
        return [(batch == sample).nonzero().flatten() for sample in range(self.grid.batch_size)]

    def coordinates(self) -> Tensor:
        """int32 [N, 4], batch index and coordinates of the voxels."""
        place = self.cells[:, 1:] * self.stride + self.grid.origin
        return torch.cat([self.cells[:, :1], place], 1)

    def strided(self, stride: int) -> 'Voxels':
        """The cells, `stride` times as large, that these are in."""
        if stride == 1:
            return self
        if stride not in self._made:
            cells = torch.div(self.cells[:, 1:], stride, rounding_mode='floor')
            cells, *_ = torch.ops.mxd.dynamic_scatter_plan(torch.cat([self.cells[:, :1], cells], 1))
            self._made[stride] = Voxels(cells, self.stride * stride, self.grid)
        return self._made[stride]

    def rows_of(self, cells: Tensor) -> Tensor:
        """The row that each of int32 cells [M, 4] has here, int64 [M], -1 for one that is not here."""
        both = torch.cat([self.cells, cells])
        _, number, *_ = torch.ops.mxd.dynamic_scatter_plan(both)
        number = number.long()
        here, sought = number[: len(self.cells)], number[len(self.cells) :]
        table = torch.full((len(both),), -1, dtype=torch.int32, device=cells.device)
        table[here] = torch.arange(len(here), dtype=torch.int32, device=cells.device)
        return table[sought].long()

    def windows(self, kernel_size: int, stride: int, dilation: int = 1) -> 'Windows':
        """See `Windows`."""
        key = kernel_size, stride, dilation
        if key not in self._made:
            self._made[key] = Windows(self, *key)
        return self._made[key]

    def children(self, kernel_size: int, stride: int) -> tuple[Rulebook, 'Voxels']:
        """The rulebook to all cells that a transposed convolution reaches from here, and these cells."""
        key = 'children', kernel_size, stride
        if key not in self._made:
            book = self.book(kernel_size, stride, transposed=True)
            self._made[key] = book, Voxels(book.out_indices, self.stride // stride, self.grid)
        return self._made[key]

    def book(
        self,
        kernel_size: int,
        stride: int,
        dilation: int = 1,
        subm: bool = False,
        transposed: bool = False,
    ) -> Rulebook:
        """A rulebook as spconv has it. An odd kernel is centred, an even one begins at its voxel."""
        padding = kernel_size // 2 * dilation if kernel_size % 2 else 0
        size, step, pad, spread = (
            [number] * 3 for number in (kernel_size, stride, padding, dilation)
        )
        grid = self.grid.batch_size, self.shape
        return build_rulebook(self.cells, *grid, size, step, pad, spread, subm, transposed)


class Windows:
    """What a kernel with a stride sees of some voxels, from each cell with a voxel in it.

    spconv's convolution has an output wherever its kernel meets an input, which is more cells for a kernel that is
    larger than its stride, and fewer for one that is smaller.

    Args:
        voxels (Voxels): of the input.
        kernel_size, stride, dilation (int): in each dimension.
    """

    def __init__(self, voxels: Voxels, kernel_size: int, stride: int, dilation: int) -> None:
        subm = stride == 1 and kernel_size % 2 == 1
        self.outputs = voxels.strided(stride)
        self.book = voxels.book(kernel_size, stride, dilation, subm=subm)
        if not subm:
            found = Voxels(self.book.out_indices, self.outputs.stride, voxels.grid)
            self._rows = found.rows_of(self.outputs.cells)
        self._subm = subm

    def outputs_of(self, features: Tensor) -> Tensor:
        """Rows for the outputs out of those of the rulebook; zeros where the kernel sees no voxel."""
        if self._subm:
            return features
        rows = features.index_select(0, self._rows.clamp(min=0))
        return rows.masked_fill((self._rows < 0)[:, None], 0)


class SparseTensor:
    """MinkowskiEngine's `SparseTensor`.

    Args:
        features (Tensor): [N, C].
        coordinates (Tensor, optional): int32 [N, 4], batch index and coordinates; of rows with the same ones the first
            is kept. The host waits once for their range.
        coordinate_map_key (Voxels, optional): where the features are, in place of coordinates.
        coordinate_manager (Grid, optional): of the key, which knows it too.
    """

    def __init__(
        self,
        features: Tensor,
        coordinates: Optional[Tensor] = None,
        coordinate_map_key: Optional[Voxels] = None,
        coordinate_manager: Optional[Grid] = None,
    ) -> None:
        if coordinate_map_key is None:
            if coordinates is None:
                raise ValueError('coordinates or a coordinate_map_key must be given')
            coordinate_map_key, rows = _voxels(coordinates)
            features = features[rows]
        if len(features) != len(coordinate_map_key.cells):
            raise ValueError(
                f'features must have a row for each of the {len(coordinate_map_key.cells)} voxels, '
                f'was {list(features.shape)}'
            )
        self.features = features
        self.coordinate_map_key = coordinate_map_key

    @property
    def F(self) -> Tensor:  # noqa: N802 # MinkowskiEngine's name
        """The features."""
        return self.features

    @property
    def C(self) -> Tensor:  # noqa: N802
        """int32 [N, 4], batch index and coordinates."""
        return self.coordinate_map_key.coordinates()

    coordinates = C

    @property
    def coordinate_manager(self) -> Grid:
        """The grid that tensors of one batch share."""
        return self.coordinate_map_key.grid

    @property
    def tensor_stride(self) -> list[int]:
        """Coordinates in a voxel, in each dimension."""
        return [self.coordinate_map_key.stride] * 3

    @property
    def decomposition_permutations(self) -> list[Tensor]:
        """For each sample the rows of its voxels."""
        return self.coordinate_map_key.permutations

    @property
    def decomposed_coordinates(self) -> list[Tensor]:
        """For each sample its coordinates, int32 [N_i, 3]."""
        coordinates = self.C[:, 1:]
        return [coordinates[rows] for rows in self.decomposition_permutations]

    @property
    def decomposed_features(self) -> list[Tensor]:
        """For each sample its features [N_i, C]."""
        return [self.features[rows] for rows in self.decomposition_permutations]

    def with_features(self, features: Tensor) -> 'SparseTensor':
        """Other features at the same voxels."""
        return SparseTensor(features, coordinate_map_key=self.coordinate_map_key)

    def features_at_coordinates(self, query: Tensor) -> Tensor:
        """Features between the voxels: trilinear, with zeros where there is no voxel.

        Args:
            query (Tensor): float [M, 4], batch index and coordinates.

        Returns:
            Tensor: [M, C].
        """
        voxels = self.coordinate_map_key
        place = (query[:, 1:] - voxels.grid.origin) / voxels.stride
        begin = place.floor()
        ahead = place - begin
        batch, begin = query[:, :1].int(), begin.int()
        rows, weights = [], []
        for corner in range(8):
            step = [corner >> bit & 1 for bit in range(3)]
            cell = begin + torch.tensor(step, dtype=torch.int32, device=query.device)
            rows.append(voxels.rows_of(torch.cat([batch, cell], 1)))
            parts = zip(step, ahead.unbind(1))
            x, y, z = (part if forward else 1 - part for forward, part in parts)
            weights.append((x * y * z).masked_fill(rows[-1] < 0, 0))
        return apply(
            InterpolateFunction,
            self.features,
            torch.stack(rows, 1).clamp(min=0),
            torch.stack(weights, 1).float(),
        )

    def __add__(self, other: 'SparseTensor') -> 'SparseTensor':
        """The sum over the union of the voxels."""
        mine, its = self.coordinate_map_key, other.coordinate_map_key
        if mine is its:
            return self.with_features(self.features + other.features)
        if mine.stride != its.stride or mine.grid is not its.grid:
            raise ValueError('both tensors must be of one batch and one stride')
        cells, rows = sparse_union([mine.cells, its.cells], mine.grid.batch_size, mine.shape)
        features = sparse_sum([self.features, other.features], rows, len(cells))
        return SparseTensor(features, coordinate_map_key=Voxels(cells, mine.stride, mine.grid))


def _voxels(coordinates: Tensor) -> tuple[Voxels, Tensor]:
    """The voxels of coordinates int32 [N, 4], and the first row of each."""
    if not len(coordinates):
        raise ValueError('coordinates must not be empty')
    first, last = coordinates.amin(0), coordinates.amax(0)
    origin = torch.div(first[1:], ALIGNMENT, rounding_mode='floor') * ALIGNMENT
    batch, *shape = torch.cat([last[:1], last[1:] - origin]).tolist()
    shape = [-(-(size + 1) // ALIGNMENT) * ALIGNMENT for size in shape]
    cells = torch.cat([coordinates[:, :1], coordinates[:, 1:] - origin], 1).contiguous()
    unique, _, ranks, intervals = torch.ops.mxd.dynamic_scatter_plan(cells)
    voxels = Voxels(unique, 1, Grid(origin, tuple(shape), batch + 1))
    return voxels, ranks[intervals[:-1]].long()


def batch_sparse_collate(
    data: Sequence[tuple[Tensor, ...]], device: Any = None
) -> tuple[Tensor, ...]:
    """Join samples.

    Args:
        data (Sequence[tuple[Tensor, Tensor]]): coordinates [N_i, 3], also of float, and features [N_i, C] of each.
        device (optional): where to.

    Returns:
        tuple[Tensor, Tensor]: int32 [N, 4], batch index and coordinates rounded down, and [N, C].
    """
    parts = []
    for sample, (place, *_) in enumerate(data):
        place = place.floor().int() if place.is_floating_point() else place.int()
        parts.append(torch.nn.functional.pad(place, (1, 0), value=sample))
    joined = [torch.cat(parts), *(torch.cat(rest) for rest in list(zip(*data))[1:])]
    return tuple(tensor.to(device) for tensor in joined)
