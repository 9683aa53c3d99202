"""Inputs whose distances are exact in float32: then an index is right or wrong, and ties are many."""

import torch
from torch import Tensor


def lattice(*shape: int, seed: int = 0, cells: int = 8) -> Tensor:
    """Points on a lattice with steps of 1/4, [*shape, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(cells, (*shape, 3), generator=generator).float() / 4


def boxes(*shape: int, seed: int = 0) -> Tensor:
    """Boxes on such a lattice with sides on it too, turned by multiples of 0.3, [*shape, 7]."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(6, (*shape, 7), generator=generator).float()
    numbers[..., :6] /= 4
    numbers[..., 6] *= 0.3
    return numbers
