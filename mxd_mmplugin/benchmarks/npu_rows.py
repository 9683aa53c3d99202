"""What pieces of work cost on an Atlas A2, by the software NPU's model, beside what they need at least."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional

import torch
from rich.console import Console
from rich.table import Table

from ..softnpu import profile, usage
from ..softnpu.roofline import CUBE_CORES, CYCLES_A_US, L2_READ, MULTIPLIES, VECTOR_CORES


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without its package."""
    return str(dtype).removeprefix('torch.')


def products(count: int, dtype: torch.dtype) -> float:
    """The microseconds that all cube cores need for so many multiplications and additions."""
    return count / MULTIPLIES[name_of(dtype)] / CUBE_CORES / CYCLES_A_US


def lanes(operations: float) -> float:
    """The microseconds that all vector cores need for so many operations, 64 of them at once."""
    return operations / 64 / VECTOR_CORES / CYCLES_A_US


def traffic(moved: int) -> float:
    """The microseconds in which so many bytes pass between the L2 and all vector cores."""
    return moved / L2_READ / VECTOR_CORES / CYCLES_A_US


@dataclass
class Row:
    """A piece of work.

    Attributes:
        work (str): what and how much.
        bound (float, optional): microseconds that it needs at least.
        time (float): microseconds that the device needs, kernels and PyTorch's operators together.
        launches (int): of both.
        waits (int): of the host for the device.
    """

    work: str
    bound: Optional[float] = None
    time: float = 0
    launches: int = 0
    waits: int = 0


class Rows(list[Row]):
    """The rows of the table, in the order of the work."""

    @contextmanager
    def measure(self, work: str, bound: Optional[float] = None) -> Iterator[Row]:
        """Add what a block costs; one that knows the bound at its end sets it on the row.

        Args:
            work (str): what the block does, and how much of it.
            bound (float, optional): microseconds that it needs at least.

        Raises:
            RuntimeError: not run by `mxd softnpu profile`.
        """
        path = os.environ.get('MXD_SOFTNPU_PROFILE')
        if not path:
            raise RuntimeError('run this by `mxd softnpu profile`: it is the model that measures')
        torch.npu.synchronize()  # type: ignore[attr-defined]
        before = len(profile.load(path))
        row = Row(work, bound)
        yield row
        torch.npu.synchronize()  # type: ignore[attr-defined]
        calls = usage.calls_of(profile.load(path)[before:])
        row.time = usage.device_us(calls)
        row.launches = sum(call['launches'] for call in calls)
        row.waits = sum(call['waits'] for call in calls)
        self.append(row)

    def print(self) -> None:
        """Print the table."""
        table = Table(
            title='Work on an Atlas A2, modelled, and the least that it needs', title_justify='left'
        )
        table.add_column('work')
        for head in 'bound', 'time', 'ratio', 'launches', 'waits':
            table.add_column(head, justify='right', no_wrap=True)
        for row in self:
            table.add_row(
                row.work,
                f'{row.bound:.1f} us' if row.bound else '',
                f'{row.time:.1f} us',
                f'{row.time / row.bound:.1f}x' if row.bound else '',
                str(row.launches),
                str(row.waits or ''),
            )
        Console(width=profile.WIDTH).print(table)
