"""Bumps on heatmaps on the NPU: within 2e-6 of the CPU operator, which computes in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops.draw_gaussians import draw_gaussians

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BIGGEST = 2**31 - 1


def check(bumps, shape, seed=0, most=12):
    generator = torch.Generator().manual_seed(seed)
    maps, height, width = shape

    def integers(low, high, *size):
        return torch.randint(low, high, size, generator=generator).int()

    channels = integers(-1, maps + 1, bumps)
    centers = torch.stack([integers(-5, height + 5, bumps), integers(-5, width + 5, bumps)], 1)
    radii = integers(-2, most, bumps)
    if bumps > 9:
        centers[0], centers[1], radii[2] = BIGGEST, -BIGGEST, 3 * max(height, width)
    wanted = draw_gaussians(channels, centers, radii, shape)
    found = draw_gaussians(channels.npu(), centers.npu(), radii.npu(), shape).cpu()
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)
    assert torch.equal(found == 1, wanted == 1) and torch.equal(found == 0, wanted == 0)
    return found


@SETTINGS
@given(
    st.sampled_from([0, 1, 1025]) | st.integers(0, 200),
    st.integers(0, 7),
    st.integers(1, 90),
    st.sampled_from([1, 8, 3072, 3073]) | st.integers(1, 300),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_draw(monkeypatch, bumps, maps, height, width, blocks, seed):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    found = check(bumps, (maps, min(height, 20) if width > 300 else height, width), seed)
    monkeypatch.setenv('MXD_NPU_BLOCKS', '40')
    assert torch.equal(found, check(bumps, found.shape, seed))


def test_of_a_model():
    check(500, (10, 180, 180))


def test_a_bump_larger_than_the_map():
    check(12, (2, 50, 700), most=2000)
