"""Sparse voxels to a dense grid and back in plain PyTorch, on any device."""

from .plain import plain_form
from .voxels import check_voxels


@plain_form('sparse_to_dense')
def to_dense(features, indices, batch_size, spatial_shape, channels_first):
    """See `mxd_mmplugin.ops.sparse_to_dense`."""
    check_voxels(indices, batch_size, spatial_shape)
    out = features.new_zeros(batch_size, *spatial_shape, features.shape[1])
    out[tuple(indices.long().unbind(1))] = features
    return out.movedim(-1, 1).contiguous() if channels_first else out


@plain_form('sparse_from_dense')
def from_dense(dense, indices, channels_first):
    """See `mxd_mmplugin.ops.sparse_from_dense`."""
    rows = dense.movedim(1, -1) if channels_first else dense
    check_voxels(indices, rows.shape[0], rows.shape[1:-1])
    return rows[tuple(indices.long().unbind(1))]
