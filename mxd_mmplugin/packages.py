"""Which packages are installed."""

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
