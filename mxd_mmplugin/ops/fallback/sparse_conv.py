"""Sparse convolution in plain PyTorch, on any device: keys, `unique` and `searchsorted`, then gather, matmul, scatter.

The rulebook has the layout that csrc/ops/sparse_conv.h describes, with all output rows in one tile.
"""

import itertools
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from ..sparse_conv import output_shape
from .plain import compute_dtype, plain_form
from .voxels import from_linear_key, linear_key, unique_keys


@plain_form('sparse_conv_rulebook')
def rulebook(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    subm: bool,
    transposed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `mxd_mmplugin.ops.build_rulebook`.

    Returns:
        tuple[Tensor, Tensor, Tensor]: out_indices int32 [M, ndim + 1], pairs int32 [P, 2] and
        bounds int64 [tiles, K + 1].
    """
    device = indices.device
    sizes = spatial_shape, kernel_size, stride, padding, dilation, output_padding
    out_shape = output_shape(*sizes, subm, transposed)
    if subm:
        stride = [1] * len(kernel_size)
        padding = [k // 2 * d for k, d in zip(kernel_size, dilation)]
    batch, coordinates = indices[:, 0].long(), indices[:, 1:].long()
    own_keys = unique_keys(indices, batch_size, spatial_shape)

    def vector(values: Sequence) -> Tensor:
        return torch.tensor(values, device=device)

    offsets = vector(list(itertools.product(*(range(k) for k in kernel_size))))
    reach = (offsets * vector(dilation))[:, None]  # [K, 1, ndim]
    if transposed:
        out = coordinates * vector(stride) - vector(padding) + reach
        reached = torch.ones_like(out, dtype=torch.bool)
    else:
        moved = coordinates + vector(padding) - reach
        out = torch.div(moved, vector(stride), rounding_mode='floor')
        reached = moved % vector(stride) == 0
    reached = (reached & (out >= 0) & (out < vector(out_shape))).all(-1)
    keys = linear_key(batch.expand(len(offsets), -1), out, out_shape)
    if subm:
        sites, order = torch.sort(own_keys)
        out_indices = indices.clone()
    else:
        sites = torch.unique(keys[reached])
        order = torch.arange(len(sites), device=device)
        out_indices = from_linear_key(sites, out_shape)
    place = torch.searchsorted(sites, keys).clamp(max=max(len(sites) - 1, 0))
    if len(sites):
        reached &= sites[place] == keys
    k, row = reached.nonzero(as_tuple=True)
    pairs = torch.stack([row, order[place[k, row]]], 1).int()
    counts = torch.bincount(k, minlength=len(offsets)).cumsum(0)
    bounds = torch.cat([counts.new_zeros(1), counts])[None]
    return out_indices, pairs, bounds if len(out_indices) else bounds[:0]


def offset_of_pairs(bounds: Tensor) -> Tensor:
    """The kernel offset, int64 [P], of each pair."""
    offsets = torch.arange(bounds.shape[1] - 1, device=bounds.device).repeat(len(bounds))
    return offsets.repeat_interleave((bounds[:, 1:] - bounds[:, :-1]).flatten())


@plain_form('sparse_conv_rulebook_transpose')
def rulebook_transpose(
    pairs: Tensor, bounds: Tensor, num_in: int, trusted: bool = False
) -> tuple[Tensor, Tensor]:
    """Exchange inputs and outputs; see `Rulebook.transpose`."""
    offset = offset_of_pairs(bounds)
    order = torch.argsort(offset, stable=True)
    counts = torch.bincount(offset, minlength=bounds.shape[1] - 1).cumsum(0)
    out_bounds = torch.cat([counts.new_zeros(1), counts])[None]
    return pairs[order].flip(1), out_bounds if num_in else out_bounds[:0]


@plain_form('sparse_conv_plan')
def make_plan(
    features: Tensor,
    weight: Tensor,
    pairs: Tensor,
    bounds: Tensor,
    num_out: int,
    groups: int,
    in_order: bool = False,
) -> Tensor:
    """See `Rulebook.plan`: none."""
    return pairs.new_empty(0)


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """[K, in / groups, out] -> [K, groups, in / groups, out / groups]."""
    volume, inputs, outputs = weight.shape
    return weight.reshape(volume, inputs, groups, outputs // groups).transpose(1, 2)


def pairs_of(offset: int, pairs: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The input rows and the output rows that a kernel offset pairs; offsets from `offset_of_pairs`."""
    source, target = pairs[offsets == offset].long().unbind(1)
    return source, target


@plain_form('sparse_conv')
def forward(
    features: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    pairs: Tensor,
    bounds: Tensor,
    num_out: int,
    groups: int,
    plan: Optional[Tensor] = None,
) -> Tensor:
    """See `mxd_mmplugin.ops.sparse_conv`; weight is [K, in / groups, out]."""
    total = compute_dtype(features.dtype)
    out = features.new_zeros(num_out, groups, weight.shape[2] // groups, dtype=total)
    offsets = offset_of_pairs(bounds)
    rows = features.reshape(len(features), groups, weight.shape[1])
    for k, matrix in enumerate(_grouped(weight, groups)):
        source, target = pairs_of(k, pairs, offsets)
        out.index_add_(0, target, torch.einsum('ngi,gio->ngo', rows[source], matrix).to(total))
    out = out.flatten(1)
    return (out if bias is None else out + bias).to(features.dtype)


@plain_form('sparse_conv_weight_grad')
def weight_grad(
    features: Tensor,
    grad: Tensor,
    pairs: Tensor,
    bounds: Tensor,
    groups: int,
    plan: Optional[Tensor] = None,
) -> Tensor:
    """Gradient of the weight, [K, in / groups, out]."""
    offsets = offset_of_pairs(bounds)
    rows = features.reshape(len(features), groups, features.shape[1] // groups)
    grads = grad.reshape(len(grad), groups, grad.shape[1] // groups)
    parts = []
    for k in range(bounds.shape[1] - 1):
        source, target = pairs_of(k, pairs, offsets)
        part = torch.einsum('ngi,ngo->igo', rows[source], grads[target])
        parts.append(part.flatten(1))
    return torch.stack(parts)
