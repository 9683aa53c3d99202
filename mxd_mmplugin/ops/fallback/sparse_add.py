"""Sum of sparse tensors with different voxels in plain PyTorch, on any device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form
from .voxels import from_linear_key, unique_keys


@plain_form('sparse_union')
def union(
    indices: Sequence[Tensor], batch_size: int, spatial_shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """See `mxd_mmplugin.ops.sparse_union`."""
    keys = torch.cat([unique_keys(tensor, batch_size, spatial_shape) for tensor in indices])
    sites, rows = torch.unique(keys, return_inverse=True)
    return from_linear_key(sites, spatial_shape), rows.int()


@plain_form('sparse_sum')
def sum_(features: Sequence[Tensor], rows: Tensor, num_out: int) -> Tensor:
    """See `mxd_mmplugin.ops.sparse_sum`."""
    first = features[0]
    out = first.new_zeros(num_out, first.shape[1], dtype=compute_dtype(first.dtype))
    for tensor, part in zip(features, rows.long().split([len(x) for x in features])):
        out.index_add_(0, part, tensor.to(out.dtype))
    return out.to(first.dtype)
