"""Sparse voxels to a dense grid and back, each the other's gradient."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function

from .sizes import whole, wholes
from .tracing import apply


class SparseToDenseFunction(Function):
    """Autograd of `sparse_to_dense`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        indices: Tensor,
        batch_size: int,
        spatial_shape: Sequence[int],
        channels_first: bool,
    ) -> Tensor:
        """Scatter into zeros."""
        ctx.save_for_backward(indices)
        ctx.channels_first = channels_first
        return torch.ops.mxd.sparse_to_dense(
            features, indices, batch_size, spatial_shape, channels_first
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Gather."""
        (indices,) = ctx.saved_tensors
        return sparse_from_dense(grad, indices, ctx.channels_first), None, None, None, None


class SparseFromDenseFunction(Function):
    """Autograd of `sparse_from_dense`."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, indices: Tensor, channels_first: bool) -> Tensor:
        """Gather."""
        ctx.save_for_backward(indices)
        ctx.sizes, ctx.channels_first = dense.shape, channels_first
        return torch.ops.mxd.sparse_from_dense(dense, indices, channels_first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Scatter into zeros."""
        (indices,), (batch_size, *shape) = ctx.saved_tensors, ctx.sizes
        shape = shape[1:] if ctx.channels_first else shape[:-1]
        return sparse_to_dense(grad, indices, batch_size, shape, ctx.channels_first), None, None


def sparse_to_dense(
    features: Tensor,
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    channels_first: bool = True,
) -> Tensor:
    """Put the voxels of a sparse tensor into a grid of zeros.

    Args:
        features (Tensor): [N, C], of any dtype.
        indices (Tensor): int32 [N, ndim + 1], batch index and coordinates, each voxel once; of a voxel that is there
            twice either row may win.
        batch_size (int): batch indices are 0 to batch_size - 1.
        spatial_shape (Sequence[int]): cells of the grid in each dimension.
        channels_first (bool): [batch_size, C, *spatial_shape], else [batch_size, *spatial_shape, C].

    Returns:
        Tensor: the grid, contiguous, differentiable in features.

    Raises:
        ValueError: a voxel outside of the grid or the batch, or shapes that do not match; TypeError: indices that are
            not int32.
    """
    size, shape = whole('batch_size', batch_size), list(wholes('spatial_shape', spatial_shape))
    return apply(SparseToDenseFunction, features, indices, size, shape, channels_first)


def sparse_from_dense(dense: Tensor, indices: Tensor, channels_first: bool = True) -> Tensor:
    """Read the voxels of a sparse tensor from a grid: the inverse of `sparse_to_dense`.

    Args:
        dense (Tensor): [B, C, *spatial_shape], or with channels_first=False [B, *spatial_shape, C], of any dtype.
        indices (Tensor): int32 [N, ndim + 1], batch index and coordinates, each voxel once.
        channels_first (bool): where the channels of `dense` are.

    Returns:
        Tensor: [N, C], differentiable in dense.

    Raises:
        ValueError: a voxel outside of the grid, or shapes that do not match; TypeError: indices that are not int32.
    """
    return apply(SparseFromDenseFunction, dense, indices, channels_first)
