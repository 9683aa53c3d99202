"""Sparse convolution as a dense one: the independent reference of the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def scatter(features: Tensor, indices: Tensor, batch_size: int, shape) -> Tensor:
    """[N, C] and [N, ndim + 1] -> [batch_size, C, *shape]."""
    dense = features.new_zeros(batch_size, *shape, features.shape[1])
    dense = dense.index_put(tuple(indices.long().t()), features)
    return dense.movedim(-1, 1)


def gather(dense: Tensor, indices: Tensor) -> Tensor:
    """[batch_size, C, *shape] at [N, ndim + 1] -> [N, C]."""
    return dense.movedim(1, -1)[tuple(indices.long().t())]


def to_dense_weight(weight: Tensor) -> Tensor:
    """[*kernel, in / groups, out] -> [out, in / groups, *kernel]."""
    return weight.movedim(-1, 0).movedim(-1, 1)


def convolve(dense, weight, bias, stride, padding, dilation, groups, subm) -> Tensor:
    """Dense convolution of [batch_size, C, *shape]; `subm` centres an odd or even kernel on every cell."""
    kernel = weight.shape[:-2]
    run = CONVOLUTIONS[len(kernel)]
    if subm:
        # i = o + (k - K // 2) * d: as many cells before, one fewer after where K is even.
        pads = []
        for k, d in zip(reversed(kernel), reversed(dilation)):
            pads += [k // 2 * d, (k - 1 - k // 2) * d]
        dense, stride, padding = F.pad(dense, pads), [1] * len(kernel), [0] * len(kernel)
    return run(dense, to_dense_weight(weight), bias, stride, padding, dilation, groups)


def reached(indices, batch_size, shape, kernel, stride, padding, dilation) -> Tensor:
    """The output voxels of a regular convolution, sorted, int32 [M, ndim + 1]."""
    ones = scatter(torch.ones(len(indices), 1), indices, batch_size, shape)
    weight = torch.ones(*kernel, 1, 1)
    out = convolve(ones, weight, None, stride, padding, dilation, 1, False)
    return (out[:, 0] > 0.5).nonzero().int()
