"""Sparse tensors: our own, and what works alike on mmcv's, spconv's and ours."""

import math
from collections.abc import Sequence
from typing import Any, Optional, Protocol, SupportsIndex, TypeVar, Union

import torch
from mmcv.ops import SparseConvTensor as MmcvSparseConvTensor
from torch import Tensor

from ..ops import sparse_from_dense, sparse_sum, sparse_to_dense, sparse_union
from ..ops.autocast import promoted
from ..ops.sizes import whole, wholes
from ..ops.tracing import is_compiling
from ..packages import is_installed


class SparseTensor(Protocol):
    """What the sparse tensors of mmcv, spconv and this package have in common; see `SparseConvTensor`."""

    features: Tensor
    indices: Tensor
    spatial_shape: Sequence[int]
    batch_size: int
    grid: Optional[Tensor]
    indice_dict: dict

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        grid: Optional[Tensor] = None,
    ) -> None: ...

    def find_indice_pair(self, key: Optional[str]) -> Any:
        """What the layer that used the key left there, a rulebook where it is ours, or None."""

    def dense(self, channels_first: bool = True) -> Tensor:
        """The grid with zeros elsewhere."""


SomeSparseTensor = TypeVar('SomeSparseTensor', bound=SparseTensor)

# Code of mmcv, mmdet3d and spconv asks for its own class: ours is each that is installed.
if is_installed('spconv'):
    from spconv.pytorch import SparseConvTensor as SpconvSparseConvTensor

    TENSORS: tuple[type[SparseTensor], ...] = (MmcvSparseConvTensor, SpconvSparseConvTensor)
else:
    TENSORS = (MmcvSparseConvTensor,)

_INTEGERS = torch.int64, torch.int16, torch.int8, torch.uint8
# What sparse tensors carry besides features, indices, spatial_shape and batch_size.
_CARRIED = (
    'indice_dict',
    'grid',
    'voxel_num',
    'benchmark',
    'benchmark_record',
    'thrust_allocator',
    '_timer',
    'force_algo',
    'int8_scale',
)


def like(
    x: SomeSparseTensor, features: Tensor, indices: Tensor, spatial_shape: Sequence[int]
) -> SomeSparseTensor:
    """A sparse tensor with x's batch size and all that x carries.

    It is a `SparseConvTensor` of ours, which passes for mmcv's and spconv's and has the fast `dense`; for an x of any
    other class, one of that class.
    """
    # Not type(x), which PyTorch 2.6 cannot trace.
    cls: type = SparseConvTensor if x.__class__ in TENSORS else x.__class__
    out = cls(features, indices, spatial_shape, x.batch_size)
    same = not is_compiling() and indices is x.indices
    for name in (*_CARRIED, '_rulebooks') if same else _CARRIED:  # what is known of these voxels
        if hasattr(x, name):
            setattr(out, name, getattr(x, name))
    return out


def replace_feature(x: SomeSparseTensor, features: Tensor) -> SomeSparseTensor:
    """A sparse tensor as `like` makes it, with x's voxels and other features; x stays as it is."""
    return like(x, features, x.indices, x.spatial_shape)


def same_voxels(a: Tensor, b: Tensor) -> bool:
    """Whether two index tensors name the same voxels in the same order. Two tensors of one shape are read for it."""
    return a is b or (a.shape == b.shape and a.device == b.device and torch.equal(a, b))


