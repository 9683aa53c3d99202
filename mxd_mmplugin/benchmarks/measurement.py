"""Time, memory, and the peak of this machine."""

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import torch
from torch.utils.benchmark import Timer

from .case import Case

ROUNDS = 3
PROC = Path('/proc/self')


@dataclass(frozen=True)
class Peak:
    """What this machine reaches: a float32 matrix product in GFLOP/s, a copy in GB/s (read and written)."""

    gflops: float
    gbs: float


@dataclass(frozen=True)
class Result:
    """The figures of one case.

    Attributes:
        op, name, step, flop, bytes, size: as in `Case`.
        times (dict[str, float]): 'mxd' and each rival -> median time of one call in ms.
        memory (dict[str, int or None]): the same -> bytes that one call needs at most beside its
            inputs, where the system tells.
        peak (Peak): measured just before.
    """

    op: str
    name: str
    step: str
    flop: Optional[float]
    bytes: Optional[float]
    size: Optional[int]
    times: dict
    memory: dict
    peak: Peak

    @property
    def rate(self) -> Optional[tuple]:
        """(rate, unit, share of the peak) of our call, or None where neither flop nor bytes is known."""
        seconds = self.times['mxd'] / 1e3
        if self.flop:
            rate = self.flop / seconds / 1e9
            return rate, 'GFLOP/s', rate / self.peak.gflops
        if self.bytes:
            rate = self.bytes / seconds / 1e9
            return rate, 'GB/s', rate / self.peak.gbs
        return None

    def ratio(self, rival: str) -> float:
        """How many times as long the rival takes."""
        return self.times[rival] / self.times['mxd']


def milliseconds(run: Callable, seconds: float = 0.5) -> float:
    """Median time of a call, repeated for at least `seconds`."""
    timer = Timer('run()', globals=dict(run=run), num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median * 1e3


def peak_memory(run: Callable) -> Optional[int]:
    """Bytes by which a call raises the peak of the resident memory; None where Linux does not tell."""
    libc = ctypes.CDLL(None)

    def resident(field: str) -> int:
        line = next(x for x in (PROC / 'status').read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024

    try:
        libc.malloc_trim(0)  # or the call would find memory that was freed before
        (PROC / 'clear_refs').write_text('5')  # the peak starts anew
        before = resident('VmRSS')
        run()
        return max(0, resident('VmHWM') - before)
    except (OSError, AttributeError):  # another system, another C library
        return None


def measure_peak() -> Peak:
    """Time a matrix product and a copy."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    gflops = 2 * 2048**3 / milliseconds(lambda: a @ b) / 1e6
    return Peak(gflops, 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6)


def measure(op: str, case: Case, peak: Peak) -> Result:
    """Time a case and its rivals in turns, so that all see the same machine."""
    calls = dict(mxd=case.run, **case.rivals)
    for run in calls.values():
        run()  # what is made once is made now
    rounds = [[milliseconds(run) for run in calls.values()] for _ in range(ROUNDS)]
    times = dict(zip(calls, np.median(rounds, axis=0).tolist()))
    gc.collect()
    memory = {name: peak_memory(run) for name, run in calls.items()}
    return Result(op, case.name, case.step, case.flop, case.bytes, case.size, times, memory, peak)
