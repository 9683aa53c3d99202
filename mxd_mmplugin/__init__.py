"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from .compat import allow_mmengine_checkpoints
from .modules import SparseConv2d, SparseConv3d, SubMConv2d, SubMConv3d
from .registry import register

__version__ = '0.1.0'
__all__ = ['SparseConv2d', 'SparseConv3d', 'SubMConv2d', 'SubMConv3d']

allow_mmengine_checkpoints()
register()
