"""Loads the C++ library, which registers the `torch.ops.mxd` operators."""

from pathlib import Path

import torch

PATH = Path(__file__).parents[1] / '_C.so'


def load() -> None:
    """Load the compiled operators.

    Raises:
        ImportError: the library was not built, or was built for another PyTorch.
    """
    how = 'build it with `pip install --no-deps --no-build-isolation -e .` in the checkout'
    if not PATH.exists():
        raise ImportError(f'mxd_mmplugin has no compiled library {PATH.name}: {how}')
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        raise ImportError(
            f'{PATH.name} of mxd_mmplugin does not load with PyTorch {torch.__version__} ({error}): {how}'
        ) from error
