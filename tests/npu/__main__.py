"""Run the tests of this folder in a process on the software NPU: `python -m tests.npu [PYTEST'S OPTIONS]`."""

import os
import sys

from mxd_mmplugin import softnpu

from .conftest import HERE, SETTINGS

os.execve(
    sys.executable,
    [sys.executable, '-m', 'pytest', *sys.argv[1:], str(HERE)],
    {**softnpu.environment(), **SETTINGS},
)
