"""The dtypes of operators that PyTorch does not know: autocast, and promotion."""

import functools
from typing import Any, Optional

import torch
from torch import Tensor


def autocast(*tensors: Optional[Tensor]) -> tuple[Any, ...]:
    """Cast floating tensors as autocast casts the inputs of a convolution, where it is on.

    Args:
        *tensors (Tensor or None): the first one tells the device. float64 is left alone, as
            autocast leaves it.

    Returns:
        tuple[Tensor or None, ...]: the tensors, in the autocast dtype where autocast is on.
    """
    if not isinstance(tensors[0], torch.Tensor):  # the operator's schema has the words for it
        return tensors
    device = tensors[0].device.type
    if device == 'meta':  # which has no autocast and refuses the question
        return tensors
    if hasattr(torch, 'get_autocast_dtype'):
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    elif device == 'cpu':  # PyTorch before 2.4
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    if not enabled:
        return tensors
    return tuple(
        x if x is None or x.dtype == torch.float64 or not x.is_floating_point() else x.to(dtype)
        for x in tensors
    )


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Floating tensors in the dtype that `+` gives them together; anything else goes back as it came."""
    if not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in tensors):
        return tensors  # the operator's checks have the words for it
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) < 2:
        return tensors
    dtype = functools.reduce(torch.promote_types, dtypes)
    return tuple(x.to(dtype) for x in tensors)
