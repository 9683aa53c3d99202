"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference.

`MXD_DISABLE=family,...` in the environment has it serve these families on every device.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from . import (
    bev_pool,
    deformable_aggregation,
    draw_gaussians,
    dynamic_scatter,
    modulated_deform_conv,
    rotated_iou,
    sparse_add,
    sparse_conv,
    sparse_dense,
    sparse_pool,
    voxelize,
)

__all__ = [
    'bev_pool',
    'deformable_aggregation',
    'draw_gaussians',
    'dynamic_scatter',
    'modulated_deform_conv',
    'rotated_iou',
    'sparse_add',
    'sparse_conv',
    'sparse_dense',
    'sparse_pool',
    'voxelize',
]

FAMILIES: dict[str, dict[str, Callable]] = {
    'sparse_conv': {
        'sparse_conv_rulebook': sparse_conv.rulebook,
        'sparse_conv_rulebook_transpose': sparse_conv.rulebook_transpose,
        'sparse_conv_plan': sparse_conv.make_plan,
        'sparse_conv': sparse_conv.forward,
        'sparse_conv_weight_grad': sparse_conv.weight_grad,
    },
    'sparse_pool': {
        'sparse_max_pool': sparse_pool.forward,
        'sparse_max_pool_backward': sparse_pool.backward,
    },
    'sparse_dense': {
        'sparse_to_dense': sparse_dense.to_dense,
        'sparse_from_dense': sparse_dense.from_dense,
    },
    'sparse_add': {'sparse_union': sparse_add.union, 'sparse_sum': sparse_add.sum_},
    'modulated_deform_conv': {
        'modulated_deform_conv2d': modulated_deform_conv.forward,
        'modulated_deform_conv2d_backward': modulated_deform_conv.backward,
    },
    'deformable_aggregation': {
        'deformable_aggregation': deformable_aggregation.forward,
        'deformable_aggregation_feature_grad': deformable_aggregation.feature_grad,
        'deformable_aggregation_sample_grad': deformable_aggregation.sample_grad,
    },
    'voxelize': {
        'voxelize_hard': voxelize.hard,
        'voxelize_dynamic': voxelize.dynamic,
        'voxelize_gather': voxelize.gather,
        'voxelize_gather_grad': voxelize.gather_grad,
    },
    'dynamic_scatter': {
        'dynamic_scatter_plan': dynamic_scatter.plan,
        'dynamic_scatter': dynamic_scatter.forward,
    },
    'draw_gaussians': {'draw_gaussians': draw_gaussians.draw},
    'bev_pool': {
        'bev_pool_plan': bev_pool.plan,
        'bev_pool': bev_pool.forward,
        'bev_pool_grad': bev_pool.grad,
        'bev_pool_fused': bev_pool.fused,
        'bev_pool_fused_grad': bev_pool.fused_grad,
    },
    'rotated_iou': {
        'rotated_iou': rotated_iou.iou,
        'rotated_nms': rotated_iou.nms,
        'circle_nms': rotated_iou.circle_nms,
        'grouped_nms': rotated_iou.grouped_nms,
    },
}
FORMS = {f'mxd::{name}': form for forms in FAMILIES.values() for name, form in forms.items()}


class Plain(TorchDispatchMode):
    """While entered, every operator is its plain PyTorch form on any device, in forward and backward."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Optional[dict] = None,
    ) -> Any:
        """Exchange the operator; all that is not of this package is left alone."""
        return FORMS.get(func._schema.name, func)(*args, **(kwargs or {}))


def disabled(setting: str) -> frozenset[str]:
    """The families that a value of `MXD_DISABLE` names, separated by commas.

    Pooling goes with the convolution: the plain rulebook has a layout that only plain pooling reads.

    Raises:
        ValueError: a name that is no family.
    """
    names = {name.strip() for name in setting.split(',')} - {''}
    unknown = sorted(names - FAMILIES.keys())
    if unknown:
        raise ValueError(
            f'MXD_DISABLE must name families of {", ".join(FAMILIES)}, had {", ".join(unknown)}'
        )
    return frozenset(names | ({'sparse_pool'} if 'sparse_conv' in names else set()))


def _disable(families: Iterable[str]) -> torch.library.Library:
    """Register plain forms over the kernels of the CPU and of the NPU: the last registration wins."""
    library = torch.library.Library('mxd', 'IMPL')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that a kernel is replaced, which is what is wanted
        for family in families:
            for name, form in FAMILIES[family].items():
                for key in ('CPU', 'PrivateUse1'):
                    library.impl(name, form, key)
    return library


DISABLED = disabled(os.environ.get('MXD_DISABLE', ''))
_LIBRARY = _disable(DISABLED)  # kept: its registrations end with it
