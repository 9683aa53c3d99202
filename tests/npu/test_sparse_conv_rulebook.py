"""The NPU's rulebook is the CPU's, element for element."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops.sparse_conv import build_rulebook

from ..sparse_problems import line, problems
from ..test_sparse_conv_op import GOOD, ROWS

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Grids of more cells than int32 numbers take another way (sparse_conv_rulebook_wide.cpp).
MANY = 2**40


def check(indices, **geometry):
    """Build the rulebook on both devices, compare it and its transpose."""
    expected = build_rulebook(indices, **geometry)
    actual = build_rulebook(indices.to('npu'), **geometry)
    for name in 'out_indices', 'pairs', 'bounds':
        torch.testing.assert_close(
            getattr(actual, name).cpu(), getattr(expected, name), rtol=0, atol=0
        )
    for ours, other in zip(actual.transpose, expected.transpose):
        torch.testing.assert_close(ours.cpu(), other, rtol=0, atol=0)
    return expected


def scattered(shape, count, batch_size=1, seed=0):
    """`count` voxels of a grid in any order."""
    generator = torch.Generator().manual_seed(seed)
    cells = batch_size * int(torch.tensor(shape).prod())
    chosen = torch.randperm(cells, generator=generator)[:count]
    return torch.stack(torch.unravel_index(chosen, [batch_size, *shape]), 1).int()


@SETTINGS
@given(problems(max_dims=4), st.integers(1, 40), st.booleans())
def test_equals_cpu(monkeypatch, problem, blocks, many):
    indices, geometry = problem[:2]
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    if many:
        geometry['batch_size'] = MANY
    check(indices, **geometry)
