"""Sparse voxels to a dense grid and back in plain PyTorch, on any device."""

from .sparse_conv import LIBRARY
from .voxels import check_indices


def to_dense(features, indices, batch_size, spatial_shape, channels_first):
    """See `mxd_mmplugin.ops.sparse_to_dense`."""
    check_indices(indices, batch_size, spatial_shape)
    if features.dim() != 2 or len(features) != len(indices):
        raise ValueError(
            f'features must have shape [{len(indices)}, channels], a row for each of the indices, '
            f'was {list(features.shape)}'
        )
    out = features.new_zeros(batch_size, *spatial_shape, features.shape[1])
    out[tuple(indices.long().unbind(1))] = features
    return out.movedim(-1, 1).contiguous() if channels_first else out


def from_dense(dense, indices, channels_first):
    """See `mxd_mmplugin.ops.sparse_from_dense`."""
    if dense.dim() < 3:
        raise ValueError(
            f'dense must have a batch, a channel and spatial dimensions, was {list(dense.shape)}'
        )
    rows = dense.movedim(1, -1) if channels_first else dense
    check_indices(indices, rows.shape[0], rows.shape[1:-1])
    return rows[tuple(indices.long().unbind(1))]


LIBRARY.impl('sparse_to_dense', to_dense, 'CompositeExplicitAutograd')
LIBRARY.impl('sparse_from_dense', from_dense, 'CompositeExplicitAutograd')
