"""What sparse convolution and pooling layers share: a window that moves over the grid, and its rulebook."""

from collections.abc import Sequence
from typing import Any, Optional, TypeVar, Union

from torch import Tensor

from ..ops import Rulebook, build_rulebook
from ..ops.sizes import whole, wholes
from ..ops.tracing import is_compiling
from .sparse_modules import SparseModule
from .sparse_tensor import SparseTensor

# Arguments of spconv's layers that choose among its CUDA kernels or name a layer for its profiler.
_SPCONV_OPTIONS = ('algo', 'fp32_accum', 'large_kernel_fast_algo', 'record_voxel_count', 'name')

# One number for every dimension, or one for each.
Sizes = Union[int, Sequence[int]]

Layer = TypeVar('Layer', bound='SparseLayer')


def numbers(name: str, value: Sizes, ndim: int, least: int) -> tuple[int, ...]:
    """`value` as `ndim` integers, each at least `least`."""
    try:
        values: tuple = tuple(value)  # type: ignore[arg-type] # or there is only one
    except TypeError:
        values = (value,) * ndim
    try:
        numbers = wholes(name, values, least)
    except ValueError:
        numbers = ()
    if len(numbers) != ndim:
        raise ValueError(
            f'{name} must be an integer of at least {least} or {ndim} of them, was {value!r}'
        )
    return numbers


def count(name: str, value: int) -> int:
    """`value`, an integer of at least 1."""
    try:
        return whole(name, value, 1)
    except ValueError:
        raise ValueError(f'{name} must be an integer of at least 1, was {value!r}') from None


class SparseLayer(SparseModule):
    """Base of the layers that move a window over the grid; a class for each kind and `ndim` follows.

    Args:
        kernel_size, stride, padding, dilation, output_padding (int or Sequence[int]): one number, or one for each
            dimension.
        indice_key (str, optional): layers with the same key share one rulebook. Submanifold layers of one geometry
            share it without a key too.
        options (dict): those of spconv's further arguments that were given; they have no effect here.
    """

    ndim: int
    inverse = False
    subm = False  # submanifold: voxels stay, stride and padding are not used
    transposed = False

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes,
        dilation: Sizes,
        output_padding: Sizes,
        indice_key: Optional[str],
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        for name in options:
            if name not in _SPCONV_OPTIONS:
                raise TypeError(
                    f'{type(self).__name__} got an unexpected keyword argument {name!r}'
                )
        self.kernel_size = numbers('kernel_size', kernel_size, self.ndim, 1)
        self.stride = numbers('stride', stride, self.ndim, 1)
        self.padding = numbers('padding', padding, self.ndim, 0)
        self.dilation = numbers('dilation', dilation, self.ndim, 1)
        self.output_padding = numbers('output_padding', output_padding, self.ndim, 0)
        self.indice_key = indice_key

    def _rulebook(self, x: SparseTensor) -> Rulebook:
        if isinstance(x.batch_size, Tensor):  # each time that it is read the host waits
            x.batch_size = whole('batch_size', x.batch_size)
        geometry: dict[str, Any] = dict(
            batch_size=whole('batch_size', x.batch_size),
            spatial_shape=wholes('spatial_shape', x.spatial_shape),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            output_padding=self.output_padding,
            subm=self.subm,
            transposed=self.transposed,
        )
        shared = x.find_indice_pair(self.indice_key)
        if shared is not None and self._can_share(shared, geometry, x.indices):
            return shared
        rulebook = self._known_or_new(x, geometry)
        if self.indice_key is not None and shared is None:
            x.indice_dict[self.indice_key] = rulebook
        return rulebook

    def _known_or_new(self, x: SparseTensor, geometry: dict[str, Any]) -> Rulebook:
        """A submanifold layer keeps the voxels, so the next one, with no key too, may need the same rulebook.

        It goes along with the sparse tensors of these voxels and ends with them.
        """
        if not self.subm or is_compiling():
            return build_rulebook(x.indices, **geometry)
        known = x.__dict__.setdefault('_rulebooks', {})
        window = tuple(geometry.values())
        rulebook = known.get(window)
        if rulebook is None or rulebook.indices is not x.indices or not rulebook.is_from(x.indices):
            rulebook = build_rulebook(x.indices, **geometry)
            if rulebook.counts_changes:
                known[window] = rulebook
        return rulebook

    def _check_ours(self, rulebook: object) -> str:
        key = f'indice_key {self.indice_key!r}'
        if not isinstance(rulebook, Rulebook):
            raise ValueError(
                f'{key} holds what a layer of another package made ({type(rulebook).__name__}); '
                'let all layers that share a key be of one package'
            )
        return key

    def _can_share(self, rulebook: Rulebook, geometry: dict, indices: Tensor) -> bool:
        """Whether the rulebook serves this layer too; refused is what it certainly does not serve."""
        key = self._check_ours(rulebook)
        unused = ('stride', 'padding', 'output_padding') if self.subm else ()
        for name in (name for name in geometry if name not in unused):
            if rulebook.geometry[name] != geometry[name]:
                raise ValueError(
                    f'{key} was made with {name} {rulebook.geometry[name]} and is reused with '
                    f'{geometry[name]}: give the layers different keys'
                )
        same = rulebook.is_from(indices)
        if same is False:
            raise ValueError(
                f'{key} was made for other voxels ({len(rulebook.indices)}, now {len(indices)}): '
                'give the layers different keys'
            )
        return same is True


def layer_class(kind: str, ndim: int, base: type[Layer], **attributes: bool) -> type[Layer]:
    """The class of a kind of layer for grids of `ndim` dimensions."""
    doc = f'`{base.__name__}` of a {ndim}-D grid; the arguments are told there.'
    names = dict(attributes, ndim=ndim, __doc__=doc, __module__=base.__module__)
    return type(f'{kind}{ndim}d', (base,), names)
