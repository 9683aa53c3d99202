"""The pooling of depth times context against `index_add` in float64, the pooling of the product, and BEVDet's lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import bev_pool, bev_pool_fused, bev_pool_plan, bev_pool_v2
from mxd_mmplugin.ops import fallback
from tests.conftest import traces
from tests.ops.test_bev_pool import reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
SPECIAL = torch.tensor([float('nan'), float('inf'), -float('inf'), 0.0])


def lifted(depth, context):
    """The features of the points, row by row."""
    return (depth.unsqueeze(-1) * context.unsqueeze(1)).flatten(0, -2)


def places(count, shape, generator, spread=1.3):
    """Places of points, some of them outside of the grid."""
    B, D, H, W = shape
    coords = torch.rand(count, 4, generator=generator) * spread - (spread - 1) / 2
    return (coords * torch.tensor([H, W, D, B])).floor().long()


@st.composite
def problems(draw, most=9):
    """Depth, context, places and the grid; also without images, depths, pixels or channels."""
    shape = tuple(draw(st.integers(1, size)) for size in (3, 2, 30, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images, depths = draw(st.integers(0, 3)), draw(st.integers(0, most))
    pixels = draw(st.lists(st.integers(0, most), min_size=1, max_size=2))
    channels = draw(st.sampled_from([0, 1, 3, 8, 17, 80]))
    depth = torch.randn(images, depths, *pixels, generator=generator, dtype=torch.float64)
    context = torch.randn(images, *pixels, channels, generator=generator, dtype=torch.float64)
    coords = places(depth.numel(), shape, generator, draw(st.sampled_from([1.0, 1.3, 3.0])))
    if draw(st.booleans()) and len(coords):  # neighbours in one cell, as in a column of an image
        coords = coords[torch.arange(len(coords)) // 5 * 5]
    return depth, context, coords, shape


def with_grads(run, *leaves):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = run(*leaves)
    weight = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight.to(out.dtype))]


@SETTINGS
@given(problems())
def test_equals_index_add_of_the_product(problem):
    depth, context, coords, shape = problem
    plan = bev_pool_plan(coords, *shape)
    found = with_grads(lambda *leaves: bev_pool_fused(*leaves, plan), depth, context)
    wanted = with_grads(lambda *leaves: reference(lifted(*leaves), coords, *shape), depth, context)
    for got, want in zip(found, wanted):
        torch.testing.assert_close(got, want)


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    depth, context, coords, shape = problem
    depth, context = depth.flatten(2), context.flatten(1, -2)
    plan = torch.ops.mxd.bev_pool_plan(coords, *shape)
    out = torch.ops.mxd.bev_pool_fused(depth, context, *plan, *shape)
    torch.testing.assert_close(out, fallback.bev_pool.fused(depth, context, *plan, *shape))
    grad = torch.randn_like(out).flatten(0, 3)
    found = torch.ops.mxd.bev_pool_fused_grad(grad, depth, context, plan[0])
    for got, want in zip(found, fallback.bev_pool.fused_grad(grad, depth, context, plan[0])):
        torch.testing.assert_close(got, want)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(problems(most=3))
def test_gradcheck(problem):
    depth, context, coords, shape = problem
    plan = bev_pool_plan(coords, *shape[:2], *(min(size, 4) for size in shape[2:]))
    leaves = depth.requires_grad_(), context[..., :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *leaves: bev_pool_fused(*leaves, plan), leaves)


@pytest.mark.parametrize(
    'dtype, tolerance',
    [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_sums_in_float32(dtype, tolerance):
    """Cells of a thousand terms, whose sum in half precision would stop growing."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 30, 7, 11, generator=generator).to(dtype)
    context = torch.rand(2, 7, 11, 37, generator=generator).to(dtype)
    coords = places(depth.numel(), (1, 1, 2, 2), generator)
    plan = bev_pool_plan(coords, 1, 1, 2, 2)
    found = with_grads(lambda *leaves: bev_pool_fused(*leaves, plan), depth, context)
    wanted = with_grads(
        lambda *leaves: reference(lifted(*leaves), coords, 1, 1, 2, 2),
        depth.double(),
        context.double(),
    )
    for got, want in zip(found, wanted):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=10 * tolerance)


def test_numbers_that_are_not_finite_count_as_in_the_product():
    generator = torch.Generator().manual_seed(0)
    depth, context = torch.rand(2, 6, 20), torch.rand(2, 20, 9)
    for tensor in (depth, context):
        chosen = torch.rand(tensor.shape, generator=generator) < 0.1
        tensor[chosen] = SPECIAL[torch.randint(4, (int(chosen.sum()),), generator=generator)]
    coords = places(depth.numel(), (1, 1, 9, 9), generator, spread=2.0)
    plan = bev_pool_plan(coords, 1, 1, 9, 9)
    found = with_grads(lambda *leaves: bev_pool_fused(*leaves, plan), depth, context)
    wanted = with_grads(lambda *leaves: bev_pool(lifted(*leaves), plan), depth, context)
    assert found[0].isnan().any() and found[0].isfinite().any()
    torch.testing.assert_close(found[0], wanted[0], equal_nan=True)
    # The product's gradients also have 0 * NaN of the points outside; these have not.
    inside = (plan.cells >= 0).view(depth.shape)
    torch.testing.assert_close(found[1][inside], wanted[1][inside], equal_nan=True)
    assert not found[1][~inside].any()
    assert not (found[2].isnan() & ~wanted[2].isnan()).any()


