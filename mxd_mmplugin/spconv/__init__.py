"""The sparse names of spconv 2 and mx_driving: `import mxd_mmplugin.spconv as spconv` in place of `spconv.pytorch`.

Everything here is what `mxd_mmplugin` itself exports, with one difference: a max pooling layer's stride is its
kernel_size unless it is given, as in spconv.
"""

from enum import Enum
from typing import Any, Optional

from .. import modules
from ..modules import *  # noqa: F403
from ..modules.sparse_layer import Sizes
from ..modules.sparse_pool import SparseMaxPool
from . import functional, utils

_FAMILY = f'{modules.__name__}.sparse_'
_names = [name for name in modules.__all__ if getattr(modules, name).__module__.startswith(_FAMILY)]

__all__ = [*_names, 'ConvAlgo', 'functional', 'utils']


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


def _pool_class(name: str) -> type:
    base = getattr(modules, name)
    names = dict(__doc__=base.__doc__, __module__=__name__)
    return type(name, (_StrideOfKernel, base), names)


SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d = (
    _pool_class(f'SparseMaxPool{ndim}d') for ndim in (1, 2, 3, 4)
)
