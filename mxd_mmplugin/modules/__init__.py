"""Modules with the signatures and the state_dict of mmcv's, spconv's and mx_driving's."""

from .deformable_aggregation import DeformableAggregation
from .dynamic_scatter import DynamicScatter
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
    SparseConvolution,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseInverseConv4d,
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
)
from .sparse_modules import (
    Identity,
    RemoveGrid,
    SparseBatchNorm,
    SparseIdentity,
    SparseModule,
    SparseReLU,
    SparseSequential,
    ToDense,
)
from .sparse_pool import (
    SparseMaxPool1d,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseMaxPool4d,
)
from .sparse_tensor import SparseConvTensor, sparse_add
from .voxelize import PointToVoxel, Voxelization

__all__ = [
    'DeformConv2d',
    'DeformConv2dPack',
    'DeformableAggregation',
    'DynamicScatter',
    'Identity',
    'ModulatedDeformConv2d',
    'ModulatedDeformConv2dPack',
    'PointToVoxel',
    'RemoveGrid',
    'SparseBatchNorm',
    'SparseConv1d',
    'SparseConv2d',
    'SparseConv3d',
    'SparseConv4d',
    'SparseConvTensor',
    'SparseConvTranspose1d',
    'SparseConvTranspose2d',
    'SparseConvTranspose3d',
    'SparseConvTranspose4d',
    'SparseConvolution',
    'SparseIdentity',
    'SparseInverseConv1d',
    'SparseInverseConv2d',
    'SparseInverseConv3d',
    'SparseInverseConv4d',
    'SparseMaxPool1d',
    'SparseMaxPool2d',
    'SparseMaxPool3d',
    'SparseMaxPool4d',
    'SparseModule',
    'SparseReLU',
    'SparseSequential',
    'SubMConv1d',
    'SubMConv2d',
    'SubMConv3d',
    'SubMConv4d',
    'ToDense',
    'Voxelization',
    'sparse_add',
]