def test_bit_identical_whatever_the_number_of_threads():
    depth, context = torch.rand(3, 20, 40, 9), torch.randn(3, 40, 9, 33)
    coords = places(depth.numel(), (1, 1, 90, 70), torch.Generator().manual_seed(0))
    plan = bev_pool_plan(coords, 1, 1, 90, 70)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            runs.append(with_grads(lambda *leaves: bev_pool_fused(*leaves, plan), depth, context))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_non_contiguous_inputs():
    depth, context = (
        torch.rand(9, 4, 5, 2).permute(3, 1, 2, 0),
        torch.rand(3, 5, 9, 2).transpose(0, 3),
    )
    coords = places(depth.numel(), (1, 2, 5, 6), torch.Generator().manual_seed(0))
    plan = bev_pool_plan(coords, 1, 2, 5, 6)
    found = with_grads(lambda *leaves: bev_pool_fused(*leaves, plan), depth, context)
    wanted = bev_pool_fused(depth.contiguous(), context.contiguous(), plan)
    assert torch.equal(found[0], wanted) and found[1].shape == depth.shape


@traces
def test_compiles():
    plan = bev_pool_plan(torch.randint(-1, 8, (120, 4)), 8, 8, 8, 8)

    def run(depth, context):
        return bev_pool_fused(depth.softmax(1), context, plan).relu()

    leaves = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 12, 6, requires_grad=True)
    expected = run(*leaves)
    compiled = torch.compile(run, backend='aot_eager', fullgraph=True)(*leaves)
    assert torch.equal(expected, compiled)
    for got, want in zip(
        torch.autograd.grad(compiled.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    ):
        assert torch.equal(got, want)


def bevdet_lists(depth, coords, shape):
    """The lists as BEVDet's view transform makes them."""
    B, D, H, W = shape
    images, (_, _, depths, height, width) = len(depth.flatten(0, 1)), depth.shape
    ranks_depth = torch.arange(depth.numel())
    pixels = torch.arange(images * height * width).view(images, 1, height * width)
    ranks_feat = pixels.expand(-1, depths, -1).flatten()
    inside = ((coords >= 0) & (coords < torch.tensor([H, W, D, B]))).all(1)
    h, w, d, b = coords[inside].unbind(1)
    ranks_bev, order = (((b * D + d) * H + h) * W + w).sort()
    return ranks_depth[inside][order].int(), ranks_feat[inside][order].int(), ranks_bev.int()


@pytest.mark.parametrize('kind', ['of BEVDet', 'any', 'a point twice', 'empty'])
def test_lists_of_bevdet(kind):
    generator, shape = torch.Generator().manual_seed(0), (2, 2, 9, 7)
    depth = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64)
    feat = torch.randn(2, 3, 5, 6, 8, dtype=torch.float64)
    coords = places(depth.numel(), shape, generator)
    lists = bevdet_lists(depth, coords, shape)
    if kind == 'any':
        numbers = depth.numel(), feat[..., 0].numel(), 2 * 2 * 9 * 7
        lists = [torch.randint(most, (500,), generator=generator) for most in numbers]
    if kind == 'a point twice':
        lists = [torch.cat([ranks, ranks[:9]]) for ranks in lists]
    if kind == 'empty':
        lists = [ranks[:0] for ranks in lists]
    of_depth, of_feat, of_bev = (ranks.long() for ranks in lists)

    def definition(depth, feat):
        rows = depth.flatten()[of_depth, None] * feat.flatten(0, 3)[of_feat]
        out = rows.new_zeros(2 * 2 * 9 * 7, 8).index_add(0, of_bev, rows)
        return out.view(*shape, 8).permute(0, 4, 1, 2, 3)

    def ours(depth, feat):
        starts = torch.zeros(0, dtype=torch.int32)
        return bev_pool_v2(depth, feat, *lists, [*shape, 8], starts, starts)

    for got, want in zip(with_grads(ours, depth, feat), with_grads(definition, depth, feat)):
        torch.testing.assert_close(got, want)


