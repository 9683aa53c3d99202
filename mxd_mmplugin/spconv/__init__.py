"""The sparse names of spconv 2 and mx_driving: `import mxd_mmplugin.spconv as spconv` in place of `spconv.pytorch`.

Everything here is what `mxd_mmplugin` itself exports, with two differences: a max pooling layer's stride is its
kernel_size unless it is given, as in spconv; and the arguments of an inverse convolution may follow its kernel_size in
spconv's order (`indice_key`, `bias`, ...) or in mx_driving's (`stride`, `padding`, ...).
"""

from enum import Enum
from typing import Any, Optional

from .. import modules
from ..modules import *  # noqa: F403
from ..modules.sparse_conv import SparseInverseConvolution
from ..modules.sparse_layer import Sizes
from ..modules.sparse_pool import SparseMaxPool
from . import functional, utils

_FAMILY = f'{modules.__name__}.sparse_'
_names = [name for name in modules.__all__ if getattr(modules, name).__module__.startswith(_FAMILY)]

__all__ = [*_names, 'Activation', 'ConvAlgo', 'functional', 'utils']


class Activation(Enum):
    """The activations that a convolution may end with, `act_type`; spconv has them from its package cumm."""

    None_ = 0
    ReLU = 1
    Sigmoid = 2
    LeakyReLU = 3


class ConvAlgo(Enum):
    """spconv's CUDA algorithms, for code that names one; our layers take it and have a single way each."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2


class _StrideOfKernel(SparseMaxPool):
    def __init__(
        self, kernel_size: Sizes, stride: Optional[Sizes] = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(kernel_size, stride, *args, **kwargs)


class _InverseOfEither(SparseInverseConvolution):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, *args: Any, **kwargs: Any
    ) -> None:
        # spconv's first one is a key, mx_driving's a number.
        order = _SPCONV_ORDER if not args or isinstance(args[0], str) else _MX_DRIVING_ORDER
        if len(args) > len(order):
            raise TypeError(f'{type(self).__name__} takes {3 + len(order)} arguments at most')
        for name, value in zip(order, args):
            if name in kwargs:
                raise TypeError(f'{type(self).__name__} got two values for {name!r}')
            kwargs[name] = value
        kwargs.pop('inverse', None)  # it is one
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)


_SPCONV_ORDER = 'indice_key', 'bias', 'algo', 'fp32_accum', 'large_kernel_fast_algo', 'name'
_MX_DRIVING_ORDER = (
    *('stride', 'padding', 'dilation', 'groups', 'bias', 'inverse', 'indice_key', 'mode'),
)


def _class(name: str, first: type) -> type:
    base = getattr(modules, name)
    names = dict(__doc__=base.__doc__, __module__=__name__)
    return type(name, (first, base), names)


SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d = (
    _class(f'SparseMaxPool{ndim}d', _StrideOfKernel) for ndim in (1, 2, 3, 4)
)
SparseInverseConv1d, SparseInverseConv2d, SparseInverseConv3d, SparseInverseConv4d = (
    _class(f'SparseInverseConv{ndim}d', _InverseOfEither) for ndim in (1, 2, 3, 4)
)
