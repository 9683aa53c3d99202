"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from .packages import require_mmcv_ops

require_mmcv_ops()

from . import modules, ops  # noqa: E402
from .activation import activate  # noqa: E402
from .modules import *  # noqa: E402, F403
from .ops import *  # noqa: E402, F403

__version__ = '0.1.0'
__all__ = [*modules.__all__, *ops.__all__]

activate()