class SparseConvTensor(*TENSORS):  # type: ignore[misc] # bases that are known at run time
    """Features at some cells of a batch of grids.

    The interface is that of mmcv's and spconv's classes of this name, and it passes for either of them.

    Args:
        features (Tensor): [N, C].
        indices (Tensor): int32 [N, ndim + 1], batch index and coordinates in the order of `spatial_shape`, each voxel
            once, in any order. Their values are checked by the layers, which read them anyway.
        spatial_shape (Sequence[int]): cells of the grid in each dimension.
        batch_size (int): batch indices are 0 to batch_size - 1.
        grid (Tensor, optional): kept for code that hands it on; our layers need none.
        voxel_num (Tensor, optional): the same.
        indice_dict (dict, optional): rulebooks by indice_key; layers with one key share one.
        benchmark (bool): kept for code that hands it on.

    Raises:
        ValueError: shapes that do not match, sizes below 1, two devices; TypeError: indices that are not int32, or no
            tensors.
    """

    _rows_checked = True  # whether the features must have a row for each of the indices

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[SupportsIndex],
        batch_size: SupportsIndex,
        grid: Optional[Tensor] = None,
        voxel_num: Optional[Tensor] = None,
        indice_dict: Optional[dict] = None,
        benchmark: bool = False,
    ) -> None:
        shape = [_size('spatial_shape', size) for size in spatial_shape]
        batch_size = _size('batch_size', batch_size)
        _check_indices(indices, len(shape))
        self.indices = indices
        for base in TENSORS:  # each sets what its own code reads
            base.__init__(self, features, indices, shape, batch_size, grid)
        self.features = features
        self.voxel_num = voxel_num
        self.indice_dict = {} if indice_dict is None else indice_dict
        self.benchmark = benchmark

    @property
    def features(self) -> Tensor:
        """[N, C]; may be set, to features of the same voxels."""
        return self._features

    @features.setter
    def features(self, value: Tensor) -> None:
        _check_features(value, self.indices, self._rows_checked)
        self._features = value

    @property
    def spatial_size(self) -> int:
        """Cells of one grid."""
        return math.prod(self.spatial_shape)

    @property
    def sparity(self) -> float:
        """The share of cells that are occupied; the spelling is mmcv's."""
        return self.indices.shape[0] / self.spatial_size / self.batch_size

    def find_indice_pair(self, key: Optional[str]) -> Any:
        """The rulebook of an indice_key, or None."""
        return None if key is None else self.indice_dict.get(key)

    def dense(self, channels_first: bool = True) -> Tensor:
        """The grid with zeros elsewhere: [batch_size, C, *spatial_shape], or with the channels last."""
        return sparse_to_dense(
            self.features, self.indices, self.batch_size, self.spatial_shape, channels_first
        )

    @classmethod
    def from_dense(cls, x: Tensor) -> 'SparseConvTensor':
        """The cells of x, [batch_size, *spatial_shape, C], that are not zero in every channel.

        Differentiable in x.
        """
        indices = (x != 0).any(-1).nonzero().int()
        features = sparse_from_dense(x, indices, channels_first=False)
        return cls(features, indices, x.shape[1:-1], x.shape[0])

    def replace_feature(self, feature: Tensor) -> 'SparseConvTensor':
        """The same voxels with other features, in a new tensor."""
        if self._rows_checked:
            return replace_feature(self, feature)
        out = self.shadow_copy()
        out.features = feature
        return out

    def shadow_copy(self) -> 'SparseConvTensor':
        """A new tensor with all members of this one.

        It may become one of other voxels: spconv's layers replace its features first and set `indices` after that.
        """
        out = replace_feature(self, self.features)
        out._rows_checked = False
        return out

    def select_by_index(self, valid_indices: Tensor) -> 'SparseConvTensor':
        """Some of the voxels, by row number or mask, with no rulebooks yet."""
        indices = self.indices[valid_indices]
        out = like(self, self.features[valid_indices], indices, self.spatial_shape)
        out.indice_dict = {}
        return out

    def minus(self) -> 'SparseConvTensor':
        """The same voxels with negated features."""
        return self.replace_feature(-self.features)

    def _features_of(self, other: Union[SparseTensor, Tensor]) -> Tensor:
        if isinstance(other, Tensor):
            return other
        if not same_voxels(self.indices, other.indices):
            raise ValueError(
                f'+ needs the same voxels on both sides, had {self.indices.shape[0]} and others, '
                f'{other.indices.shape[0]}: use sparse_add'
            )
        return other.features

    def __add__(self, other: Union[SparseTensor, Tensor]) -> 'SparseConvTensor':
        return self.replace_feature(self.features + self._features_of(other))

    __radd__ = __add__

    def __iadd__(self, other: Union[SparseTensor, Tensor]) -> 'SparseConvTensor':
        self._features += self._features_of(other)
        return self

    def __repr__(self) -> str:
        return (
            f'SparseConvTensor(features={tuple(self.features.shape)}, '
            f'spatial_shape={self.spatial_shape}, batch_size={self.batch_size})'
        )


