"""The names of MinkowskiEngine that mmdet3d's FCAF3D uses, on the operators of this package.

Coordinates may be negative; kernels, strides and dilations are one number for the three dimensions. A checkpoint that
was trained with MinkowskiEngine loads as it is.
"""

from types import SimpleNamespace

from .layers import (
    BasicBlock,
    Bottleneck,
    MinkowskiBatchNorm,
    MinkowskiConvolution,
    MinkowskiELU,
    MinkowskiGenerativeConvolutionTranspose,
    MinkowskiInstanceNorm,
    MinkowskiMaxPooling,
    MinkowskiPruning,
    MinkowskiReLU,
    kaiming_normal_,
)
from .tensor import SparseTensor, batch_sparse_collate

utils = SimpleNamespace(batch_sparse_collate=batch_sparse_collate, kaiming_normal_=kaiming_normal_)

__all__ = [
    'BasicBlock',
    'Bottleneck',
    'MinkowskiBatchNorm',
    'MinkowskiConvolution',
    'MinkowskiELU',
    'MinkowskiGenerativeConvolutionTranspose',
    'MinkowskiInstanceNorm',
    'MinkowskiMaxPooling',
    'MinkowskiPruning',
    'MinkowskiReLU',
    'SparseTensor',
    'batch_sparse_collate',
    'kaiming_normal_',
    'utils',
]
