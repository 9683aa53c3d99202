"""The operators that reduce rows by segment on the NPU, against the CPU's: plans, results and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops import (
    bev_pool,
    bev_pool_plan,
    build_rulebook,
    dynamic_scatter,
    sparse_max_pool,
    sparse_sum,
    sparse_union,
)
from tests.npu.compare import assert_same, npu, with_grads
from tests.ops.sparse_problems import coordinates

pytestmark = pytest.mark.npu
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)
BLOCKS = st.integers(1, 40)
CHANNELS = st.sampled_from([1, 3, 5, 16, 80])
GRID = [6, 9, 8]


def check(blocks, function, inputs, rest=(), tolerance=1e-4):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        found = with_grads(lambda *leaves: function(*leaves, *npu(rest)), *npu(inputs))
    assert_same(found, with_grads(lambda *leaves: function(*leaves, *rest), *inputs), tolerance)


@SETTINGS
@given(
    st.integers(0, 3000),
    st.integers(1, 4),
    st.sampled_from([1, 4, 40, 2**20]),
    st.sampled_from([torch.int32, torch.int64]),
    BLOCKS,
)
def test_scatter_plan(count, ndim, cells, dtype, blocks):
    coors = torch.randint(-1, cells, (count, ndim), dtype=dtype)
    if ndim > 3 and cells > 40:
        coors %= 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        plan = torch.ops.mxd.dynamic_scatter_plan(coors.npu())
    for got, want in zip(plan, torch.ops.mxd.dynamic_scatter_plan(coors)):
        assert got.dtype == want.dtype and torch.equal(got.cpu(), want)


@SETTINGS
@given(
    st.integers(0, 2000), CHANNELS, st.sampled_from(['sum', 'mean', 'max']), BLOCKS, st.booleans()
)
def test_scatter(count, channels, reduce_type, blocks, one_voxel):
    coors = torch.randint(-1, 1 if one_voxel else 7, (count, 3), dtype=torch.int32)
    feats = torch.randint(4, (count, channels)).float()
    check(blocks, lambda x, c: dynamic_scatter(x, c, reduce_type)[0], [feats], [coors])


def test_scatter_waits_once_and_refuses_too_many_cells():
    coors = torch.tensor([[2**40, 2**40]]).npu()
    with pytest.raises(ValueError, match=r'coors must span fewer than 2\*\*63 cells'):
        dynamic_scatter(torch.rand(1, 3).npu(), coors)
    with pytest.raises(TypeError, match='float32, float16 or bfloat16 on an NPU'):
        torch.ops.mxd.dynamic_scatter(
            torch.rand(1, 3).double().npu(),
            torch.zeros(1, dtype=torch.int32).npu(),
            torch.tensor([0, 1]).npu(),
            'sum',
        )


@SETTINGS
@given(st.integers(0, 3000), CHANNELS, st.sampled_from([torch.int32, torch.int64]), BLOCKS)
def test_bev_pool(count, channels, dtype, blocks):
    sizes = 10, 12, 3, 2
    coords = torch.stack([torch.randint(-1, n + 1, (count,), dtype=dtype) for n in sizes], 1)
    if dtype == torch.int64 and count:
        coords[0] = 2**40
    check(
        blocks, lambda x, c: bev_pool(x, c, 2, 3, 10, 12), [torch.rand(count, channels)], [coords]
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_bev_pool_of_200000_points_is_the_same_for_any_number_of_blocks(monkeypatch, dtype):
    coords = torch.randint(-1, 40, (200_000, 4), dtype=torch.int32)
    coords[:, 2:] = 0
    coords[:80_000, :2] = 7  # one cell has many
    feats = torch.rand(len(coords), 5).to(dtype)
    runs = []
    for blocks in (40, 3):
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        plan = bev_pool_plan(coords.npu(), 1, 1, 40, 40)
        runs.append(bev_pool(feats.npu(), plan).cpu())
    assert torch.equal(*runs)
    want = bev_pool(feats.double(), coords, 1, 1, 40, 40)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    fits = want.abs() < torch.finfo(dtype).max
    torch.testing.assert_close(runs[0].double()[fits], want[fits], rtol=tolerance, atol=tolerance)


@SETTINGS
@given(st.integers(0, 400), CHANNELS, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), BLOCKS)
def test_max_pool(count, channels, kernel, stride, blocks):
    indices = coordinates(torch.randperm(2 * 6 * 9 * 8)[:count], (2, *GRID))
    geometry = 2, GRID, [kernel] * 3, [stride] * 3, [kernel // 2] * 3, [1] * 3
    features = torch.randint(-3, 4, (count, channels)).float()
    check(
        blocks, lambda x, i: sparse_max_pool(x, build_rulebook(i, *geometry)), [features], [indices]
    )


def test_max_pool_of_nan_and_infinity():
    indices = coordinates(torch.randperm(2 * 6 * 9 * 8)[:300], (2, *GRID))
    geometry = 2, GRID, [3] * 3, [2] * 3, [1] * 3, [1] * 3
    special = torch.tensor([float('nan'), float('inf'), -float('inf'), 1.0])
    features = special[torch.randint(4, (300, 7))]
    book = build_rulebook(indices, *geometry)
    want = torch.ops.mxd.sparse_max_pool(features, book.pairs, book.bounds, len(book.out_indices))
    got = torch.ops.mxd.sparse_max_pool(
        *npu([features, book.pairs, book.bounds]), len(book.out_indices)
    )
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0, equal_nan=True)


@SETTINGS
@given(st.lists(st.integers(0, 400), min_size=1, max_size=3), CHANNELS, BLOCKS, st.booleans())
def test_add(counts, channels, blocks, wide):
    grid = [2000, 3000, 4000] if wide else GRID
    indices = [coordinates(torch.randperm(2 * 6 * 9 * 8)[:n], (2, *GRID)) for n in counts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        found = sparse_union(npu(indices), 2, grid)
    sites, rows = sparse_union(indices, 2, grid)
    assert_same(found, (sites, rows), 0)
    features = [torch.rand(n, channels) for n in counts]
    check(
        blocks,
        lambda *leaves: sparse_sum(leaves[:-1], leaves[-1], len(sites)),
        features,
        [rows],
    )


@pytest.mark.parametrize(
    'voxel, message',
    [
        ([0, 0, 9, 0], 'outside of spatial_shape'),
        ([2, 0, 0, 0], 'has the batch index 2'),
        ([0, 1, 1, 1], 'indices must name each voxel once, but rows 0 and 1 are both'),
    ],
)
def test_union_refuses_wrong_voxels(voxel, message):
    indices = torch.tensor([[0, 1, 1, 1], voxel], dtype=torch.int32).npu()
    with pytest.raises(ValueError, match=message):
        sparse_union([indices[:1], indices], 2, GRID)