def _size(name: str, value: SupportsIndex) -> int:
    try:
        size = whole(name, value)
    except ValueError:
        raise ValueError(f'{name} must hold integers of at least 1, had {value!r}') from None
    if size < 1:
        raise ValueError(f'{name} must be at least 1, was {size}')
    return size


def _check_indices(indices: Tensor, ndim: int) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int32:
        kind = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        hint = '' if kind not in _INTEGERS else ': convert them with indices.int()'
        raise TypeError(f'indices must be an int32 tensor, was {kind}{hint}')
    if indices.dim() != 2 or indices.shape[1] != ndim + 1:
        raise ValueError(
            f'indices must have shape [voxels, {ndim + 1}] (batch and {ndim} coordinates, one for '
            f'each of spatial_shape), was {list(indices.shape)}'
        )


def _check_features(features: Tensor, indices: Tensor, rows: bool) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f'features must be a tensor, was {type(features).__name__}')
    if features.dim() != 2 or (rows and features.shape[0] != indices.shape[0]):
        raise ValueError(
            f'features must have shape [{indices.shape[0]}, channels], a row for each of the '
            f'indices, was {list(features.shape)}'
        )
    if features.device != indices.device:
        raise ValueError(
            f'features and indices must be on one device, were on {features.device} '
            f'and {indices.device}'
        )


def sparse_add(*tensors: SomeSparseTensor) -> SomeSparseTensor:
    """Sum sparse tensors of one grid that have different voxels.

    The result has every voxel of any of them. Where one tensor has them all its order, its indices and its
    `indice_dict` are kept, so that an inverse convolution finds its way back; otherwise voxels are sorted by batch and
    coordinates and the `indice_dict` is empty.

    Args:
        *tensors (SparseConvTensor): of mmcv, spconv or ours, with one spatial_shape, batch_size, number of channels
            and device. Dtypes are promoted, as `+` does it.

    Returns:
        SparseConvTensor: ours, or of the first one's class where that is a user's own. Differentiable in all features;
        each sum is taken in the order of the tensors.

    Raises:
        ValueError: no tensors, or two that do not go together; a voxel outside of the grid or twice in one tensor.
    """
    if not tensors:
        raise ValueError('sparse_add needs at least one tensor')
    first, *others = tensors
    for name, value in _grids(first).items():
        for n, x in enumerate(others, 1):
            if _grids(x)[name] != value:
                raise ValueError(
                    f'tensors must have one {name}, was {value} in tensor 0 and '
                    f'{_grids(x)[name]} in tensor {n}'
                )
    if all(same_voxels(first.indices, x.indices) for x in others):
        return replace_feature(first, sum((x.features for x in others), first.features))

    all_indices = [x.indices for x in tensors]
    indices, rows = sparse_union(all_indices, first.batch_size, first.spatial_shape)
    voxels, begin, indice_dict = indices.shape[0], 0, {}
    for x in tensors:
        count = x.indices.shape[0]
        if count == voxels:
            place = torch.empty_like(rows[:voxels])
            place[rows[begin : begin + count].long()] = torch.arange(
                count, device=rows.device
            ).int()
            indices, rows, indice_dict = x.indices, place[rows.long()], x.indice_dict
            break
        begin += count
    features = sparse_sum(promoted(*(x.features for x in tensors)), rows, voxels)
    out = like(first, features, indices, first.spatial_shape)
    out.indice_dict = indice_dict
    return out


def _grids(x: SparseTensor) -> dict[str, object]:
    return dict(
        spatial_shape=list(wholes('spatial_shape', x.spatial_shape)),
        batch_size=whole('batch_size', x.batch_size),
        channels=x.features.shape[1],
        device=x.features.device,
    )
