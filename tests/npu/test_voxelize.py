"""Voxelization on the NPU: the bits of the CPU operator, for any number of blocks."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops import dynamic_voxelize, hard_voxelize, hard_voxelize_batch, voxelization

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Sizes of a cell and ranges, x, y, z: few points a cell, many, one cell, 2 and 3 words a key.
GRIDS = [
    ([0.075, 0.075, 0.2], [-4, -4, -1, 4, 4, 1]),
    ([1.0, 0.5], [-2, -1, 2, 1]),
    ([4.0], [-2, 2]),
    ([0.5, 1.0, 0.3, 1.0], [-4, -4, -1, 0, 4, 4, 2, 3]),
    ([1e-4, 1e-4, 1e-4], [-4, -4, -4, 4, 4, 4]),
    ([1e-8, 2e-9, 1.0], [0, 0, -1, 4, 4, 1]),
]
AWKWARD = [float('nan'), float('inf'), -float('inf'), -0.0, 3e38, -3e38, 4.0, -4.0]


def cloud(seed, count, channels, dtype):
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=2.5, size=(count, channels)).astype(np.float32)
    borders = rng.random(points.shape) < 0.2
    points[borders] = np.round(points[borders] * 4) / 4
    strange = rng.random(points.shape) < 0.01
    points[strange] = rng.choice(AWKWARD, strange.sum())
    return torch.from_numpy(points).to(dtype)


def same_bits(ours, wanted):
    assert ours.device.type == 'npu' and ours.dtype == wanted.dtype and ours.shape == wanted.shape
    ours = ours.cpu()
    if wanted.is_floating_point():
        integer = {2: torch.int16, 4: torch.int32}[wanted.element_size()]
        ours, wanted = ours.contiguous().view(integer), wanted.contiguous().view(integer)
    assert torch.equal(ours, wanted)


def check_hard(points, grid, max_points, max_voxels):
    on_cpu, on_npu = points.clone().requires_grad_(), points.npu().requires_grad_()
    wanted = hard_voxelize(on_cpu, *grid, max_points, max_voxels)
    found = hard_voxelize(on_npu, *grid, max_points, max_voxels)
    for ours, reference in zip(found, wanted):
        same_bits(ours.detach(), reference.detach())
    # Without ids in another way, that does not sort all points.
    for ours, reference in zip(voxelization(points.npu(), *grid, max_points, max_voxels), wanted):
        same_bits(ours, reference.detach())
    grad = torch.randn(wanted.voxels.shape, generator=torch.Generator().manual_seed(0))
    grad = grad.to(points.dtype)
    wanted.voxels.backward(grad)
    found.voxels.backward(grad.npu())
    same_bits(on_npu.grad, on_cpu.grad)


@SETTINGS
@given(
    st.sampled_from([1, 7, 8, 9, 1024, 1025, 4097]) | st.integers(1, 9000),
    st.sampled_from(GRIDS),
    st.integers(0, 4),
    st.sampled_from([1, 3, 10, 35, 5000]),
    st.sampled_from([0, 1, 50, 100_000]),
    st.sampled_from(DTYPES),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_hard_is_the_cpu_s(
    monkeypatch, count, grid, more, max_points, max_voxels, dtype, blocks, seed
):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    if max_points == 5000:
        max_voxels = min(max_voxels, 50)
    check_hard(cloud(seed, count, len(grid[0]) + more, dtype), grid, max_points, max_voxels)


@SETTINGS
@given(
    st.integers(0, 5000),
    st.sampled_from(GRIDS),
    st.sampled_from([0, 1, 13, 40]),
    st.sampled_from(DTYPES),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_dynamic_is_the_cpu_s(monkeypatch, count, grid, more, dtype, blocks, seed):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    points = cloud(seed, count, len(grid[0]) + more, dtype)
    same_bits(dynamic_voxelize(points.npu(), *grid), dynamic_voxelize(points, *grid))


@pytest.mark.parametrize('count', [0, 1])
@pytest.mark.parametrize('place', [0.1, 9.0])
def test_no_point_and_one(count, place):
    check_hard(torch.full((count, 4), place), GRIDS[0], 10, 100)


@pytest.mark.parametrize('blocks', [1, 40])
def test_too_many_points_of_a_cell(monkeypatch, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    points = cloud(0, 9000, 4, torch.float32)
    points[:8000, :3] = 0.1
    check_hard(points, GRIDS[0], 380, 2000)


@pytest.mark.parametrize('grid', GRIDS[:3])
def test_200000_points(grid):
    check_hard(cloud(0, 200_000, 5, torch.float32), grid, 10, 120_000)


@pytest.mark.parametrize('channels', [1023, 1024, 1025, 2500])
@pytest.mark.parametrize('dtype', DTYPES[:2])
def test_many_channels(channels, dtype):
    check_hard(cloud(0, 60, channels, dtype), GRIDS[2], 7, 10)


@SETTINGS
@given(
    st.integers(0, 300),
    st.integers(1, 200),
    st.integers(1, 12),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(1, 40),
)
def test_gather(monkeypatch, count, voxels, max_points, channels, empty_mean, dtype, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    generator = torch.Generator().manual_seed(count)
    points = torch.randn(count, channels, generator=generator).to(dtype)
    slots = torch.randint(-1, max(count, 0), (voxels, max_points), generator=generator).int()
    slots[torch.rand(slots.shape, generator=generator) < 0.5] = -1
    gather = torch.ops.mxd.voxelize_gather
    same_bits(gather(points.npu(), slots.npu(), empty_mean), gather(points, slots, empty_mean))


@pytest.mark.parametrize('counts', [[500, 0, 300], [400], [0, 0]])
@pytest.mark.parametrize('max_voxels', [30, 1000])
def test_batch(counts, max_voxels):
    samples = [cloud(i, count, 5, torch.float32) for i, count in enumerate(counts)]
    wanted = hard_voxelize_batch(samples, *GRIDS[0], 5, max_voxels)
    found = hard_voxelize_batch([points.npu() for points in samples], *GRIDS[0], 5, max_voxels)
    for ours, reference in zip(found, wanted):
        same_bits(ours, reference)


def test_float64_is_refused():
    with pytest.raises(TypeError, match='points must be float32, float16 or bfloat16'):
        torch.ops.mxd.voxelize_dynamic(
            torch.empty(0, 3, dtype=torch.float64, device='npu'), *GRIDS[0]
        )
