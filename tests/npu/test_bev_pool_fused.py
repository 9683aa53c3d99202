"""The pooling of depth times context on the NPU against the CPU's, bit for bit the same for any number of blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops import bev_pool_fused, bev_pool_plan, bev_pool_v2
from tests.npu.compare import assert_same, with_grads
from tests.ops.test_bev_pool_fused import SPECIAL, bevdet_lists, places

pytestmark = pytest.mark.npu
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}


def make(seed, shape, grid, dtype=torch.float32, spread=1.3, column=1):
    """Depth, context and places; `column` neighbours are in one cell."""
    images, depths, pixels, channels = shape
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(images, depths, pixels, generator=generator).to(dtype)
    context = torch.randn(images, pixels, channels, generator=generator).to(dtype)
    coords = places(depth.numel(), grid, generator, spread)
    coords = coords[torch.arange(len(coords)) // column * column]
    return depth, context, coords.int()


def pool(coords, grid, device):
    plan = bev_pool_plan(coords.to(device), *grid)
    return lambda *leaves: bev_pool_fused(*leaves, plan)


@SETTINGS
@given(
    st.integers(0, 2**31),
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0, 1, 5, 40]),
        st.sampled_from([0, 1, 7, 8, 32, 75]),
        st.sampled_from([0, 1, 3, 8, 16, 33, 80, 130, 257]),
    ),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([1.0, 1.3, 3.0]),
    st.sampled_from([1, 3, 32]),
    st.integers(1, 40),
)
def test_equals_cpu(seed, shape, grid, dtype, spread, column, blocks):
    depth, context, coords = make(seed, shape, grid, dtype, spread, column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        found = with_grads(pool(coords, grid, 'npu'), depth.npu(), context.npu())
    wanted = with_grads(pool(coords, grid, 'cpu'), depth, context)
    scale = [
        max(float(tensor.abs().max()), 1.0) for tensor in (wanted[0], *wanted[1]) if tensor.numel()
    ]
    assert_same(found, wanted, TOLERANCE[dtype] * max(scale, default=1.0))


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_200000_points_are_the_same_for_any_number_of_blocks(monkeypatch, dtype):
    grid = 1, 1, 40, 40
    depth, context, coords = make(0, (2, 40, 2500, 20), grid, dtype, column=25)
    coords[:60_000] = 0  # one cell has many
    grad = torch.randn(40 * 40, 20).to(dtype).npu()
    runs = []
    for blocks in (40, 7, 1):
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        plan = torch.ops.mxd.bev_pool_plan(coords.npu(), *grid)
        leaves = depth.npu(), context.npu()
        out = torch.ops.mxd.bev_pool_fused(*leaves, *plan, *grid)
        grads = torch.ops.mxd.bev_pool_fused_grad(grad, *leaves, plan[0])
        runs.append([tensor.cpu() for tensor in (out, *grads)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))
    plan = torch.ops.mxd.bev_pool_plan(coords, *grid)
    wide = depth.double(), context.double()
    wanted = [
        torch.ops.mxd.bev_pool_fused(*wide, *plan, *grid),
        *torch.ops.mxd.bev_pool_fused_grad(grad.cpu().double(), *wide, plan[0]),
    ]
    for got, want in zip(runs[0], wanted):
        close = TOLERANCE[dtype] * float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=TOLERANCE[dtype], atol=close)


def test_numbers_that_are_not_finite_count_as_on_the_cpu():
    grid = 1, 1, 9, 9
    depth, context, coords = make(0, (2, 6, 20, 9), grid, spread=2.0, column=4)
    generator = torch.Generator().manual_seed(0)
    for tensor in (depth, context):
        chosen = torch.rand(tensor.shape, generator=generator) < 0.05
        tensor[chosen] = SPECIAL[torch.randint(4, (int(chosen.sum()),), generator=generator)]
    found = with_grads(pool(coords, grid, 'npu'), depth.npu(), context.npu())
    wanted = with_grads(pool(coords, grid, 'cpu'), depth, context)
    assert wanted[0].isnan().any() and wanted[0].isfinite().any()
    for got, want in zip((found[0], *found[1]), (wanted[0], *wanted[1])):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_many_channels():
    grid = 1, 1, 3, 3
    depth, context, coords = make(0, (1, 3, 10, 2500), grid)
    assert_same(
        with_grads(pool(coords, grid, 'npu'), depth.npu(), context.npu()),
        with_grads(pool(coords, grid, 'cpu'), depth, context),
        1e-3,
    )


@pytest.mark.parametrize('fits', [True, False])
def test_lists_of_bevdet(fits):
    depth, feat = torch.rand(1, 2, 4, 5, 6), torch.randn(1, 2, 5, 6, 8)
    grid = 1, 1, 9, 7
    coords = places(depth.numel(), grid, torch.Generator().manual_seed(0))
    of_depth, of_feat, of_bev = bevdet_lists(depth, coords, grid)
    if not fits:
        of_feat = of_feat.flip(0)
    lists = of_depth, of_feat, of_bev

    def run(depth, feat):
        moved = (ranks.to(depth.device) for ranks in lists)
        return bev_pool_v2(depth, feat, *moved, (*grid, 8))

    assert_same(with_grads(run, depth.npu(), feat.npu()), with_grads(run, depth, feat), 1e-4)


def test_float64_is_refused():
    grid = 1, 1, 2, 2
    depth, context, coords = make(0, (1, 2, 3, 4), grid, torch.float64)
    plan = torch.ops.mxd.bev_pool_plan(coords.npu(), *grid)
    leaves = depth.npu(), context.npu()
    with pytest.raises(TypeError, match='must be float32, float16 or bfloat16 on an NPU'):
        torch.ops.mxd.bev_pool_fused(*leaves, *plan, *grid)
    with pytest.raises(TypeError, match='must be float32, float16 or bfloat16 on an NPU'):
        torch.ops.mxd.bev_pool_fused_grad(torch.rand(4, 4).double().npu(), *leaves, plan[0])
