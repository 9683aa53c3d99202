"""The operators: one file an op family, functions with autograd over `torch.ops.mxd`."""

import torch

from . import library

library.load()

from . import fallback  # noqa: E402  (its kernels belong to the schemas that the library defines)
from .bev_pool import BEVPoolPlan, bev_pool, bev_pool_plan, npu_bev_pool  # noqa: E402
from .dynamic_scatter import dynamic_scatter  # noqa: E402
from .sparse_conv import Rulebook, build_rulebook, sparse_conv  # noqa: E402
from .voxelize import (  # noqa: E402
    Voxels,
    dynamic_voxelize,
    gather_features_by_pc_voxel_id,
    hard_voxelize,
    voxelization,
)

__all__ = [
    'BEVPoolPlan',
    'Rulebook',
    'Voxels',
    'backends',
    'bev_pool',
    'bev_pool_plan',
    'build_rulebook',
    'dynamic_scatter',
    'dynamic_voxelize',
    'fallback',
    'gather_features_by_pc_voxel_id',
    'hard_voxelize',
    'npu_bev_pool',
    'sparse_conv',
    'voxelization',
]

OPERATORS = (
    'bev_pool_plan',
    'bev_pool',
    'bev_pool_grad',
    'dynamic_scatter_plan',
    'dynamic_scatter',
    'sparse_conv_rulebook',
    'sparse_conv_rulebook_transpose',
    'sparse_conv',
    'sparse_conv_weight_grad',
    'voxelize_dynamic',
    'voxelize_hard',
    'voxelize_gather',
    'voxelize_gather_grad',
)
DEVICES = {'cpu': 'CPU', 'npu': 'PrivateUse1', 'cuda': 'CUDA'}


def backends() -> dict:
    """How each operator is served on each device.

    Returns:
        dict[str, dict[str, str]]: operator name -> device type -> 'kernel' (of this package) or
        'pure PyTorch'.
    """
    return {
        name: {
            device: 'kernel'
            if torch._C._dispatch_has_kernel_for_dispatch_key(f'mxd::{name}', key)
            else 'pure PyTorch'
            for device, key in DEVICES.items()
        }
        for name in OPERATORS
    }
