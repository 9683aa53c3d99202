"""The CPU kernels in every width of vectors that they are compiled for."""

import os

import pytest

from tests.conftest import ROOT, run

# PyTorch reads the width once: a process for each, in which all kernels are checked.
SCRIPT = """
import torch
from tests.ops import (
    test_deformable_aggregation, test_modulated_deform_conv, test_sparse_conv, test_sparse_pool)
for module in (
    test_deformable_aggregation, test_modulated_deform_conv, test_sparse_conv, test_sparse_pool
):
    torch.manual_seed(0)
    module.check_widths()
"""


@pytest.mark.parametrize('capability', ['default', 'avx2'])
def test_every_kernel(capability):
    env = {**os.environ, 'ATEN_CPU_CAPABILITY': capability, 'PYTHONPATH': str(ROOT)}
    run(ROOT, '-c', SCRIPT, env=env)
