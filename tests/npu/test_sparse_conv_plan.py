"""Submanifold convolution by a plan: the plan holds the pairs, and results are the CPU's."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxd_mmplugin.benchmarks.inputs import voxels
from mxd_mmplugin.ops import build_rulebook, sparse_conv
from tests.ops.sparse_problems import coordinates

from .test_sparse_conv import SETTINGS, TOLERANCE, layer, scattered, subm, to_npu

pytestmark = pytest.mark.npu
DTYPES = list(TOLERANCE)
ROWS, BLOCK, SECTIONS = 256, 16, 4  # of a tile of the plan, of a block, of a tile that has sections
MASKS, LOWEST, HIGHEST, PLACES = 8, 24, 136, 248  # in a record
SECTIONS_BLOCKS = 16  # that a tile counts for having sections


def make_plan(book, dtype=torch.float16, channels=16):
    """The plan for a layer of so many channels."""
    count, volume = len(book.indices), book.bounds.shape[1] - 1
    features = torch.zeros(count, channels, dtype=dtype, device='npu')
    weight = torch.zeros(volume, channels, channels, dtype=dtype, device='npu')
    return torch.ops.mxd.sparse_conv_plan(features, weight, book.pairs, book.bounds, count, 1)


def rows_of(book):
    """The input row of each kernel point and output row, -1 for none, by the rulebook."""
    tiles, volume = book.bounds.shape[0], book.bounds.shape[1] - 1
    counts = (book.bounds[:, 1:] - book.bounds[:, :-1]).flatten()
    point = torch.arange(volume).repeat(tiles).repeat_interleave(counts)
    rows = torch.full((volume, len(book.indices)), -1, dtype=torch.int32)
    rows[point, book.pairs[:, 1].long()] = book.pairs[:, 0]
    return rows


def assert_equal_shares(sizes, shares=20):
    """Rounds of couples by size, of which the core blocks get about the same."""
    couples = [sum(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]
    in_order = sorted(couples, reverse=True)
    for begin in range(0, len(couples), shares):
        round_of = slice(begin, begin + shares)
        assert sorted(couples[round_of], reverse=True) == in_order[round_of]
    loads = [sum(couples[i::shares]) for i in range(shares)]
    if len(couples) > shares:
        assert max(loads) - min(loads) <= max(couples)


def rows_of_plan(plan, count, volume):
    """The same by a plan, and how many tiles have sections; checks what else a record says."""
    tiles = -(-count // ROWS)
    words = PLACES + ROWS
    records = plan[: tiles * words].view(tiles, words)
    lists = plan[tiles * words :][: tiles * volume * ROWS].view(tiles, volume * ROWS)
    found = torch.full((volume, tiles * ROWS), -1, dtype=torch.int32)
    sizes, with_sections = [], 0
    for record in records:
        tile, at = int(record[0]), 0
        masks = record[MASKS : MASKS + 14].contiguous().view(torch.int16)
        sections = SECTIONS if masks[volume] else 1
        with_sections += sections > 1
        length = ROWS // sections
        ordered = torch.full((volume, ROWS), -1, dtype=torch.int32)
        for section, k in itertools.product(range(sections), range(volume)):
            begin = section * length
            for place in range(begin, begin + length, BLOCK):
                if int(masks[k]) >> place // BLOCK & 1:
                    ordered[k, place : place + BLOCK] = lists[tile][at : at + BLOCK]
                    at += BLOCK
            there = ordered[k, begin : begin + length]
            there, which = there[there >= 0], k * sections + section
            if len(there):
                found_range = record[LOWEST + which], record[HIGHEST + which]
                assert found_range == (there.min(), there.max())
            else:
                assert record[LOWEST + which] > count and record[HIGHEST + which] == -1
        # The rows of a section follow each other.
        own = record[PLACES:].view(sections, length) // length
        assert (own == torch.arange(sections)[:, None]).all()
        sizes.append(at // BLOCK + SECTIONS_BLOCKS * (sections > 1))
        found[:, tile * ROWS : (tile + 1) * ROWS] = ordered[:, record[PLACES:].long()]
    assert_equal_shares(sizes)
    found = found[:, :count]
    order = plan[tiles * (words + volume * ROWS) :]
    if len(order):
        order, place = order[: 2 * count].view(2, count).long()
        assert torch.equal(order[place], torch.arange(count))
        found = torch.where(found < 0, -1, order[found.clamp(min=0).long()].int())[:, place]
    return found, with_sections


@pytest.mark.parametrize('blocks', [1, 40])
@pytest.mark.parametrize('order', ['sorted', 'shuffled'])
@pytest.mark.parametrize('count', [1, 255, 512, 1500])
def test_plan_has_the_pairs(monkeypatch, count, order, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    indices, grid = scattered(count)
    if order == 'shuffled':
        indices = indices[torch.randperm(count)]
    book = subm(indices, grid=grid)
    rows, _ = rows_of_plan(make_plan(to_npu(book)).cpu(), count, 27)
    assert torch.equal(rows, rows_of(book))


def two_planes():
    """Voxels of two planes, each of more than a window of input rows holds."""
    plane = torch.stack(torch.meshgrid(torch.arange(70), torch.arange(90), indexing='ij'), -1)
    plane = plane.reshape(-1, 2)
    rows = [torch.cat([torch.tensor([[0, z]]).expand(len(plane), 2), plane], 1) for z in (0, 1)]
    return torch.cat(rows).int(), [2, 70, 90]


def lines(steps):
    """Voxels of three lines, neighbours of each other, of which the middle one has few: every 'steps'th."""
    rows = [(0, 0, z, x) for z in range(3) for x in range(0, 6000, steps if z == 1 else 1)]
    return torch.tensor(rows, dtype=torch.int32), [1, 3, 6000]


@pytest.mark.parametrize('steps', [1, 2, 40])
@pytest.mark.parametrize('channels', [1, 64])
def test_tiles_with_sections(steps, channels):
    """Where the rows of a kernel point are too far from each other for a window."""
    indices, grid = lines(steps)
    book = subm(indices, grid=grid)
    plan = make_plan(to_npu(book), channels=channels).cpu()
    rows, with_sections = rows_of_plan(plan, len(indices), 27)
    assert torch.equal(rows, rows_of(book))
    tiles = -(-len(indices) // ROWS)
    assert with_sections < tiles and (with_sections > 0) == (
        steps > 1 and (channels == 64 or steps > 2)
    )
    compare(book, *layer(channels, 16, len(indices)))


def test_where_a_plan_serves():
    indices, grid = scattered(300)
    book = to_npu(subm(indices, grid=grid))
    for dtype, most in (torch.float32, 64), (torch.float16, 128), (torch.bfloat16, 128):
        assert make_plan(book, dtype, most).numel()
        assert not make_plan(book, dtype, most + 1).numel()
    assert not make_plan(to_npu(subm(indices[:0], grid=grid))).numel()
    assert not make_plan(to_npu(subm(indices, grid=grid, kernel=5))).numel()


@st.composite
def layers(draw):
    """A submanifold convolution: kernel, dilation, voxels near or far from each other, in order or not."""
    ndim = draw(st.integers(1, 3))

    def numbers(values):
        return draw(st.lists(st.sampled_from(values), min_size=ndim, max_size=ndim))

    shape, kernel = numbers([1, 7, 12, 40]), numbers([1, 3])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    cells = 2 * int(torch.tensor(shape).prod())
    count = draw(st.integers(1, min(cells, 1400)))
    chosen = torch.randperm(cells, generator=generator)[:count]
    if draw(st.booleans()):
        chosen = chosen.sort().values
    one = [1] * ndim
    book = build_rulebook(
        coordinates(chosen, [2, *shape]), 2, shape, kernel, one, one, numbers([1, 2, 5]), subm=True
    )
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = (groups * draw(st.sampled_from([1, 16, 17, 32, 60])) for _ in range(2))
    features, weight = layer(inputs, outputs, count, kernel, groups)
    return book, features, weight, draw(st.sampled_from([None, torch.randn(outputs)])), groups


def convolve(book, features, weight, bias, groups, grad):
    """The output and the input's gradient, which a plan serves, on the CPU."""
    features = features.clone().requires_grad_()
    out = sparse_conv(features, weight, bias, book, groups)
    out.backward(grad)
    return out.detach().cpu(), features.grad.cpu()


