"""Sparse pooling over a rulebook, and over the voxels of each sample."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .sparse_conv import Rulebook, check_features
from .tracing import apply


class SparseMaxPoolFunction(Function):
    """Autograd of `sparse_max_pool`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        pairs: Tensor,
        bounds: Tensor,
        back_pairs: Optional[Tensor],
        back_bounds: Optional[Tensor],
        num_out: int,
    ) -> Tensor:
        """Keep the input row that each number of the output came from."""
        out, argmax = torch.ops.mxd.sparse_max_pool(features, pairs, bounds, num_out)
        back = (pairs, bounds) if back_pairs is None else (back_pairs, back_bounds)
        ctx.save_for_backward(argmax, *back)
        ctx.num_in = features.shape[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Each number of the output gives its gradient to the one row that it came from."""
        argmax, *back = ctx.saved_tensors
        grad_features = torch.ops.mxd.sparse_max_pool_backward(grad, argmax, *back, ctx.num_in)
        return grad_features, None, None, None, None, None


def sparse_max_pool(features: Tensor, rulebook: Rulebook) -> Tensor:
    """Maximum over the voxels that are present in each window of a rulebook.

    Empty cells do not count: where all voxels of a window are negative the result is negative too. (The kernels of
    mmcv and spconv start at 0 and give 0 there.) Of equal numbers the first in the window's row-major order is taken
    and gets the gradient, and NaN goes through, both as in `torch.nn.MaxPool3d`.

    Args:
        features (Tensor): [N, C], float32, float64, float16 or bfloat16.
        rulebook (Rulebook): of the voxels that the features belong to, from `build_rulebook`.

    Returns:
        Tensor: [M, C], M being the rulebook's output voxels; 0 where an output meets no voxel, which happens in an
        inverse rulebook only. Differentiable once; bit-identical from run to run on the CPU.

    Raises:
        ValueError: features that are not [N, C]; TypeError: a dtype that is not floating.
    """
    check_features(features, rulebook)
    wanted = torch.is_grad_enabled() and features.requires_grad
    return apply(
        SparseMaxPoolFunction,
        features,
        rulebook.pairs,
        rulebook.bounds,
        *(rulebook.back if wanted else (None, None)),
        rulebook.out_indices.shape[0],
    )


def sparse_avg_pool(features: Tensor, rulebook: Rulebook) -> Tensor:
    """Mean of the voxels that are present in each window of a rulebook; empty cells do not count.

    Args:
        features (Tensor): [N, C], float32, float64, float16 or bfloat16 (the last two are summed in float32).
        rulebook (Rulebook): of the voxels that the features belong to, from `build_rulebook`.

    Returns:
        Tensor: [M, C], M being the rulebook's output voxels; 0 where an output meets no voxel, which happens in an
        inverse rulebook only. Differentiable.

    Raises:
        ValueError: features that are not [N, C].
    """
    check_features(features, rulebook)
    source, target = rulebook.pairs.long().unbind(1)
    return _mean(features[source], target, rulebook.out_indices.shape[0])


def sparse_global_pool(
    features: Tensor, indices: Tensor, batch_size: int, reduce_type: str
) -> Tensor:
    """Reduce the voxels of each sample.

    Args:
        features (Tensor): [N, C], floating.
        indices (Tensor): integers [N, ndim + 1], the batch index first.
        batch_size (int): samples.
        reduce_type (str): 'max' or 'mean'.

    Returns:
        Tensor: [batch_size, C], 0 for a sample without voxels. Differentiable; equal maxima share the gradient.

    Raises:
        ValueError: another reduce_type.
    """
    batch = indices[:, 0].long()
    if reduce_type == 'mean':
        return _mean(features, batch, batch_size)
    if reduce_type != 'max':
        raise ValueError(f"reduce_type must be 'max' or 'mean', was {reduce_type!r}")
    out = features.new_zeros(batch_size, features.shape[1])
    rows = batch[:, None].expand_as(features)
    return out.scatter_reduce(0, rows, features, 'amax', include_self=False)


def _mean(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """The mean of the rows [P, C] of each group, int64 [P]; [groups, C]."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    total = rows.new_zeros(groups, rows.shape[1], dtype=dtype).index_add(0, group, rows.to(dtype))
    ones = torch.ones_like(group, dtype=dtype)
    count = ones.new_zeros(groups).index_add(0, group, ones)
    return (total / count.clamp(min=1)[:, None]).to(rows.dtype)
