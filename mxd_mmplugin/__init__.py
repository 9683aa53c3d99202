"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from .compat import allow_mmengine_checkpoints
from .modules import *  # noqa: F403
from .modules import __all__ as _modules
from .ops import build_rulebook, sparse_conv, sparse_max_pool, sparse_to_dense
from .registry import register

__version__ = '0.1.0'
__all__ = [*_modules, 'build_rulebook', 'sparse_conv', 'sparse_max_pool', 'sparse_to_dense']

allow_mmengine_checkpoints()
register()
