"""What stock mmengine needs on the present PyTorch, done through public switches only."""

import collections
import datetime
import pathlib
import pickle
from collections.abc import Iterable
from typing import Callable, Optional

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

# Type codes of the numbers that a log history, a metric or a table can hold; V is that of a table's rows.
_NUMBER_CODES = '?bhilqBHILQefdgFDGV'
# Types of plain values that can be in a data set's meta information, or are what a defaultdict begins with.
_VALUES = (
    *(np.str_, np.bytes_, *(type(np.dtype(code)) for code in 'USOMm')),
    *(pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath),
    *(range, slice, complex, bytearray, collections.Counter, frozenset, set),
    *(list, dict, tuple, int, float, bool, str, bytes),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
)
# The functions that mmengine's objects keep among their attributes.
_METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def _method(owner: type, name: str) -> Callable:
    """Stand in for `getattr` in a checkpoint, which is how pickle writes a class's function.

    Allowing the real `getattr` would let a checkpoint reach anything from there.
    """
    if name not in _METHODS.get(owner, ()):
        raise pickle.UnpicklingError(
            f'getattr({owner!r}, {name!r}) in a checkpoint; allowed are '
            + ', '.join(f'{cls.__name__}.{x}' for cls, names in _METHODS.items() for x in names)
        )
    return getattr(owner, name)


def _plain_dict(factory: Optional[Callable] = None) -> dict:
    """Stand in for defaultdict, whose items PyTorch's reader refuses to set."""
    return {}


def _plain_list(items: Iterable = (), length: Optional[int] = None) -> list:
    """Stand in for deque, to which it refuses to append."""
    return list(items)


def allow_mmengine_checkpoints() -> bool:
    """Let `torch.load(weights_only=True)` read what mmengine's Runner saves besides weights.

    PyTorch 2.6 made `weights_only` the default, which refuses the logs, the data set's meta
    information, the one-cycle schedule and the numpy numbers in a Runner's checkpoint, and
    `--resume` with them. Exactly those types are allowed, and those of plain values that a meta
    information may hold: strings, dates and arrays of numpy, paths, ranges, and the containers of
    Python (a defaultdict is read as a dict, a deque as a list), under the names that numpy 1 and
    numpy 2 write. Earlier versions load them as they are, so nothing is done there. Calling it
    again changes nothing.

    Returns:
        bool: whether this PyTorch needs it.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return False
    reconstruct, scalar = (value.__reduce__()[0] for value in (np.empty(0), np.float64()))
    names = [ConfigDict, *_METHODS, np.ndarray, np.dtype, (_method, 'builtins.getattr')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        names += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    names += {type(np.dtype(code)) for code in _NUMBER_CODES}
    names += _VALUES
    names += (_plain_dict, 'collections.defaultdict'), (_plain_list, 'collections.deque')
    torch.serialization.add_safe_globals(names)
    return True
