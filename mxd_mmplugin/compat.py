"""What stock mmengine needs on the present PyTorch, done through public switches only."""

import pickle

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

# Type codes of the numbers that a log history or a metric can hold.
_NUMBER_CODES = '?bhilqBHILQefd'
_STATISTICS = ('min', 'max', 'mean', 'current')


def _history_method(owner: type, name: str):
    """Stand in for `getattr` in a checkpoint: give a statistics method of HistoryBuffer.

    mmengine pickles these methods along with each log, and pickle writes them as `getattr` calls.
    Allowing the real `getattr` would let a checkpoint reach anything from there.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'getattr({owner!r}, {name!r}) in a checkpoint: only HistoryBuffer and its methods '
            f'{", ".join(_STATISTICS)} are allowed'
        )
    return getattr(owner, name)


def allow_mmengine_checkpoints() -> None:
    """Let `torch.load(weights_only=True)` read what mmengine's Runner saves besides weights.

    PyTorch 2.6 made `weights_only` the default, which refuses the logs, the data set's meta
    information and the numpy numbers in a Runner's checkpoint, and `--resume` with them. Exactly
    those types are allowed, under the names that numpy 1 and numpy 2 write. Earlier versions load
    them as they are, so nothing is done there. Calling it again changes nothing.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    reconstruct, (scalar, *_) = np.empty(0).__reduce__()[0], np.float64().__reduce__()
    names = [ConfigDict, HistoryBuffer, np.ndarray, np.dtype, (_history_method, 'builtins.getattr')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        names += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    names += {type(np.dtype(code)) for code in _NUMBER_CODES}
    torch.serialization.add_safe_globals(names)
