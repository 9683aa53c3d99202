"""The operators: one file an op family, functions with autograd over `torch.ops.mxd`."""

import torch

from . import library

library.load()

from . import fallback  # noqa: E402  (its kernels belong to the schemas that the library defines)
from .sparse_add import sparse_sum, sparse_union  # noqa: E402
from .sparse_conv import Rulebook, build_rulebook, sparse_conv  # noqa: E402
from .sparse_dense import sparse_from_dense, sparse_to_dense  # noqa: E402
from .sparse_pool import sparse_max_pool  # noqa: E402

__all__ = [
    'Rulebook',
    'backends',
    'build_rulebook',
    'fallback',
    'sparse_conv',
    'sparse_from_dense',
    'sparse_max_pool',
    'sparse_sum',
    'sparse_to_dense',
    'sparse_union',
]

OPERATORS = (
    'sparse_conv_rulebook',
    'sparse_conv_rulebook_transpose',
    'sparse_conv',
    'sparse_conv_weight_grad',
    'sparse_from_dense',
    'sparse_max_pool',
    'sparse_max_pool_backward',
    'sparse_sum',
    'sparse_to_dense',
    'sparse_union',
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
