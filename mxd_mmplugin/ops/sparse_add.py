"""Sum of sparse tensors with different voxels: their union, and the sum over it."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function

from .sizes import whole, wholes
from .tracing import apply


class SparseSumFunction(Function):
    """Autograd of `sparse_sum`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, num_out: int, *features: Tensor) -> Tensor:
        """Sum the features of each output voxel in the order of the tensors."""
        ctx.save_for_backward(rows)
        ctx.counts = [tensor.shape[0] for tensor in features]
        return torch.ops.mxd.sparse_sum(features, rows, num_out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Each row gets the gradient of its output voxel."""
        (rows,) = ctx.saved_tensors
        parts = rows.split(ctx.counts)
        return (
            None,
            None,
            *(
                grad.index_select(0, part) if needed else None
                for part, needed in zip(parts, ctx.needs_input_grad[2:])
            ),
        )


def sparse_union(
    indices: Sequence[Tensor], batch_size: int, spatial_shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Find the voxels of several sparse tensors together.

    Args:
        indices (Sequence[Tensor]): int32 [N_t, ndim + 1] of each tensor, batch index and coordinates, each voxel once
            in a tensor, in any order.
        batch_size (int): batch indices are 0 to batch_size - 1.
        spatial_shape (Sequence[int]): cells of the grid in each dimension.

    Returns:
        tuple[Tensor, Tensor]: the union int32 [M, ndim + 1], sorted by batch and coordinates, and the row of it that
        each row of the concatenated indices has, int32 [sum of N_t].

    Raises:
        ValueError: a voxel outside of the grid or the batch, or twice in a tensor; TypeError: indices that are not
            int32.
    """
    shape = wholes('spatial_shape', spatial_shape)
    return torch.ops.mxd.sparse_union(list(indices), whole('batch_size', batch_size), shape)


def sparse_sum(features: Sequence[Tensor], rows: Tensor, num_out: int) -> Tensor:
    """Sum the features of several sparse tensors over the union of their voxels.

    Args:
        features (Sequence[Tensor]): [N_t, C] of each tensor; float32, float64, float16 or bfloat16 (the last two are
            summed in float32).
        rows (Tensor): int32 [sum of N_t], from `sparse_union`.
        num_out (int): voxels of the union.

    Returns:
        Tensor: [num_out, C], differentiable in every tensor; each sum is taken in the order of the tensors.

    Raises:
        ValueError: shapes that do not match; TypeError: dtypes that do not.
    """
    return apply(SparseSumFunction, rows, num_out, *features)


if hasattr(torch.library, 'register_fake'):  # PyTorch 2.4: tracing with sizes that depend on data

    @torch.library.register_fake('mxd::sparse_union')
    def _union_fake(
        indices: Sequence[Tensor], batch_size: int, spatial_shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        voxels = torch.library.get_ctx().new_dynamic_size()
        rows = sum(tensor.shape[0] for tensor in indices)
        first = indices[0]
        return first.new_empty(voxels, first.shape[1]), first.new_empty(rows)