PLAN = torch.ops.mxd.bev_pool_plan(torch.zeros(12, 4, dtype=torch.int32), 1, 1, 2, 2)
GOOD = dict(
    **dict(depth=torch.rand(2, 3, 2), context=torch.rand(2, 2, 5)),
    **dict(zip(('cells', 'ranks', 'intervals'), PLAN)),
    **dict(B=1, D=1, H=2, W=2),
)
BAD = [
    (dict(depth=torch.rand(2, 6)), ValueError, r'depth must have shape \[images, depths, pixels\]'),
    (dict(depth=torch.ones(2, 3, 2).int()), TypeError, 'depth must be float32'),
    (dict(context=torch.rand(2, 2, 5).double()), TypeError, 'context must have the dtype of depth'),
    (dict(context=torch.rand(2, 10)), ValueError, r'context must have shape \[images, pixels, ch'),
    (dict(context=torch.rand(1, 2, 5)), ValueError, 'context must have the 2 images of depth'),
    (dict(context=torch.rand(2, 3, 5)), ValueError, 'context must have the 2 pixels of depth'),
    (dict(depth=torch.rand(2, 4, 2)), ValueError, 'depth must have a number for each of the 12'),
    (dict(cells=PLAN[0].long()), TypeError, 'cells must be int32'),
]
PLAN_BAD = [
    (dict(ranks=PLAN[1][1:]), ValueError, 'depth must have a number for each of the 11 points'),
    (dict(intervals=PLAN[2][1:]), ValueError, r'intervals must have shape \[2\]'),
    (dict(H=0), ValueError, 'H must be at least 1'),
]
GRAD_BAD = [
    (dict(grad=torch.rand(4, 6)), ValueError, r'grad must have shape \[cells, 5\]'),
    (dict(grad=torch.rand(4, 5).half()), TypeError, 'grad must have the dtype of depth'),
]


@pytest.mark.parametrize('run', [torch.ops.mxd.bev_pool_fused, fallback.bev_pool.fused])
@pytest.mark.parametrize('change, error, message', BAD + PLAN_BAD)
def test_bad_input(run, change, error, message):
    with pytest.raises(error, match=message):
        run(*{**GOOD, **change}.values())


@pytest.mark.parametrize('run', [torch.ops.mxd.bev_pool_fused_grad, fallback.bev_pool.fused_grad])
@pytest.mark.parametrize('change, error, message', BAD + GRAD_BAD)
def test_bad_gradient(run, change, error, message):
    arguments = dict(grad=torch.rand(4, 5), **GOOD)
    arguments.update(change)
    with pytest.raises(error, match=message):
        run(*(arguments[name] for name in ('grad', 'depth', 'context', 'cells')))


def test_numbers_that_leave_the_tensors_are_refused():
    for change, message in (
        (dict(ranks=PLAN[1] + 1), 'ranks must be at least 0 and below 12'),
        (dict(intervals=PLAN[2] * 2), 'intervals must ascend from 0'),
        (dict(cells=PLAN[0] + 4), 'cells must lie in the tiles of their intervals'),
    ):
        with pytest.raises(ValueError, match=message):
            torch.ops.mxd.bev_pool_fused(*{**GOOD, **change}.values())
    for cells in (PLAN[0] - 2, PLAN[0] + 4):
        with pytest.raises(ValueError, match='cells must be at least -1 and below 4'):
            torch.ops.mxd.bev_pool_fused_grad(
                torch.rand(4, 5), GOOD['depth'], GOOD['context'], cells
            )


def test_bad_arguments_of_the_functions():
    plan = bev_pool_plan(torch.zeros(12, 4).int(), 1, 1, 2, 2)
    for depth, context in (
        (torch.rand(12), torch.rand(12)),
        (torch.rand(2, 3, 2), torch.rand(2, 3, 5)),
        (torch.rand(2, 3, 2), torch.rand(2, 2, 1, 5)),
    ):
        with pytest.raises(ValueError, match=r'depth must have shape \[images, depths, \.\.\.\]'):
            bev_pool_fused(depth, context, plan)
    depth, feat, ranks = torch.rand(1, 2, 3, 2, 1), torch.rand(1, 2, 2, 1, 5), torch.zeros(4).int()
    good = [depth, feat, ranks, ranks, ranks, (1, 1, 2, 2, 5)]
    for at, value, error, message in (
        (0, depth[0], ValueError, r'depth must have shape \[B, N, D, fH, fW\]'),
        (1, feat[..., 0, :], ValueError, r'feat \[B, N, fH, fW, C\]'),
        (2, ranks.float(), TypeError, 'ranks_depth must be int32 or int64'),
        (2, ranks + 12, ValueError, 'ranks_depth must be at least 0 and below 12'),
        (3, ranks[:3], ValueError, 'ranks_feat must have the shape of ranks_depth'),
        (3, ranks + 4, ValueError, 'ranks_feat must be at least 0 and below 4'),
        (4, ranks - 1, ValueError, 'ranks_bev must be at least 0 and below 4'),
        (5, (1, 1, 2, 2, 6), ValueError, 'bev_feat_shape must end with 5, was 6'),
        (5, (1, 1, 2, 2), ValueError, 'bev_feat_shape must have 5 numbers'),
        (5, (1, 1, 2, 2.5, 5), ValueError, 'bev_feat_shape must be a whole number'),
    ):
        arguments = list(good)
        arguments[at] = value
        with pytest.raises(error, match=message):
            bev_pool_v2(*arguments)