def compare(book, features, weight, bias=None, groups=1, dtype=torch.float16):
    """Compare the devices; the CPU computes in float32 from what `dtype` holds."""
    grad = torch.sin(torch.arange(len(features) * weight.shape[-1])).view(len(features), -1)
    features, weight, bias, grad = (
        None if t is None else t.to(dtype) for t in (features, weight, bias, grad)
    )
    wide = [None if t is None else t.float() for t in (features, weight, bias)]
    short = [None if t is None else t.to('npu') for t in (features, weight, bias)]
    on_npu = to_npu(book)
    actual = convolve(on_npu, *short, groups, grad.to('npu'))
    assert on_npu._plan is not None
    for ours, other in zip(actual, convolve(book, *wide, groups, grad.float())):
        assert ours.dtype == dtype
        scale = max(1.0, float(other.abs().max()))
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(ours.float(), other, rtol=tolerance, atol=tolerance * scale)
    return actual


@SETTINGS
@given(layers(), st.integers(1, 40), st.sampled_from(DTYPES))
def test_equals_cpu(monkeypatch, problem, blocks, dtype):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    compare(*problem, dtype)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('inputs, outputs', [(5, 16), (32, 64), (60, 130), (64, 128)])
def test_same_for_any_blocks(monkeypatch, inputs, outputs, dtype):
    indices, grid = scattered(3000)
    book = subm(indices[torch.randperm(3000)], grid=grid)
    problem = book, *layer(inputs, outputs, 3000)
    first = compare(*problem, dtype=dtype)
    for blocks in 40, 7, 2, 1:
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        for ours, other in zip(compare(*problem, dtype=dtype), first):
            assert torch.equal(ours, other)


