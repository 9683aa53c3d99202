"""How many operators a call dispatches, and how many of them wait for a number of the device."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {
    *('aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::equal'),
    *('aten::is_nonzero', 'aten::unique_dim', 'aten::_unique2', 'aten::unique_consecutive'),
}


class Counting(TorchDispatchMode):
    """Operators, and those of them that wait for a number."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        mask = name == 'aten::index' and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        self.calls['aten::nonzero' if mask else name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self):
        return sum(count for name, count in self.calls.items() if name in WAITS)
