"""The operators: one file an op family, functions with autograd over `torch.ops.mxd`."""

import torch

from . import library

library.load()

from . import fallback  # noqa: E402  (its kernels belong to the schemas that the library defines)
from .bev_pool import (  # noqa: E402
    BEVPoolPlan,
    bev_pool,
    bev_pool_fused,
    bev_pool_plan,
    bev_pool_v2,
    npu_bev_pool,
)
from .deformable_aggregation import (  # noqa: E402
    DeformableAggregationFunction,
    deformable_aggregation,
    deformable_aggregation_function,
    npu_deformable_aggregation,
)
from .draw_gaussians import draw_gaussians  # noqa: E402
from .dynamic_scatter import dynamic_scatter, npu_dynamic_scatter  # noqa: E402
from .modulated_deform_conv import (  # noqa: E402
    DeformConv2dFunction,
    ModulatedDeformConv2dFunction,
    deform_conv2d,
    modulated_deform_conv2d,
)
from .rotated_iou import (  # noqa: E402
    box_iou_rotated,
    boxes_overlap_bev,
    circle_nms,
    grouped_nms,
    nms3d,
    nms3d_normal,
    nms_rotated,
)
from .sparse_add import sparse_sum, sparse_union  # noqa: E402
from .sparse_conv import Rulebook, build_rulebook, sparse_conv  # noqa: E402
from .sparse_dense import sparse_from_dense, sparse_to_dense  # noqa: E402
from .sparse_pool import (  # noqa: E402
    sparse_avg_pool,
    sparse_global_pool,
    sparse_max_pool,
)
from .voxelize import (  # noqa: E402
    Voxels,
    dynamic_voxelize,
    gather_features_by_pc_voxel_id,
    hard_voxelize,
    hard_voxelize_batch,
    voxelization,
)

__all__ = [
    'BEVPoolPlan',
    'DeformConv2dFunction',
    'DeformableAggregationFunction',
    'ModulatedDeformConv2dFunction',
    'Rulebook',
    'Voxels',
    'bev_pool',
    'bev_pool_fused',
    'bev_pool_plan',
    'bev_pool_v2',
    'box_iou_rotated',
    'boxes_overlap_bev',
    'build_rulebook',
    'circle_nms',
    'deform_conv2d',
    'deformable_aggregation',
    'deformable_aggregation_function',
    'draw_gaussians',
    'dynamic_scatter',
    'dynamic_voxelize',
    'gather_features_by_pc_voxel_id',
    'grouped_nms',
    'hard_voxelize',
    'hard_voxelize_batch',
    'modulated_deform_conv2d',
    'nms3d',
    'nms3d_normal',
    'nms_rotated',
    'npu_bev_pool',
    'npu_deformable_aggregation',
    'npu_dynamic_scatter',
    'sparse_avg_pool',
    'sparse_conv',
    'sparse_from_dense',
    'sparse_global_pool',
    'sparse_max_pool',
    'sparse_sum',
    'sparse_to_dense',
    'sparse_union',
    'voxelization',
]

OPERATORS = tuple(name for forms in fallback.FAMILIES.values() for name in forms)
DEVICES = {'cpu': 'CPU', 'npu': 'PrivateUse1', 'cuda': 'CUDA'}


def backends() -> dict[str, dict[str, str]]:
    """How each operator is served on each device.

    Returns:
        dict[str, dict[str, str]]: operator name -> device type -> 'kernel' (of this package; on an
        NPU 'Ascend kernel'), 'plain PyTorch', or 'plain PyTorch (MXD_DISABLE)' where that was asked.
    """
    disabled = {name for family in fallback.DISABLED for name in fallback.FAMILIES[family]}

    def server(name: str, device: str, key: str) -> str:
        if name in disabled:
            return 'plain PyTorch (MXD_DISABLE)'
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f'mxd::{name}', key):
            return 'plain PyTorch'
        return 'Ascend kernel' if device == 'npu' else 'kernel'

    return {
        name: {device: server(name, device, key) for device, key in DEVICES.items()}
        for name in OPERATORS
    }
