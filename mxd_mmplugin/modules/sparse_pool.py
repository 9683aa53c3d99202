"""Sparse pooling layers."""

from typing import Any, Optional

from torch import Tensor

from ..ops import sparse_avg_pool, sparse_global_pool, sparse_max_pool
from .sparse_layer import Sizes, SparseLayer, layer_class
from .sparse_modules import SparseModule
from .sparse_tensor import SomeSparseTensor, SparseTensor, like


class SparseMaxPool(SparseLayer):
    """Base of the max pooling layers; a class for each `ndim` follows.

    It takes a `SparseConvTensor` of mmcv, spconv or ours and answers with ours, whose voxels are those of a convolution
    with the same window. See `mxd_mmplugin.ops.sparse_max_pool` for what the maximum is.

    Args:
        kernel_size, padding, dilation (int or Sequence[int]): one number, or one for each dimension in the order of
            `spatial_shape`.
        stride (int or Sequence[int], optional): the same; None is kernel_size. mmcv's default is 1 and spconv's None.
        indice_key (str, optional): layers with the same key share one rulebook, and an inverse convolution leads back.
        subm (bool): the voxels stay, the window is centred, stride and padding are not used.
        **options: `algo`, `record_voxel_count` and `name` of spconv, which have no effect here.
    """

    _pool = staticmethod(sparse_max_pool)

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Optional[Sizes] = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        indice_key: Optional[str] = None,
        subm: bool = False,
        **options: Any,
    ) -> None:
        stride = kernel_size if stride is None else stride
        super().__init__(kernel_size, stride, padding, dilation, 0, indice_key, options)
        self.subm = bool(subm)

    def forward(self, x: SomeSparseTensor) -> SomeSparseTensor:
        """Pool a sparse tensor.

        Args:
            x (SparseConvTensor): of mmcv, spconv or ours.

        Returns:
            SparseConvTensor: ours, or of x's class if that is a user's own, with x's channels and indice_dict.
        """
        rulebook = self._rulebook(x)
        features = self._pool(x.features, rulebook)
        return like(x, features, rulebook.out_indices, list(rulebook.out_shape))

    def extra_repr(self) -> str:
        """Arguments, for print(model)."""
        names = ['kernel_size', 'stride', 'padding', 'dilation', 'indice_key', 'subm']
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


class SparseAvgPool(SparseMaxPool):
    """Base of spconv's average pooling layers; a class for each `ndim` follows.

    As `SparseMaxPool`, with the mean of the voxels that are there and not of all cells of the window.

    Args:
        kernel_size, padding, dilation, indice_key, subm, **options: see `SparseMaxPool`.
        stride (int or Sequence[int], optional): the same; kernel_size where it is not given.
    """

    _pool = staticmethod(sparse_avg_pool)

    def __init__(
        self, kernel_size: Sizes, stride: Optional[Sizes] = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(kernel_size, stride, *args, **kwargs)


class SparseGlobalMaxPool(SparseModule):
    """The maximum of each channel over all voxels of a sample.

    Args:
        name (str, optional): spconv's, for its profiler; not used.
    """

    _reduce_type = 'max'

    def __init__(self, name: Optional[str] = None) -> None:
        super().__init__()

    def forward(self, x: SparseTensor) -> Tensor:
        """A sparse tensor to [batch_size, channels], 0 for a sample without voxels."""
        return sparse_global_pool(x.features, x.indices, int(x.batch_size), self._reduce_type)


class SparseGlobalAvgPool(SparseGlobalMaxPool):
    """The mean of each channel over all voxels of a sample; see `SparseGlobalMaxPool`."""

    _reduce_type = 'mean'


SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d = (
    layer_class('SparseMaxPool', ndim, SparseMaxPool) for ndim in (1, 2, 3, 4)
)
SparseAvgPool1d, SparseAvgPool2d, SparseAvgPool3d = (
    layer_class('SparseAvgPool', ndim, SparseAvgPool) for ndim in (1, 2, 3)
)
