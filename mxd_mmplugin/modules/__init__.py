"""Modules with the signatures and the state_dict of mmcv's and mx_driving's."""

from .dynamic_scatter import DynamicScatter
from .sparse_conv import (
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConv4d,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
)
from .voxelize import PointToVoxel, Voxelization

__all__ = [
    'DynamicScatter',
    'PointToVoxel',
    'SparseConv1d',
    'SparseConv2d',
    'SparseConv3d',
    'SparseConv4d',
    'SparseConvTranspose1d',
    'SparseConvTranspose2d',
    'SparseConvTranspose3d',
    'SparseInverseConv1d',
    'SparseInverseConv2d',
    'SparseInverseConv3d',
    'SubMConv1d',
    'SubMConv2d',
    'SubMConv3d',
    'SubMConv4d',
    'Voxelization',
]
