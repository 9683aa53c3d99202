"""The names of `mx_driving.fused` that this package has."""

from .ops import (
    DeformConv2dFunction,
    ModulatedDeformConv2dFunction,
    deform_conv2d,
    deformable_aggregation,
    modulated_deform_conv2d,
    npu_deformable_aggregation,
)

__all__ = [
    'DeformConv2dFunction',
    'ModulatedDeformConv2dFunction',
    'deform_conv2d',
    'deformable_aggregation',
    'modulated_deform_conv2d',
    'npu_deformable_aggregation',
]
