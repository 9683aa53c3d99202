"""Reductions of rows by segment on the NPU against loops, and bit for bit the same for any number of blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.npu
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
FLOATS = torch.float32, torch.float16, torch.bfloat16
CHANNELS = 1, 3, 5, 8, 16, 64, 80, 130, 257
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SPECIAL = torch.tensor([float('nan'), float('inf'), -float('inf'), 0.0])


def make(seed, segments, entries, channels, dtype, kind='any', special=False):
    """Features [rows, channels], and a list of its rows with the begins of its segments."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(entries, 1)
    x = torch.randint(-40, 40, (rows, channels), generator=generator) / 8
    if special:
        place = torch.rand(x.shape, generator=generator) < 0.2
        x[place] = SPECIAL[torch.randint(4, (int(place.sum()),), generator=generator)]
    listed = {
        'any': torch.randint(rows, (entries,), generator=generator),
        'in order': torch.arange(entries),
    }.get(kind, torch.randint(rows, (entries,), generator=generator))
    number = torch.randint(segments, (entries,), generator=generator)
    if kind == 'one segment':
        number[:] = segments // 2
    if kind == 'few long ones':
        number = torch.where(torch.rand(entries, generator=generator) < 0.9, 0, number)
    begins = torch.zeros(segments + 1, dtype=torch.int64)
    begins[1:] = number.bincount(minlength=segments).cumsum(0)
    return x.to(dtype), listed.int(), begins


def npu(*tensors):
    return [tensor.npu() for tensor in tensors]


def sums(x, rows, begins, mean=False):
    number = torch.arange(len(begins) - 1).repeat_interleave(begins.diff())
    out = torch.zeros(len(begins) - 1, x.shape[1], dtype=torch.float64)
    out.index_add_(0, number, x[rows.long()].double())
    return out / begins.diff().clamp(min=1)[:, None] if mean else out


def maxima(x, rows, begins, nan):
    values, at = x.float().numpy(), rows.numpy()
    out = np.zeros((len(begins) - 1, x.shape[1]), np.float32)
    arg = np.full(out.shape, -1, np.int32)
    for s, (begin, end) in enumerate(zip(begins[:-1].tolist(), begins[1:].tolist())):
        if begin == end:
            continue
        part = values[at[begin:end]]
        broken = np.isnan(part)
        known = np.where(broken, -np.inf, part)
        out[s], place = known.max(0), known.argmax(0)
        if nan:
            last = end - begin - 1 - broken[::-1].argmax(0)
            place = np.where(broken.any(0), last, place)
            out[s] = np.where(broken.any(0), np.nan, out[s])
        arg[s] = at[begin + place]
    return torch.from_numpy(out), torch.from_numpy(arg)


PROBLEMS = st.builds(
    make,
    st.integers(0, 2**31),
    st.integers(1, 700),
    st.integers(0, 3000),
    st.sampled_from(CHANNELS),
    st.sampled_from(FLOATS),
    st.sampled_from(['any', 'in order', 'one segment', 'few long ones']),
)


@SETTINGS
@given(PROBLEMS, st.integers(1, 40), st.booleans())
def test_sum(problem, blocks, mean):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        out = torch.ops.mxd._segment_sum(*npu(*problem), mean)
    tolerance = TOLERANCE[problem[0].dtype]
    torch.testing.assert_close(
        out.cpu().double(), sums(*problem, mean), rtol=tolerance, atol=tolerance
    )


@SETTINGS
@given(
    st.integers(0, 2**31),
    st.integers(1, 300),
    st.integers(0, 1500),
    st.sampled_from(CHANNELS),
    st.sampled_from(FLOATS),
    st.sampled_from(['any', 'one segment', 'few long ones']),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
)
def test_max(seed, segments, entries, channels, dtype, kind, special, nan, blocks):
    problem = make(seed, segments, entries, channels, dtype, kind, special)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        found = torch.ops.mxd._segment_max(*npu(*problem), nan)
    for got, want in zip(found, maxima(*problem, nan)):
        torch.testing.assert_close(got.cpu().to(want.dtype), want, rtol=0, atol=0, equal_nan=True)


@SETTINGS
@given(PROBLEMS, st.integers(1, 40))
def test_sum_where(problem, blocks):
    x, rows, begins = problem
    segments = len(begins) - 1
    sources = torch.randint(-1, min(segments, 4), x.shape, dtype=torch.int32)
    number = torch.arange(segments).repeat_interleave(begins.diff())
    kept = torch.where(sources[rows.long()] == number[:, None], x[rows.long()].double(), 0.0)
    want = torch.zeros(segments, x.shape[1], dtype=torch.float64).index_add_(0, number, kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        out = torch.ops.mxd._segment_sum_where(*npu(x, sources, rows, begins))
    tolerance = TOLERANCE[x.dtype]
    torch.testing.assert_close(out.cpu().double(), want, rtol=tolerance, atol=tolerance)


@SETTINGS
@given(
    st.integers(1, 400),
    st.integers(0, 3000),
    st.sampled_from(CHANNELS),
    st.sampled_from(FLOATS),
    st.integers(1, 40),
    st.booleans(),
)
def test_gather(rows, count, channels, dtype, blocks, ascending):
    matrix = torch.randn(rows, channels).to(dtype)
    listed = torch.randint(-1, rows, (count,), dtype=torch.int32)
    if ascending:
        listed = listed.sort().values
    want = torch.where(listed[:, None] < 0, 0, matrix[listed.clamp(min=0).long()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        got = torch.ops.mxd._segment_gather(*npu(matrix, listed))
    assert torch.equal(got.cpu(), want)


@SETTINGS
@given(st.integers(0, 2**31), st.integers(1, 5000), st.integers(0, 9000), st.integers(1, 40))
def test_begins(seed, segments, entries, blocks):
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.integers(-1, segments, entries)).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        begins = torch.ops.mxd._segment_begins(torch.from_numpy(numbers).npu(), segments)
    np.testing.assert_array_equal(
        begins.cpu().numpy(), np.searchsorted(numbers, np.arange(segments + 1))
    )


def test_entries_of_no_segment():
    """Before the first segment and behind the last one."""
    x, rows = torch.randn(5000, 12), torch.randperm(5000).int()
    begins = torch.linspace(700, 4100, 900).long()
    out = torch.ops.mxd._segment_sum(*npu(x, rows, begins), False)
    want = sums(x, rows[700:4100], begins - 700)
    torch.testing.assert_close(out.cpu().double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['any', 'one segment', 'few long ones'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_bit_identical_for_any_number_of_blocks(monkeypatch, kind, dtype):
    x, rows, begins = make(0, 9000, 200_000, 5, torch.float32, kind, kind == 'any')
    x = (x + torch.randn(x.shape) / 64).to(dtype)
    sources = torch.randint(-1, 3, x.shape, dtype=torch.int32)
    x, sources, rows, begins = npu(x, sources, rows, begins)
    runs = []
    for blocks in (40, 1, 7):
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        runs.append(
            [
                torch.ops.mxd._segment_sum(x, rows, begins, True),
                *torch.ops.mxd._segment_max(x, rows, begins, True),
                torch.ops.mxd._segment_sum_where(x, sources, rows, begins),
            ]
        )
    for other in runs[1:]:
        for a, b in zip(runs[0], other):
            torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=0, equal_nan=True)
