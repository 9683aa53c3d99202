"""Sparse max pooling over a rulebook."""

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
