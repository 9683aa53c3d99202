"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from .compat import allow_mmengine_checkpoints
from .modules import *  # noqa: F403
from .modules import __all__ as _layers
from .ops import (
    DeformConv2dFunction,
    ModulatedDeformConv2dFunction,
    deform_conv2d,
    modulated_deform_conv2d,
)
from .registry import register

__version__ = '0.1.0'
__all__ = [
    *_layers,
    'DeformConv2dFunction',
    'ModulatedDeformConv2dFunction',
    'deform_conv2d',
    'modulated_deform_conv2d',
]

allow_mmengine_checkpoints()
register()
