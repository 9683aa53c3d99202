"""Loads the C++ libraries, which register the `torch.ops.mxd` operators."""

import importlib.util
import os
from functools import cache
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Optional

import torch

from ..packages import is_installed

PACKAGE = Path(__file__).parents[1]
# MXD_CPU_LIBRARY names another build, as that of `make sanitize`.
PATH = Path(os.environ.get('MXD_CPU_LIBRARY') or PACKAGE / '_C.so')
BUILT_WITH = PATH.with_suffix('.torch')  # the version of the PyTorch that setup.py compiled against


def _npu_library(name: str, setting: str) -> Optional[Path]:
    """Path of a library for the NPU: what the software NPU's launcher set, else the one built with CANN."""
    path = Path(os.environ.get(setting) or PACKAGE / 'npu' / name)
    return path if path.exists() else None


def _load_library(path: Path, how: str) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        built = f', was compiled with {BUILT_WITH.read_text()}' if BUILT_WITH.exists() else ''
        raise ImportError(
            f'{path.name} of mxd_mmplugin does not load with PyTorch {torch.__version__}{built} '
            f'({error}): {how}'
        ) from error


def load() -> None:
    """Load the compiled operators, those of the NPU too where torch_npu is installed.

    Raises:
        ImportError: the library was not built, or was built for another PyTorch.
    """
    how = 'build it with `pip install --no-deps --no-build-isolation -e .` in the checkout'
    if not PATH.exists():
        raise ImportError(f'mxd_mmplugin has no compiled library {PATH.name}: {how}')
    _load_library(PATH, how)
    if is_installed('torch_npu'):
        import torch_npu  # noqa: F401

        kernels = _npu_library('libmxd_npu.so', 'MXD_NPU_LIBRARY')
        if kernels:
            _load_library(kernels, how)


@cache
def fill_mmcv_registry() -> dict[str, str]:
    """Fill mmcv's C++ registry for CPU tensors, with the operators that mmcv has for GPUs alone.

    Returns:
        dict[str, str]: each of these operators, and what serves it; empty where mmcv has no compiled
        operators.
    """
    spec = importlib.util.find_spec('mmcv._ext')
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
        return {}
    import mmcv.ops  # noqa: F401  loads the library

    return dict(torch.ops.mxd.fill_mmcv_registry(spec.origin))


def load_mmcv_registry() -> bool:
    """Load the library that fills mmcv's C++ registry for npu tensors.

    Returns:
        bool: whether torch_npu is installed and the library was built.

    Raises:
        ImportError: the library was built for another PyTorch.
    """
    registry = _npu_library('libmxd_mmcv_registry.so', 'MXD_MMCV_REGISTRY')
    if not (is_installed('torch_npu') and registry and fill_mmcv_registry()):
        return False
    _load_library(registry, 'build it again with the installed PyTorch')
    return True
