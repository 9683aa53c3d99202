"""Sparse voxels to a dense grid and back in plain PyTorch, on any device."""

from collections.abc import Sequence

from torch import Tensor

from .plain import plain_form
from .voxels import check_voxels


@plain_form('sparse_to_dense')
def to_dense(
    features: Tensor,
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    channels_first: bool,
) -> Tensor:
    """See `mxd_mmplugin.ops.sparse_to_dense`."""
    check_voxels(indices, batch_size, spatial_shape)
    out = features.new_zeros(batch_size, *spatial_shape, features.shape[1])
    out[tuple(indices.long().unbind(1))] = features
    return out.movedim(-1, 1).contiguous() if channels_first else out


@plain_form('sparse_from_dense')
def from_dense(dense: Tensor, indices: Tensor, channels_first: bool) -> Tensor:
    """See `mxd_mmplugin.ops.sparse_from_dense`."""
    rows = dense.movedim(1, -1) if channels_first else dense
    check_voxels(indices, rows.shape[0], rows.shape[1:-1])
    return rows[tuple(indices.long().unbind(1))]
