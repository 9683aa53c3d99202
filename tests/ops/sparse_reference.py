"""Sparse convolution as a dense one: the independent reference of the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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


def convolve(
    dense,
    weight,
    bias,
    groups,
    *,
    kernel_size,
    stride,
    padding,
    dilation,
    output_padding,
    subm,
    transposed,
    **_,
) -> Tensor:
    """Dense convolution of [batch_size, C, *shape]; `subm` centres an odd or even kernel on every cell."""
    ndim = len(kernel_size)
    if transposed:
        # Their out-padding must stay below the stride; a longer input with a cut gives any.
        full = TRANSPOSED[ndim](
            dense, _to_transposed_weight(weight, groups), None, stride, 0, 0, groups, dilation
        )
        grown = F.pad(
            full,
            [
                n
                for p, more in zip(reversed(padding), reversed(output_padding))
                for n in (-p, more - p)
            ],
        )
        return grown if bias is None else grown + bias.view(-1, *[1] * ndim)
    if subm:
        # i = o + (k - K // 2) * d: as many cells before, one fewer after where K is even.
        pads = []
        for k, d in zip(reversed(kernel_size), reversed(dilation)):
            pads += [k // 2 * d, (k - 1 - k // 2) * d]
        dense, stride, padding = F.pad(dense, pads), [1] * ndim, [0] * ndim
    return CONVOLUTIONS[ndim](
        dense, to_dense_weight(weight), bias, stride, padding, dilation, groups
    )


def _to_transposed_weight(weight: Tensor, groups: int) -> Tensor:
    """[*kernel, in / groups, out] -> [in, out / groups, *kernel]."""
    parts = weight.chunk(groups, -1)
    return torch.cat([part.movedim(-2, 0).movedim(-1, 1) for part in parts])


def reached(indices, *, batch_size, spatial_shape, **geometry) -> Tensor:
    """The output voxels of a regular or transposed convolution, sorted, int32 [M, ndim + 1]."""
    ones = scatter(torch.ones(len(indices), 1), indices, batch_size, spatial_shape)
    weight = torch.ones(*geometry['kernel_size'], 1, 1)
    out = convolve(ones, weight, None, 1, **geometry)
    return (out[:, 0] > 0.5).nonzero().int()
