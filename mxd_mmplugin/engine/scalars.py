"""Numbers for the log that stay on the device until somebody reads them.

mmengine writes every loss of every step into its message hub, and each of them waits for the device. Here they are kept
as they are: the first who reads any of them, such as the logger once in many steps, fetches all with one wait.
"""

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

MOST = 1000  # steps that are kept at most


class Ledger:
    """What was not fetched yet: for each step the histories and their numbers, [k] on the device."""

    def __init__(self) -> None:
        self._steps: list[tuple[list[DeferredHistory], Tensor]] = []

    def add(self, numbers: Mapping['DeferredHistory', Tensor]) -> None:
        """Keep the numbers of a step, each a tensor of one element."""
        values = torch.stack([value.detach().reshape(()) for value in numbers.values()])
        self._steps.append((list(numbers), values))
        if len(self._steps) >= MOST:
            self.fetch()

    def fetch(self) -> None:
        """Write all into their histories, in their order; waits once."""
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        rows = [numbers for _, numbers in steps]
        if len({row.device for row in rows}) > 1:
            rows = [row.cpu() for row in rows]
        values = iter(torch.cat(rows).tolist())
        read: dict[DeferredHistory, list[float]] = {}
        for histories, _ in steps:
            for history in histories:
                read.setdefault(history, []).append(next(values))
        for history, numbers in read.items():
            history.extend(numbers)


class DeferredHistory(HistoryBuffer):
    """A history some of whose numbers may be in a ledger; reading it fetches them.

    It is copied and pickled as mmengine's `HistoryBuffer`, so that checkpoints need no class of this package.

    Args:
        history (HistoryBuffer): what it goes on from.
        ledger (Ledger): where its next numbers are.
    """

    def __init__(self, history: HistoryBuffer, ledger: Ledger) -> None:
        self._ledger = ledger
        self._log: np.ndarray
        self._count: np.ndarray
        super().__init__(*history.data, history.max_length)

    def extend(self, numbers: list[float]) -> None:
        """Append numbers that each count once."""
        ones = np.ones(len(numbers), self._count.dtype)
        self._log = np.concatenate([self._log, numbers])[-self.max_length :]
        self._count = np.concatenate([self._count, ones])[-self.max_length :]

    # What the methods of mmengine's class read and write.
    @property
    def _log_history(self) -> np.ndarray:
        self._ledger.fetch()
        return self._log

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._log = values

    @property
    def _count_history(self) -> np.ndarray:
        self._ledger.fetch()
        return self._count

    @_count_history.setter
    def _count_history(self, values: np.ndarray) -> None:
        self._count = values

    def __reduce_ex__(self, protocol: Any) -> Any:
        return HistoryBuffer(*self.data, self.max_length).__reduce_ex__(protocol)


LEDGER = Ledger()


def _deferred(hub: MessageHub, name: str, value: Any) -> Optional[DeferredHistory]:
    """The history that may take `value` later; None where it is no such number, or the hub knows no such name."""
    number = isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1
    history = hub.log_scalars.get(name) if number else None
    if type(history) is HistoryBuffer:
        history = hub.log_scalars[name] = DeferredHistory(history, LEDGER)
    return history if isinstance(history, DeferredHistory) else None


def log_scalars(hub: MessageHub, values: Mapping[str, Any]) -> None:
    """`hub.update_scalar` for each of `values`, with no wait for tensors whose name the hub knows already.

    Args:
        hub (MessageHub): mmengine's.
        values (Mapping[str, Tensor or number]): name -> what `update_scalar` takes.
    """
    later: dict[DeferredHistory, Tensor] = {}
    for name, value in values.items():
        history = _deferred(hub, name, value)
        if history is None:
            hub.update_scalar(name, value)
        else:
            later[history] = value
    if later:
        LEDGER.add(later)
