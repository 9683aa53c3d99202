"""Argument checks that several operators have, in the words of the C++ ones."""

import torch
from torch import Tensor

FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16


def check_float(name: str, tensor: Tensor) -> None:
    """Refuse what is not one of the dtypes that the operators compute in."""
    if tensor.dtype not in FLOATS:
        raise TypeError(f'{name} must be float32, float64, float16 or bfloat16, was {tensor.dtype}')
