"""Sparse max pooling in plain PyTorch, on any device: one gather and one select a kernel point."""

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form
from .sparse_conv import offset_of_pairs, pairs_of


@plain_form('sparse_max_pool')
def forward(features: Tensor, pairs: Tensor, bounds: Tensor, num_out: int) -> tuple[Tensor, Tensor]:
    """See `mxd_mmplugin.ops.sparse_max_pool`.

    Returns:
        tuple[Tensor, Tensor]: out [num_out, C] and argmax, int32 [num_out, C], the input row of each number or -1.
    """
    out = features.new_zeros(num_out, features.shape[1])
    argmax = torch.full_like(out, -1, dtype=torch.int32)
    offsets = offset_of_pairs(bounds)
    for k in range(bounds.shape[1] - 1):
        source, target = pairs_of(k, pairs, offsets)
        value, best, row = features[source], out[target], argmax[target]
        take = (value > best) | value.isnan() | (row < 0)
        out[target] = torch.where(take, value, best)
        argmax[target] = torch.where(take, source[:, None].int(), row)
    return out, argmax


@plain_form('sparse_max_pool_backward')
def backward(grad: Tensor, argmax: Tensor, pairs: Tensor, bounds: Tensor, num_in: int) -> Tensor:
    """Gradient of the features, [num_in, C], over the rulebook with input and output exchanged."""
    total = compute_dtype(grad.dtype)
    out = grad.new_zeros(num_in, grad.shape[1], dtype=total)
    offsets = offset_of_pairs(bounds)
    for k in range(bounds.shape[1] - 1):
        source, target = pairs_of(k, pairs, offsets)
        out[target] += grad[source].to(total) * (argmax[source] == target[:, None])
    return out.to(grad.dtype)
