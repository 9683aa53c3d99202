"""Voxels as numbers in plain PyTorch: the row-major cell number of (batch index, coordinates) and back."""

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_key(batch: Tensor, coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """Row-major cell number, int64, of (...,) batch indices and (..., ndim) coordinates."""
    key = batch
    for dimension, size in enumerate(shape):
        key = key * size + coordinates[..., dimension]
    return key


def from_linear_key(key: Tensor, shape: Sequence[int]) -> Tensor:
    """int32 [N, ndim + 1], batch index and coordinates, of [N] cell numbers."""
    columns = []
    for size in reversed(shape):
        columns.append(key % size)
        key = torch.div(key, size, rounding_mode='floor')
    return torch.stack([key, *reversed(columns)], 1).int()


def check_voxels(indices: Tensor, batch_size: int, spatial_shape: Sequence[int]) -> None:
    """Refuse voxels outside of the grid."""
    limit = indices.new_tensor([batch_size, *spatial_shape])
    if ((indices < 0) | (indices >= limit)).any():
        torch.ops.mxd._check_voxels(indices, batch_size, spatial_shape)  # says which one


def unique_keys(indices: Tensor, batch_size: int, spatial_shape: Sequence[int]) -> Tensor:
    """The cell numbers of voxels, int64 [N]. Refuses those outside of the grid, and those that are there twice."""
    check_voxels(indices, batch_size, spatial_shape)
    keys = linear_key(indices[:, 0].long(), indices[:, 1:].long(), spatial_shape)
    if torch.unique(keys).numel() < len(keys):
        torch.ops.mxd._check_voxels(indices, batch_size, spatial_shape)
    return keys