@pytest.mark.parametrize('inputs', [64, 128])
def test_rows_far_from_each_other(inputs):
    """Each row of a plane has neighbours in the other one."""
    indices, grid = two_planes()
    compare(subm(indices, grid=grid), *layer(inputs, 16, len(indices)))


def test_sweep(sweep):
    """80,000 voxels of a sweep, in order."""
    indices, batch_size = voxels(80_000)
    indices = indices.unique(dim=0)
    compare(subm(indices, batch_size), *layer(16, 16, len(indices)))


def test_voxels_known_to_be_in_order_are_not_looked_at(monkeypatch, tmp_path):
    """Those of a strided layer's output, until something changes them."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE_ATEN', '1')
    indices, grid = scattered(900)
    strided = [[3] * 3, [2] * 3, [1] * 3, [1] * 3]
    outputs = build_rulebook(indices.npu(), 1, grid, *strided).out_indices
    features, weight = (t.npu() for t in layer(16, 16, len(outputs)))

    def convolve(indices):
        book = subm(indices, grid=[-(-g // 2) for g in grid])
        path.unlink(missing_ok=True)
        out = sparse_conv(features, weight, None, book)
        return out, '"operator": "equal"' in path.read_text()

    expected, is_looked_at = convolve(outputs)
    assert not is_looked_at
    actual, is_looked_at = convolve(outputs.clone())
    assert is_looked_at and torch.equal(actual, expected)
    outputs.add_(0)
    assert convolve(outputs)[1]
