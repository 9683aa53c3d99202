"""Small tensors that never change, copied to a device once: each copy from the host waits for the device."""

from collections.abc import Sequence
from typing import Union

import torch
from torch import Tensor

_KNOWN: dict[tuple, Tensor] = {}


def constant(
    values: Sequence[Union[int, float]],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The tensor of some numbers, the same one for every call with the same arguments.

    Args:
        values (Sequence[float]): numbers that a config or the code gives, not such that change from
            step to step: all that were asked for are kept.
        device (torch.device): where the tensor is to be.
        dtype (torch.dtype): its dtype. Default: float32.

    Returns:
        Tensor: [len(values)]; it must not be written into.
    """
    key = tuple(values), device, dtype
    if key not in _KNOWN:
        with torch.inference_mode(False):  # what is made in that mode cannot be used in training
            made = torch.tensor(key[0], dtype=dtype, device=device)
        if type(made) is not Tensor:  # the stand-in of a tracer, which ends with its trace
            return made
        _KNOWN[key] = made
    return _KNOWN[key]
