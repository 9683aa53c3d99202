"""The names of `mx_driving.fused` that this package has."""

from . import ops

_NAMES = (
    'DeformConv2dFunction',
    'deform_conv2d',
    'ModulatedDeformConv2dFunction',
    'modulated_deform_conv2d',
    'deformable_aggregation',
    'npu_deformable_aggregation',
)

__all__ = [name for name in _NAMES if hasattr(ops, name)]

globals().update({name: getattr(ops, name) for name in __all__})
