"""Test and evaluate a model: mmdet3d's `tools/test.py`, with all of its options.

CONFIG may also be the name of a config of the package.
"""

from collections.abc import Sequence

from .configs import with_config
from .mmdet3d_tools import run


def main(arguments: Sequence[str]) -> None:
    """Run it.

    Args:
        arguments (Sequence[str]): of mmdet3d's `test.py`.
    """
    run('test.py', with_config(arguments))
