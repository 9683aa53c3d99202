"""The sort of the NPU's kernels against numpy: stable, for any keys and any number of blocks."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LARGEST = 0x7EFFFFFE  # kSortMaxKey
# How keys are drawn: of how many different ones, from where on, and in which order they come.
KINDS = [
    (LARGEST + 2, -1, 'random'),
    (1, LARGEST, 'random'),
    (2, -1, 'random'),
    (300, 5, 'random'),
    (100_000, 2**24 - 50_000, 'random'),
    (1_000_000, 0, 'ascending'),
    (1_000_000, 0, 'descending'),
]
SIZES = [1, 7, 8, 31, 33, 2049, 8192, 8193, 40_000]


def draw(rng, count, kind):
    span, first, order = kind
    keys = (rng.integers(0, span, count) + first).astype(np.int32)
    return {'random': keys, 'ascending': np.sort(keys), 'descending': np.sort(keys)[::-1].copy()}[
        order
    ]


def check_sort(keys, rows=None):
    keys_npu = torch.from_numpy(keys).npu()
    sorted_keys, sorted_rows = torch.ops.mxd._sort(
        keys_npu, None if rows is None else torch.from_numpy(rows).npu()
    )
    order = np.argsort(keys, kind='stable')
    np.testing.assert_array_equal(sorted_keys.cpu().numpy(), keys[order])
    np.testing.assert_array_equal(sorted_rows.cpu().numpy(), order if rows is None else rows[order])


@SETTINGS
@given(
    st.sampled_from(SIZES) | st.integers(1, 60_000),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_sort_is_numpy_s(monkeypatch, count, kind, blocks, with_rows, seed):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    rng = np.random.default_rng(seed)
    rows = rng.integers(-(2**31), 2**31, count).astype(np.int32) if with_rows else None
    check_sort(draw(rng, count, kind), rows)


def test_nothing():
    check_sort(np.empty(0, np.int32))


@pytest.mark.parametrize('kind', KINDS)
def test_200000_keys(kind):
    check_sort(draw(np.random.default_rng(0), 200_000, kind))


@pytest.mark.parametrize('kind', KINDS[:3])
def test_more_runs_than_are_merged_at_once(monkeypatch, kind):
    monkeypatch.setenv('MXD_NPU_BLOCKS', '7')
    check_sort(draw(np.random.default_rng(0), 1_100_000, kind))


@SETTINGS
@given(
    st.sampled_from(SIZES) | st.integers(1, 20_000),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_words(monkeypatch, count, words, blocks, seed):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    rng = np.random.default_rng(seed)
    keys = rng.integers(-1, rng.choice([3, 50, LARGEST]), (words, (count + 7) // 8 * 8))
    keys = keys.astype(np.int32)
    keys[0, :count] = np.where(rng.random(count) < 0.1, LARGEST, keys[0, :count])  # no key
    order = np.lexsort(keys[::-1, :count])
    ours, rows = torch.ops.mxd._sort_words(torch.from_numpy(keys).npu(), count)
    np.testing.assert_array_equal(ours[:, :count].cpu().numpy(), keys[:, order])
    np.testing.assert_array_equal(rows.cpu().numpy(), order)

    unique, begins, total = torch.ops.mxd._sort_unique(ours, count)
    expected, first = np.unique(keys[:, order], axis=1, return_index=True)
    some = expected[0] < LARGEST
    assert total.item() == some.sum()
    np.testing.assert_array_equal(unique[:, : some.sum()].cpu().numpy(), expected[:, some])
    np.testing.assert_array_equal(begins[: some.sum()].cpu().numpy(), first[some])
    assert not unique[:, some.sum() :].any() and not begins[some.sum() :].any()


@SETTINGS
@given(
    st.integers(1, 60_000),
    st.integers(0, 9_000),
    st.integers(1, 5),
    st.integers(1, 40),
    st.booleans(),
)
def test_take(monkeypatch, rows, count, columns, blocks, flip):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    rng = np.random.default_rng(rows)
    table = rng.integers(-(2**31), 2**31, (rows, columns)).astype(np.int32)
    chosen = rng.integers(0, rows, count).astype(np.int32)
    out = torch.ops.mxd._sort_take(
        torch.from_numpy(table).npu(), torch.from_numpy(chosen).npu(), flip
    )
    expected = table[chosen]
    np.testing.assert_array_equal(out.cpu().numpy(), expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize('sizes', [(2, 41, 144, 144), (3, 2**20, 2**20, 2**10)])
def test_order_of_voxels(sizes):
    rng = np.random.default_rng(0)
    voxels = np.stack([rng.integers(0, size, 3000) for size in sizes], 1).astype(np.int32)
    found = torch.ops.mxd._voxel_order(torch.from_numpy(voxels).npu(), sizes).cpu().numpy()
    np.testing.assert_array_equal(found, np.lexsort(voxels.T[::-1]))
    assert torch.ops.mxd._voxel_order(torch.zeros(0, 4).int().npu(), sizes).numel() == 0
    with pytest.raises(ValueError, match='indices must be rows of 4 numbers'):
        torch.ops.mxd._voxel_order(torch.zeros(5, 3).int().npu(), sizes)
