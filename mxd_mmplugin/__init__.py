"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from . import modules, ops
from .bevfusion_ops import serve_project
from .compat import allow_mmengine_checkpoints
from .modules import *  # noqa: F403
from .ops import *  # noqa: F403
from .registry import cuda_serves, register

__version__ = '0.1.0'
__all__ = [*modules.__all__, *ops.__all__]

allow_mmengine_checkpoints()
register()
if not cuda_serves():
    serve_project()
