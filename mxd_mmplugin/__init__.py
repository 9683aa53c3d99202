"""Stock mmdet3d configs on Ascend NPUs and on CPUs: `custom_imports = dict(imports=['mxd_mmplugin'])`."""

from .compat import allow_mmengine_checkpoints
from .modules import *  # noqa: F403
from .modules import __all__ as _layers
from .ops import (
    BEVPoolPlan,
    bev_pool,
    bev_pool_plan,
    dynamic_scatter,
    dynamic_voxelize,
    gather_features_by_pc_voxel_id,
    hard_voxelize,
    npu_bev_pool,
    voxelization,
)
from .registry import register

__version__ = '0.1.0'
__all__ = [
    *_layers,
    'BEVPoolPlan',
    'bev_pool',
    'bev_pool_plan',
    'dynamic_scatter',
    'dynamic_voxelize',
    'gather_features_by_pc_voxel_id',
    'hard_voxelize',
    'npu_bev_pool',
    'voxelization',
]

allow_mmengine_checkpoints()
register()
