"""Modules with the signatures and the state_dict of mmcv's and mx_driving's."""

from .modulated_deform_conv import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
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

__all__ = [
    'DeformConv2d',
    'DeformConv2dPack',
    'ModulatedDeformConv2d',
    'ModulatedDeformConv2dPack',
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
]
