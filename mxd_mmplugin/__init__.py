"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from . import modules, ops
from .activation import activate
from .modules import *  # noqa: F403
from .ops import *  # noqa: F403

__version__ = '0.1.0'
__all__ = [*modules.__all__, *ops.__all__]

activate()
