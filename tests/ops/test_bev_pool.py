"""BEV pooling against `index_add`, float64 gradcheck and its pure-PyTorch form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import bev_pool, bev_pool_plan, npu_bev_pool
from mxd_mmplugin.ops import fallback
from tests.conftest import traces

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)


def reference(feats, coords, B, D, H, W):
    """The definition: index_add over the points inside."""
    limit = torch.tensor([H, W, D, B])
    inside = ((coords >= 0) & (coords < limit)).all(1)
    h, w, d, b = coords[inside].long().unbind(1)
    cells = ((b * D + d) * H + h) * W + w
    out = torch.zeros(B * D * H * W, feats.shape[1], dtype=feats.dtype)
    out = out.index_add(0, cells, feats[inside])
    return out.view(B, D, H, W, -1).permute(0, 4, 1, 2, 3)


@st.composite
def problems(draw, max_points=300):
    """Features and places, some of them outside of the grid; also none at all."""
    shape = B, D, H, W = tuple(draw(st.integers(1, most)) for most in (3, 3, 40, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, channels = draw(st.integers(0, max_points)), draw(st.integers(0, 70))
    spread = draw(st.sampled_from([1.0, 1.3, 3.0]))
    places = torch.rand(count, 4, generator=generator) * spread - (spread - 1) / 2
    coords = (places * torch.tensor([H, W, D, B])).floor()
    coords = coords.to(draw(st.sampled_from([torch.int32, torch.int64])))
    feats = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return feats, coords, *shape


def forward_and_grad(run, feats, *rest):
    leaf = feats.clone().requires_grad_()
    out = run(leaf, *rest)
    weight = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape)
    (grad,) = torch.autograd.grad(out, leaf, weight.to(out.dtype))
    return out.detach(), grad


@SETTINGS
@given(problems())
def test_equals_index_add(problem):
    got, want = forward_and_grad(bev_pool, *problem), forward_and_grad(reference, *problem)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    feats, coords, *shape = problem
    ours, theirs = torch.ops.mxd, fallback.bev_pool
    plan = ours.bev_pool_plan(coords, *shape)
    for got, want in zip(plan, theirs.plan(coords, *shape)):
        assert got.dtype == want.dtype and torch.equal(got, want)
    out = ours.bev_pool(feats, *plan, *shape)
    torch.testing.assert_close(out, theirs.forward(feats, *plan, *shape))
    grad = torch.randn_like(out).flatten(0, 3)
    assert torch.equal(ours.bev_pool_grad(grad, plan[0]), theirs.grad(grad, plan[0]))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems(max_points=12))
def test_gradcheck(problem):
    feats, coords, B, D, H, W = problem
    feats = feats[:, :3].clone().requires_grad_()
    shape = B, D, min(H, 4), min(W, 4)
    assert torch.autograd.gradcheck(lambda feats: bev_pool(feats, coords, *shape), feats)


def test_float32_agrees_with_float64():
    coords = torch.stack([torch.randint(-1, n + 1, (20_000,)) for n in (50, 60, 2, 2)], 1)
    feats = torch.randn(len(coords), 80)
    expected = reference(feats.double(), coords, 2, 2, 50, 60)
    torch.testing.assert_close(
        bev_pool(feats, coords, 2, 2, 50, 60).double(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_sums_in_float32(dtype, tolerance):
    """A thousand terms, whose sum in half precision would stop growing."""
    coords = torch.zeros(5000, 4, dtype=torch.int32)
    coords[:, 0] = torch.arange(5000) % 4
    feats = torch.rand(5000, 37).to(dtype)
    out, grad = forward_and_grad(bev_pool, feats, coords, 1, 1, 5, 3)
    want, want_grad = forward_and_grad(reference, feats.double(), coords, 1, 1, 5, 3)
    assert out.dtype == grad.dtype == dtype
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=0)
    torch.testing.assert_close(grad.double(), want_grad, rtol=tolerance, atol=tolerance)


def test_every_float16_number_is_read_exactly():
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    feats = numbers.view(-1, 16)
    coords = torch.zeros(len(feats), 4, dtype=torch.int32)
    coords[:, 0] = torch.arange(len(feats))
    out = bev_pool(feats, coords, 1, 1, len(feats), 1)[0, :, 0, :, 0].t()
    assert torch.equal(out.nan_to_num(1.5), feats.nan_to_num(1.5))
    assert torch.equal(out.isnan(), feats.isnan())


def test_autocast_keeps_the_dtype_of_the_features():
    coords = torch.zeros(3, 4, dtype=torch.int32)
    with torch.autocast('cpu', torch.bfloat16):
        assert bev_pool(torch.ones(3, 2), coords, 1, 1, 2, 2).dtype == torch.float32
        assert bev_pool(torch.ones(3, 2).bfloat16(), coords, 1, 1, 2, 2).dtype == torch.bfloat16


def test_points_outside_of_the_grid_are_in_no_cell():
    outside = [[-1, 0, 0, 0], [3, 0, 0, 0], [0, 4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1], [0, 0, 0, -1]]
    far = [[2**40, 0, 0, 0], [0, -(2**62), 0, 0]]
    coords = torch.tensor([*outside, [2, 3, 1, 0], *far])
    out, grad = forward_and_grad(bev_pool, torch.ones(9, 2), coords, 1, 2, 3, 4)
    assert out.sum() == 2 and (out[0, :, 1, 2, 3] == 1).all()
    assert (grad.any(1).nonzero() == 6).all()


def test_empty_frustum():
    for count in (0, 5):
        coords = torch.full((count, 4), -1)
        out, grad = forward_and_grad(bev_pool, torch.randn(count, 3), coords, 2, 1, 4, 5)
        assert out.shape == (2, 3, 1, 4, 5) and not out.any()
        assert grad.shape == (count, 3) and not grad.any()


def test_a_plan_serves_many_features():
    coords = torch.randint(-1, 30, (500, 4))
    plan = bev_pool_plan(coords, 30, 30, 30, 30)
    assert plan.shape == (30,) * 4
    for channels in (1, 80):
        feats = torch.randn(500, channels)
        assert torch.equal(bev_pool(feats, plan), bev_pool(feats, coords, 30, 30, 30, 30))
    assert torch.equal(bev_pool(feats, plan, 30, 30, 30, 30), bev_pool(feats, plan))
    with pytest.raises(ValueError, match='B, D, H, W must be those of the plan'):
        bev_pool(feats, plan, 30, 30, 30, 31)


def test_calling_conventions():
    """mx_driving's names, and sizes as BEVFusion's view transform hands them over."""
    coords, feats = torch.randint(0, 4, (50, 4)), torch.randn(50, 6)
    out = bev_pool(feats, coords, 4, 4, 4, 4)
    named = npu_bev_pool(feat=feats, geom_feat=coords.int(), B=4, D=4, H=4, W=4)
    size = torch.nn.Parameter(torch.tensor([4]), requires_grad=False)[0]
    assert torch.equal(out, named) and torch.equal(
        out, bev_pool(feats, coords, 4, size, size, size)
    )
    final = torch.cat(out.unbind(dim=2), 1)
    assert final.is_contiguous(memory_format=torch.channels_last)


def test_bit_identical_whatever_the_number_of_threads():
    coords = torch.stack([torch.randint(-1, n + 1, (100_000,)) for n in (90, 70, 2, 2)], 1)
    feats = torch.randn(len(coords), 33)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            plan = bev_pool_plan(coords, 2, 2, 90, 70)
            runs.append([plan.ranks, plan.intervals, *forward_and_grad(bev_pool, feats, plan)])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_non_contiguous_inputs():
    coords, feats = torch.randint(0, 9, (4, 300)).t(), torch.randn(20, 300).t()
    got = forward_and_grad(bev_pool, feats, coords, 9, 9, 9, 9)
    want = forward_and_grad(bev_pool, feats.contiguous(), coords.contiguous(), 9, 9, 9, 9)
    for a, b in zip(got, want):
        assert torch.equal(a, b)


@traces
def test_compiles_and_exports():
    coords = torch.randint(-1, 8, (200, 4))

    class Net(torch.nn.Module):
        def forward(self, feats, coords):
            return bev_pool(feats * 2, coords, 8, 8, 8, 8).relu()

    feats = torch.randn(200, 5, requires_grad=True)
    expected = Net()(feats, coords)
    compiled = torch.compile(Net(), backend='aot_eager', fullgraph=True)(feats, coords)
    exported = torch.export.export(Net(), (feats.detach(), coords)).module()(feats, coords)
    assert torch.equal(expected, compiled) and torch.equal(expected, exported)
    for got, want in zip(*(torch.autograd.grad(out.sum(), feats) for out in (compiled, expected))):
        assert torch.equal(got, want)


COORDS = torch.zeros(3, 4, dtype=torch.int32)


@pytest.mark.parametrize('run', [torch.ops.mxd.bev_pool_plan, fallback.bev_pool.plan])
@pytest.mark.parametrize(
    'coords, shape, error, message',
    [
        (COORDS[:, :3], [1, 1, 2, 2], ValueError, r'coords must have shape \[points, 4\]'),
        (COORDS[0], [1, 1, 2, 2], ValueError, 'coords must have shape'),
        (COORDS.float(), [1, 1, 2, 2], TypeError, 'coords must be int32 or int64'),
        (COORDS, [0, 1, 2, 2], ValueError, 'B must be at least 1, was 0'),
        (COORDS, [1, 0, 2, 2], ValueError, 'D must be at least 1, was 0'),
        (COORDS, [1, 1, -1, 2], ValueError, 'H must be at least 1, was -1'),
        (COORDS, [1, 1, 2, 0], ValueError, 'W must be at least 1, was 0'),
        (COORDS, [1, 2, 2**15, 2**15], ValueError, r'must be below 2\*\*31 - 1'),
    ],
)
def test_bad_plan(run, coords, shape, error, message):
    with pytest.raises(error, match=message):
        run(coords, *shape)


@pytest.mark.parametrize('run', [torch.ops.mxd.bev_pool, fallback.bev_pool.forward])
@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(feats=torch.rand(3)), ValueError, 'feats must have shape'),
        (dict(feats=torch.ones(3, 2).int()), TypeError, 'feats must be float32'),
        (dict(feats=torch.rand(4, 2)), ValueError, 'feats must have a row for each of the 3'),
        (dict(cells=torch.zeros(3)), TypeError, 'cells must be int32'),
        (dict(ranks=torch.zeros(3)), TypeError, 'ranks must be int32'),
    ],
)
def test_bad_input(run, change, error, message):
    names = 'cells', 'ranks', 'intervals'
    good = dict(zip(names, torch.ops.mxd.bev_pool_plan(COORDS, 1, 1, 2, 2)), feats=torch.rand(3, 2))
    arguments = {**good, **change}
    with pytest.raises(error, match=message):
        run(*(arguments[name] for name in ('feats', *names)), 1, 1, 2, 2)


def test_sizes_are_needed_without_a_plan():
    with pytest.raises(ValueError, match='B, D, H and W must be given with coords'):
        bev_pool(torch.rand(3, 2), COORDS, 1, 1, 2)


@pytest.mark.parametrize('run', [torch.ops.mxd.bev_pool_grad, fallback.bev_pool.grad])
def test_bad_gradient(run):
    cells = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match='grad must have shape'):
        run(torch.rand(4), cells)
    with pytest.raises(TypeError, match='grad must be float32'):
        run(torch.ones(4, 2).int(), cells)
    with pytest.raises(TypeError, match='cells must be int32'):
        run(torch.rand(4, 2), cells.long())


def test_plan_that_leaves_the_tensors_is_refused():
    feats = torch.rand(3, 2)
    cells, ranks, intervals = torch.ops.mxd.bev_pool_plan(COORDS, 1, 1, 20, 20)

    def run(feats=feats, cells=cells, ranks=ranks, intervals=intervals):
        return torch.ops.mxd.bev_pool(feats, cells, ranks, intervals, 1, 1, 20, 20)

    run()
    for bad in (ranks + 1, ranks - 1):
        with pytest.raises(ValueError, match='ranks must be at least 0 and below 3'):
            run(ranks=bad)
    for bad in (intervals + 1, intervals.flip(0), intervals * 2):
        with pytest.raises(ValueError, match='intervals must ascend from 0'):
            run(intervals=bad)
    with pytest.raises(ValueError, match=r'intervals must have shape \[5\]'):
        run(intervals=intervals[1:])
    with pytest.raises(TypeError, match='intervals must be int64'):
        run(intervals=intervals.int())
    for bad in (cells - 1, cells + 16, cells + 400):
        with pytest.raises(ValueError, match='cells must lie in the tiles of their intervals'):
            run(cells=bad)
    for bad in (cells - 2, cells + 4):
        with pytest.raises(ValueError, match='cells must be at least -1 and below 4'):
            torch.ops.mxd.bev_pool_grad(torch.rand(4, 2), bad)
