"""Reduction of points by voxel against a plain loop, float64 gradcheck and its pure-PyTorch form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import DynamicScatter, dynamic_scatter
from mxd_mmplugin.ops import dynamic_voxelize, fallback
from tests.conftest import traces

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
REDUCE = {
    'sum': lambda rows: rows.sum(0),
    'mean': lambda rows: rows.mean(0),
    'max': lambda rows: rows.max(0).values,
}


def loop(feats, coors, reduce_type):
    """The definition, with PyTorch's gradients."""
    kept = [n for n, row in enumerate(coors.tolist()) if min(row) >= 0]
    cells = sorted({tuple(coors[n].tolist()) for n in kept})
    rows = {cell: [n for n in kept if tuple(coors[n].tolist()) == cell] for cell in cells}
    out = [REDUCE[reduce_type](feats[rows[cell]]) for cell in cells]
    empty = feats[:0], coors[:0]
    return (torch.stack(out), coors.new_tensor(cells)) if out else empty


@st.composite
def problems(draw, channels=40):
    """Features and voxels in 1 to 4 dimensions, some of them negative."""
    ndim, count = draw(st.integers(1, 4)), draw(st.integers(0, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coors = torch.randint(-1, draw(st.integers(1, 6)), (count, ndim), generator=generator)
    coors = coors.to(draw(st.sampled_from([torch.int32, torch.int64])))
    channels = draw(st.integers(1, channels))
    feats = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return feats, coors, draw(st.sampled_from(list(REDUCE)))


@SETTINGS
@given(problems())
def test_equals_the_definition(problem):
    feats, coors, reduce_type = problem
    results = []
    for run in (dynamic_scatter, loop):
        leaf = feats.clone().requires_grad_()
        out, voxels = run(leaf, coors, reduce_type)
        (grad,) = torch.autograd.grad((out * out.detach().cos()).sum(), leaf)
        results.append((out, voxels, grad))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    feats, coors, reduce_type = problem
    feats = feats.round()  # so that some are equal
    plan = torch.ops.mxd.dynamic_scatter_plan(coors)
    for got, want in zip(plan, fallback.dynamic_scatter.plan(coors)):
        assert got.dtype == want.dtype and torch.equal(got, want)
    got = torch.ops.mxd.dynamic_scatter(feats, *plan[2:], reduce_type)
    for a, b in zip(got, fallback.dynamic_scatter.forward(feats, *plan[2:], reduce_type)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('reduce_type', REDUCE)
def test_gradcheck(reduce_type):
    coors = torch.randint(-1, 2, (12, 2))
    feats = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: dynamic_scatter(f, coors, reduce_type)[0], feats)


def test_the_first_of_equal_maxima_has_the_gradient():
    feats = torch.tensor([[1.0, torch.nan], [3.0, 2.0], [3.0, 2.0]], requires_grad=True)
    out, _ = dynamic_scatter(feats, torch.zeros(3, 3, dtype=torch.int32))
    assert out.tolist() == [[3.0, 2.0]]
    (grad,) = torch.autograd.grad(out.sum(), feats)
    assert grad.tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('reduce_type', REDUCE)
def test_half_precision_sums_in_float32(dtype, reduce_type):
    feats, coors = torch.rand(4000, 7).to(dtype), torch.arange(4000)[:, None] % 3
    out, _ = dynamic_scatter(feats, coors, reduce_type)
    want, _ = dynamic_scatter(feats.double(), coors, reduce_type)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), want, rtol=8e-3, atol=0)


def test_layer_on_a_recorded_frame(real_points):
    """The mean of the points lies in its voxel; a batch is the frames one after the other."""
    size, limits = [0.25, 0.25, 8], [-50, -50, -5, 50, 50, 3]
    coors = dynamic_voxelize(real_points, size, limits)
    layer = DynamicScatter(size, limits, average_points=True)
    assert repr(layer) == (
        'DynamicScatter(voxel_size=[0.25, 0.25, 8], point_cloud_range=[-50, -50, -5, 50, 50, 3], '
        'average_points=True)'
    )
    means, voxels = layer(real_points, coors)
    middle = dynamic_voxelize(means, [s * 1.0 for s in size], limits)
    assert (middle == voxels).all(1).float().mean() > 0.999  # but for rounding at a border
    batch = torch.cat([torch.nn.functional.pad(coors, (1, 0), value=b) for b in range(2)])
    both, voxels_of_both = layer(real_points.repeat(2, 1), batch)
    assert torch.equal(both, means.repeat(2, 1))
    assert torch.equal(voxels_of_both[:, 1:], voxels.repeat(2, 1))


