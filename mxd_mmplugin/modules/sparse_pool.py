"""Sparse max pooling layers."""

from typing import Any, Optional

from ..ops import sparse_max_pool
from .sparse_layer import Sizes, SparseLayer, layer_class
from .sparse_tensor import SomeSparseTensor, like


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
        features = sparse_max_pool(x.features, rulebook)
        return like(x, features, rulebook.out_indices, list(rulebook.out_shape))

    def extra_repr(self) -> str:
        """Arguments, for print(model)."""
        names = ['kernel_size', 'stride', 'padding', 'dilation', 'indice_key', 'subm']
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d = (
    layer_class('SparseMaxPool', ndim, SparseMaxPool) for ndim in (1, 2, 3, 4)
)
