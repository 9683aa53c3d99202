"""The operators: one file an op family, functions with autograd over `torch.ops.mxd`."""

import torch

from . import library

library.load()

from . import fallback  # noqa: E402  (its kernels belong to the schemas that the library defines)
from .modulated_deform_conv import (  # noqa: E402
    DeformConv2dFunction,
    ModulatedDeformConv2dFunction,
    deform_conv2d,
    modulated_deform_conv2d,
)
from .sparse_conv import Rulebook, build_rulebook, sparse_conv  # noqa: E402

__all__ = [
    'DeformConv2dFunction',
    'ModulatedDeformConv2dFunction',
    'Rulebook',
    'backends',
    'build_rulebook',
    'deform_conv2d',
    'fallback',
    'modulated_deform_conv2d',
    'sparse_conv',
]

OPERATORS = (
    'modulated_deform_conv2d',
    'modulated_deform_conv2d_backward',
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
