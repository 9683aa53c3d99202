"""Rows interpolated between a few others, in plain PyTorch: for points between voxels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class InterpolateFunction(Function):
    """Sums of a few rows for each point, each row times a weight, with no tensor of all these rows.

    features are float32, float16 or bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """[M, C] to [N, C]; rows int64 and weights float32 [N, taps]. Sums are in float32."""
        ctx.save_for_backward(rows, weights)
        ctx.count, ctx.dtype = len(features), features.dtype
        out = torch.zeros(len(rows), features.shape[1], dtype=weights.dtype, device=rows.device)
        for row, weight in zip(rows.unbind(1), weights.unbind(1)):
            out += features[row] * weight[:, None]
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Each row gets the gradients of the points that took it, times its weights there."""
        rows, weights = ctx.saved_tensors
        out = torch.zeros(ctx.count, grad.shape[1], dtype=weights.dtype, device=grad.device)
        for row, weight in zip(rows.unbind(1), weights.unbind(1)):
            out.index_add_(0, row, grad * weight[:, None])
        return out.to(ctx.dtype), None, None
