"""The operators: one file an op family, functions with autograd over `torch.ops.mxd`."""

import torch

from . import library

library.load()

from . import fallback  # noqa: E402  (its kernels belong to the schemas that the library defines)
from .deformable_aggregation import (  # noqa: E402
    DeformableAggregationFunction,
    deformable_aggregation,
    deformable_aggregation_function,
    npu_deformable_aggregation,
)
from .sparse_conv import Rulebook, build_rulebook, sparse_conv  # noqa: E402

__all__ = [
    'DeformableAggregationFunction',
    'Rulebook',
    'backends',
    'build_rulebook',
    'deformable_aggregation',
    'deformable_aggregation_function',
    'fallback',
    'npu_deformable_aggregation',
    'sparse_conv',
]

OPERATORS = (
    'deformable_aggregation',
    'deformable_aggregation_feature_grad',
    'deformable_aggregation_sample_grad',
    'sparse_conv_rulebook',
    'sparse_conv_rulebook_transpose',
    'sparse_conv',
    'sparse_conv_weight_grad',
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
