"""Which packages are installed."""

import importlib
import importlib.util


def is_installed(name: str) -> bool:
    """Whether a package is installed, without importing it.

    A folder of that name in the working directory, which `find_spec` takes for a package without an
    `__init__.py`, does not count.

    Args:
        name (str): the package's name for `import`.
    """
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def require_mmcv_ops() -> None:
    """Import mmcv's compiled ops, which mmdet, mmdet3d and this package import in many places.

    Raises:
        ImportError: there are none, as in mmcv-lite, or they do not load with this PyTorch.
    """
    try:
        importlib.import_module('mmcv.ops')
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        raise ImportError(
            f'mxd_mmplugin needs mmcv 2.x with its ops (not mmcv-lite), and `import mmcv.ops` says "{error}": '
            'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0'
        ) from error
