"""Sum of sparse tensors with different voxels in plain PyTorch, on any device."""

import torch

from .plain import compute_dtype, plain_form
from .voxels import from_linear_key, unique_keys


@plain_form('sparse_union')
def union(indices, batch_size, spatial_shape):
    """See `mxd_mmplugin.ops.sparse_union`."""
    keys = torch.cat([unique_keys(tensor, batch_size, spatial_shape) for tensor in indices])
    sites, rows = torch.unique(keys, return_inverse=True)
    return from_linear_key(sites, spatial_shape), rows.int()


@plain_form('sparse_sum')
def sum_(features, rows, num_out):
    """See `mxd_mmplugin.ops.sparse_sum`."""
    first = features[0]
    out = first.new_zeros(num_out, first.shape[1], dtype=compute_dtype(first.dtype))
    for tensor, part in zip(features, rows.long().split([len(x) for x in features])):
        out.index_add_(0, part, tensor.to(out.dtype))
    return out.to(first.dtype)
