"""Voxels as numbers in plain PyTorch: the row-major cell number of (batch index, coordinates) and back."""

import torch
from torch import Tensor


def linear_key(batch: Tensor, coordinates: Tensor, shape) -> Tensor:
    """Row-major cell number, int64, of (...,) batch indices and (..., ndim) coordinates."""
    key = batch
    for dimension, size in enumerate(shape):
        key = key * size + coordinates[..., dimension]
    return key


def from_linear_key(key: Tensor, shape) -> Tensor:
    """int32 [N, ndim + 1], batch index and coordinates, of [N] cell numbers."""
    columns = []
    for size in reversed(shape):
        columns.append(key % size)
        key = torch.div(key, size, rounding_mode='floor')
    return torch.stack([key, *reversed(columns)], 1).int()


def check_indices(indices: Tensor, batch_size: int, spatial_shape) -> None:
    """Refuse indices of a wrong dtype or shape, and voxels outside of the grid."""
    if indices.dtype != torch.int32:
        raise TypeError(f'indices must be int32, was {indices.dtype}')
    if indices.dim() != 2 or indices.shape[1] != len(spatial_shape) + 1:
        raise ValueError(
            f'indices must have shape [voxels, {len(spatial_shape) + 1}], was {list(indices.shape)}'
        )
    limit = indices.new_tensor([batch_size, *spatial_shape])
    bad = ((indices < 0) | (indices >= limit)).any(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f'indices[{row}] is {indices[row].tolist()} (batch, then coordinates), outside of '
            f'batch_size {batch_size} or spatial_shape {list(spatial_shape)}'
        )


def unique_keys(indices: Tensor, spatial_shape) -> Tensor:
    """The cell numbers of voxels, int64 [N], none of which may be there twice."""
    keys = linear_key(indices[:, 0].long(), indices[:, 1:].long(), spatial_shape)
    if torch.unique(keys).numel() < len(keys):
        raise ValueError('indices must name each voxel once, and some are there twice')
    return keys