def test_bit_identical_whatever_the_number_of_threads():
    coors, feats = torch.randint(-1, 30, (50_000, 3)), torch.randn(50_000, 16)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            run = []
            for reduce_type in REDUCE:
                leaf = feats.clone().requires_grad_()
                out, voxels = dynamic_scatter(leaf, coors, reduce_type)
                run += [out, voxels, *torch.autograd.grad(out.square().sum(), leaf)]
            runs.append(run)
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_non_contiguous_inputs():
    coors, feats = torch.randint(0, 3, (3, 100)).t(), torch.randn(8, 100).t()
    got = dynamic_scatter(feats, coors)
    for a, b in zip(got, dynamic_scatter(feats.contiguous(), coors.contiguous())):
        assert torch.equal(a, b)


@traces
@pytest.mark.parametrize('reduce_type', REDUCE)
def test_compiles_and_exports(reduce_type):
    class Net(torch.nn.Module):
        def forward(self, feats, coors):
            out, voxels = dynamic_scatter(feats * 2, coors, reduce_type)
            return out.relu(), voxels

    coors, feats = torch.randint(-1, 3, (100, 3)), torch.randn(100, 5, requires_grad=True)
    expected = Net()(feats, coors)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(Net(), backend='aot_eager', fullgraph=True)(feats, coors)
    exported = torch.export.export(Net(), (feats.detach(), coors)).module()(feats, coors)
    for want, *others in zip(expected, compiled, exported):
        assert all(torch.equal(want, other) for other in others)
    grads = [torch.autograd.grad(out[0].sum(), feats)[0] for out in (expected, compiled)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    'plan', [torch.ops.mxd.dynamic_scatter_plan, fallback.dynamic_scatter.plan]
)
def test_bad_coors(plan):
    with pytest.raises(TypeError, match='coors must be int32 or int64'):
        plan(torch.rand(3, 3))
    for shape in ((3,), (3, 0)):
        with pytest.raises(ValueError, match='coors must have shape'):
            plan(torch.zeros(shape, dtype=torch.int32))


def test_coors_span_too_much():
    with pytest.raises(ValueError, match=r'coors must span fewer than 2\*\*63 cells'):
        dynamic_scatter(torch.rand(1, 3), torch.full((1, 2), 2**40))


@pytest.mark.parametrize('run', [torch.ops.mxd.dynamic_scatter, fallback.dynamic_scatter.forward])
def test_bad_input(run):
    ranks, intervals = torch.arange(3).int(), torch.tensor([0, 1, 3])
    feats = torch.rand(3, 2)
    with pytest.raises(ValueError, match="reduce_type must be 'sum', 'mean' or 'max', was 'min'"):
        run(feats, ranks, intervals, 'min')
    with pytest.raises(ValueError, match='feats must have shape'):
        run(feats[0], ranks, intervals, 'sum')
    with pytest.raises(TypeError, match='feats must be float32'):
        run(feats.int(), ranks, intervals, 'sum')
    with pytest.raises(TypeError, match='ranks must be int32'):
        run(feats, ranks.long(), intervals, 'sum')
    with pytest.raises(TypeError, match='intervals must be int64'):
        run(feats, ranks, intervals.int(), 'sum')


def test_bad_rows():
    with pytest.raises(ValueError, match='feats must have a row for each of the 4 coors'):
        dynamic_scatter(torch.rand(3, 2), torch.zeros(4, 3, dtype=torch.int32))
    ranks, intervals = torch.arange(3).int(), torch.tensor([0, 1, 3])
    for bad in (ranks + 1, ranks - 1):
        with pytest.raises(ValueError, match='ranks must be at least 0 and below 3'):
            torch.ops.mxd.dynamic_scatter(torch.rand(3, 2), bad, intervals, 'sum')
    for bad in ([0, 0, 3], [1, 2, 3], [0, 2, 4], [0, 5, 3]):
        with pytest.raises(ValueError, match='intervals must ascend from 0'):
            torch.ops.mxd.dynamic_scatter(torch.rand(3, 2), ranks, torch.tensor(bad), 'sum')
