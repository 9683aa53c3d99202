"""Sum of sparse tensors with different voxels in plain PyTorch, on any device."""

import torch

from .sparse_conv import LIBRARY
from .voxels import check_indices, from_linear_key, unique_keys


def union(indices, batch_size, spatial_shape):
    """See `mxd_mmplugin.ops.sparse_union`."""
    if not indices:
        raise ValueError('indices must have at least one tensor')
    for tensor in indices:
        check_indices(tensor, batch_size, spatial_shape)
    keys = torch.cat([unique_keys(tensor, spatial_shape) for tensor in indices])
    sites, rows = torch.unique(keys, return_inverse=True)
    return from_linear_key(sites, spatial_shape), rows.int()


def sum_(features, rows, num_out):
    """See `mxd_mmplugin.ops.sparse_sum`."""
    first, count = features[0], sum(len(tensor) for tensor in features)
    for tensor in features:
        if tensor.dtype != first.dtype:
            raise TypeError(
                f'features must have the dtype of the first, {first.dtype}, was {tensor.dtype}'
            )
        if tensor.dim() != 2 or tensor.shape[1] != first.shape[1]:
            raise ValueError(
                'features must have shape [voxels, channels] with the channels of the first, '
                f'was {list(tensor.shape)} beside {list(first.shape)}'
            )
    if rows.shape != (count,):
        raise ValueError(f'rows must have shape [{count}], was {list(rows.shape)}')
    out = first.new_zeros(
        num_out, first.shape[1], dtype=torch.promote_types(first.dtype, torch.float32)
    )
    for tensor, part in zip(features, rows.long().split([len(x) for x in features])):
        out.index_add_(0, part, tensor.to(out.dtype))
    return out.to(first.dtype)


LIBRARY.impl('sparse_union', union, 'CompositeExplicitAutograd')
LIBRARY.impl('sparse_sum', sum_, 'CompositeExplicitAutograd')
