"""Deformable aggregation against Sparse4D's grid_sample form, float64 gradcheck and its pure-PyTorch form."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS

import mxd_mmplugin
from mxd_mmplugin import (
    DeformableAggregation,
    DeformableAggregationFunction,
    deformable_aggregation,
)
from mxd_mmplugin.ops import backends, fallback
from tests.conftest import traces

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)
NAMES = 'feature_maps', 'spatial_shape', 'scale_start_index', 'sample_locations', 'weight'


def reference(feature_maps, spatial_shape, scale_start_index, sample_locations, weight):
    """One `grid_sample` a map, then the weighted sum, as in Sparse4D's PyTorch path; and only samples inside."""
    bs, _, channels = feature_maps.shape
    cams, scales = scale_start_index.shape
    groups = weight.shape[5]
    inside = ((sample_locations > 0) & (sample_locations < 1)).all(-1)
    locations = torch.where(inside[..., None], sample_locations, 0.5)
    weight = torch.where(inside[..., None, None], weight, 0)
    out = feature_maps.new_zeros(*weight.shape[:2], groups, channels // groups)
    for cam in range(cams):
        for scale in range(scales):
            height, width = spatial_shape[cam, scale].tolist()
            start = int(scale_start_index[cam, scale])
            pixels = feature_maps[:, start : start + height * width].transpose(1, 2)
            read = F.grid_sample(
                pixels.reshape(bs, channels, height, width),
                locations[:, :, :, cam] * 2 - 1,
                align_corners=False,
            )
            read = read.unflatten(1, (groups, -1))
            out = out + torch.einsum('bgcap,bapg->bagc', read, weight[:, :, :, cam, scale])
    return out.flatten(2)


def make(shapes, bs=1, anchors=3, points=2, channels=8, groups=2, dtype=torch.float64, seed=0):
    """Inputs for maps of `shapes` [cam][scale] (h, w); locations in and around the images."""
    generator = torch.Generator().manual_seed(seed)
    spatial_shape = torch.tensor(shapes)
    cams, scales, _ = spatial_shape.shape
    sizes = spatial_shape.prod(-1).flatten()
    start = (sizes.cumsum(0) - sizes).view(cams, scales)
    maps = torch.randn(bs, int(sizes.sum()), channels, generator=generator, dtype=dtype)
    locations = torch.rand(bs, anchors, points, cams, 2, generator=generator, dtype=dtype)
    locations = locations * 1.5 - 0.25
    weight = torch.randn(
        bs, anchors, points, cams, scales, groups, generator=generator, dtype=dtype
    )
    return [maps, spatial_shape, start, locations, weight]


@st.composite
def problems(draw, most=9):
    """Cameras of different resolution, group widths around the vector widths, gaps between maps, no samples at all."""
    cams, scales, groups = (draw(st.integers(1, n)) for n in (4, 3, 5))
    side = st.integers(1, most)
    shapes = [[[draw(side), draw(side)] for _ in range(scales)] for _ in range(cams)]
    inputs = make(
        shapes,
        bs=draw(st.integers(0, 2)),
        anchors=draw(st.integers(0, 6)),
        points=draw(st.integers(0, 5)),
        channels=groups * draw(st.integers(1, 40)),
        groups=groups,
        seed=draw(st.integers(0, 2**31)),
    )
    gap = draw(st.sampled_from([0, 0, 3]))
    inputs[0] = F.pad(inputs[0], (0, 0, gap, gap))
    inputs[2] = inputs[2] + gap
    index = draw(st.sampled_from([torch.int32, torch.int64]))
    inputs[1:3] = (t.to(index) for t in inputs[1:3])
    return inputs


def leaves(inputs):
    return [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]


def gradients(function, inputs):
    """The output, and the gradients of maps, locations and weights for a fixed gradient of the output."""
    inputs = leaves(inputs)
    out = function(*inputs)
    if not out.numel():
        return [out]
    grad = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out).to(out.dtype)
    return [out, *torch.autograd.grad(out, [inputs[0], inputs[3], inputs[4]], grad)]


def assert_same(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for got, want in zip(ours, theirs):
        torch.testing.assert_close(got, want, **tolerance)


def pure_pytorch(*inputs):
    """The form for other devices, with the CPU kernels' own autograd replaced by its own gradients."""

    class Pure(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return fallback.deformable_aggregation.forward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            form, inputs = fallback.deformable_aggregation, ctx.saved_tensors
            locations, weight = form.sample_grad(grad, *inputs)
            return form.feature_grad(grad, *inputs), None, None, locations, weight

    return Pure.apply(*inputs)


@SETTINGS
@given(problems())
def test_equals_grid_sample_form(inputs):
    assert_same(gradients(deformable_aggregation, inputs), gradients(reference, inputs))


@SETTINGS
@given(problems())
def test_pure_pytorch_form_equals_grid_sample_form(inputs):
    assert_same(gradients(pure_pytorch, inputs), gradients(reference, inputs))


def test_pure_pytorch_form_in_chunks(monkeypatch):
    inputs = make([[[5, 7], [3, 4]]] * 2, bs=2, anchors=9, points=4)
    whole = gradients(pure_pytorch, inputs)
    monkeypatch.setattr(fallback.deformable_aggregation, 'CHUNK', 8 * 5)
    assert_same(gradients(pure_pytorch, inputs), whole)


def test_float32_at_the_size_of_a_model():
    shapes = [[[32, 88], [16, 44], [8, 22], [4, 11]]] * 6
    inputs = make(shapes, 1, 60, 13, 256, 8, torch.float32)
    double = [t.double() if t.is_floating_point() else t for t in inputs]
    expected = [t.float() for t in gradients(reference, double)]
    for function in (deformable_aggregation, pure_pytorch):
        for got, want in zip(gradients(function, inputs), expected):
            scale = want.abs().max()
            torch.testing.assert_close(got / scale, want / scale, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(most=4))
def test_gradcheck(inputs):
    maps, shapes, start, locations, weight = inputs
    # Away from where a pixel's share has a kink: a sample between pixels at every scale.
    sizes = shapes.flip(-1)[None, None, None].double()
    pixel = locations[..., None, :] * sizes - 0.5
    kink = ((pixel - pixel.round()).abs() < 1e-3).any(-1).any(-1)
    border = torch.minimum(locations.abs(), (locations - 1).abs()).amin(-1) < 1e-3
    locations = torch.where((kink | border)[..., None], 2.0, locations)
    args = leaves([maps[..., :6], shapes, start, locations, weight])
    channels, groups = args[0].shape[2], args[4].shape[5]
    if channels % groups:
        args[4] = args[4].detach()[..., :1].requires_grad_()
    if args[0].numel() and args[4].numel():
        assert torch.autograd.gradcheck(deformable_aggregation, args)


def at(*locations, shape=(4, 4), channels=4):
    """Inputs with one sample of weight 1 an anchor, at `locations`, on a map that counts 1, 2, 3 ..."""
    height, width = shape
    maps = torch.arange(1.0, height * width + 1)[None, :, None].expand(1, -1, channels)
    places = torch.tensor(locations).view(1, -1, 1, 1, 2)
    weight = torch.ones(1, len(locations), 1, 1, 1, 1)
    return maps, torch.tensor([[shape]]), torch.tensor([[0]]), places, weight


FORMS = pytest.mark.parametrize('form', [deformable_aggregation, pure_pytorch])


@FORMS
def test_pixel_centres_and_x_before_y(form):
    # (x, y): the pixel in row 1 and column 2 of a map of 2 rows and 4 columns, then its neighbours' mean
    out = form(*at([0.625, 0.75], [0.5, 0.75], [0.625, 0.5], shape=(2, 4)))
    assert out[0, :, 0].tolist() == [7.0, 6.5, 5.0]


@FORMS
def test_fades_to_zero_beyond_the_outermost_centres(form):
    # A quarter of a pixel from the border: three quarters of the pixel are there; in the corner 9 / 16.
    out = form(*at([1 / 16, 0.375], [1 / 16, 1 / 16], [1 - 1 / 16, 1 - 1 / 16]))
    assert out[0, :, 0].tolist() == [0.75 * 5, 9 / 16 * 1, 9 / 16 * 16]


@FORMS
def test_borders_and_whatever_is_not_inside_count_nothing(form):
    nan, inf = float('nan'), float('inf')
    outside = [0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0], [-0.1, 0.5], [0.5, 1e30]
    broken = [nan, 0.5], [0.5, nan], [inf, 0.5], [0.5, -inf], [nan, inf], [-3e38, 3e38]
    inputs = list(at([0.5, 0.5], *outside, *broken))
    inputs[4] = torch.full_like(inputs[4], nan)  # nor are their weights looked at
    inputs[4][0, 0] = 1
    out, maps, locations, weight = gradients(form, inputs)
    assert out[0, 0, 0] == 8.5 and not out[0, 1:].any()
    assert maps.isfinite().all()
    assert locations[0, 0].any() and not locations[0, 1:].any()
    assert weight[0, 0].any() and not weight[0, 1:].any()


@FORMS
def test_maps_that_share_rows_and_rows_without_a_map(form):
    inputs = make([[[4, 4]], [[3, 5]]], anchors=20)
    inputs[0] = torch.randn(1, 30, 8, dtype=torch.float64)
    inputs[2] = torch.tensor([[5], [8]])
    assert_same(gradients(form, inputs), gradients(reference, inputs))


@FORMS
@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_sums_in_float32(form, dtype, tolerance):
    inputs = make([[[7, 9], [4, 5]]] * 3, 2, 11, 30, 48, 3, torch.float32)
    inputs[0], inputs[4] = inputs[0].to(dtype), inputs[4].to(dtype)
    full = [t.float() if t.is_floating_point() else t for t in inputs]
    ours, theirs = gradients(form, inputs), gradients(form, full)
    # Of the same inputs the result is that of float32, rounded once; the gradient given is rounded.
    assert torch.equal(ours[0], theirs[0].to(dtype))
    assert [t.dtype for t in ours] == [dtype, dtype, torch.float32, dtype]
    for got, want in zip(ours[1:], theirs[1:]):
        scale = want.abs().max()
        torch.testing.assert_close(
            got.float() / scale, want / scale, rtol=tolerance, atol=tolerance
        )


def test_half_precision_locations():
    inputs = make([[[7, 9]]], dtype=torch.float32)
    half = [t.bfloat16() if t.is_floating_point() else t for t in inputs]
    exact = [half[0], *half[1:3], half[3].float(), half[4]]
    assert torch.equal(deformable_aggregation(*half), deformable_aggregation(*exact))
    assert gradients(deformable_aggregation, half)[2].dtype == torch.bfloat16
    assert torch.equal(
        DeformableAggregationFunction.apply(*half), DeformableAggregationFunction.apply(*exact)
    )


def test_autocast_as_for_a_convolution_but_positions_stay_float32():
    inputs = leaves(make([[[70, 90]]], dtype=torch.float32))
    with torch.autocast('cpu', torch.bfloat16):
        out = deformable_aggregation(*inputs)
    assert out.dtype == torch.bfloat16
    rounded = [inputs[0].bfloat16(), *inputs[1:4], inputs[4].bfloat16()]
    assert torch.equal(out, deformable_aggregation(*rounded))
    out.float().sum().backward()
    assert {inputs[n].grad.dtype for n in (0, 3, 4)} == {torch.float32}
    double = make([[[7, 9]]])
    with torch.autocast('cpu', torch.bfloat16):
        assert deformable_aggregation(*double).dtype == torch.float64


def test_bit_identical_whatever_the_number_of_threads():
    shapes = [[[16, 44], [8, 22], [4, 11]]] * 3
    inputs = make(shapes, 2, 70, 13, 96, 4, torch.float32)
    inputs[3] = inputs[3].clamp(0.3, 0.7)  # many samples on few pixels
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 2, 3, 4):
            torch.set_num_threads(count)
            runs.append(gradients(deformable_aggregation, inputs))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_non_contiguous_inputs():
    inputs = make([[[5, 7], [3, 4]]] * 2, bs=2, channels=24)
    strided = [
        t.transpose(0, -1).contiguous().transpose(0, -1) if t.is_floating_point() else t
        for t in inputs
    ]
    strided[1] = strided[1].flip(-1).flip(-1).transpose(0, 1).contiguous().transpose(0, 1)
    assert not any(t.is_contiguous() for t in strided[:2])
    assert_same(gradients(deformable_aggregation, strided), gradients(reference, inputs))


def test_only_the_gradients_that_are_needed():
    for wanted in (0, 3, 4):
        inputs = make([[[5, 7]]])
        inputs[wanted].requires_grad_()
        deformable_aggregation(*inputs).sum().backward()
        assert [t.grad is not None for t in inputs] == [n == wanted for n in range(5)]


def check_widths():
    """For test_vector_widths.py."""
    for width in (1, 3, 8, 37, 64):
        for dtype in (torch.float32, torch.float64):
            inputs = make([[[5, 7], [3, 4]]] * 2, 1, 20, 5, 3 * width, 3, torch.float64)
            want = [t.to(dtype) for t in gradients(reference, inputs)]
            inputs = [t.to(dtype) if t.is_floating_point() else t for t in inputs]
            assert_same(gradients(deformable_aggregation, inputs), want, rtol=1e-3, atol=1e-3)


@traces
@pytest.mark.parametrize('dynamic', [False, True])
@pytest.mark.parametrize('amp', [False, True])
def test_compiles_forward_and_backward(dynamic, amp):
    def run(*inputs):
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            return deformable_aggregation(*inputs).float().relu()

    compiled = torch.compile(run, backend='aot_eager', fullgraph=True, dynamic=dynamic)
    for anchors in (3, 5):
        inputs = make([[[5, 7], [3, 4]]], anchors=anchors, dtype=torch.float32)
        for got, want in zip(gradients(compiled, inputs), gradients(run, inputs)):
            assert torch.equal(got, want)


@traces
@pytest.mark.parametrize('strict', [False, True])
def test_exports(strict):
    inputs = make([[[5, 7], [3, 4]]], anchors=4)
    anchors = torch.export.Dim('anchors', min=2, max=1000)
    program = torch.export.export(
        DeformableAggregation(),
        tuple(inputs),
        dynamic_shapes=(None, None, None, {1: anchors}, {1: anchors}),
        strict=strict,
    )
    for count in (4, 9):
        inputs = make([[[5, 7], [3, 4]]], anchors=count)
        assert torch.equal(program.module()(*inputs), deformable_aggregation(*inputs))


@traces
def test_operators_pass_the_checks_of_pytorch():
    inputs = make([[[5, 7], [3, 4]]] * 2)
    grad = torch.randn(1, 3, 8, dtype=torch.float64)
    for operator, args in (
        (torch.ops.mxd.deformable_aggregation.default, inputs),
        (torch.ops.mxd.deformable_aggregation_feature_grad.default, [grad, *inputs]),
        (torch.ops.mxd.deformable_aggregation_sample_grad.default, [grad, *inputs]),
    ):
        torch.library.opcheck(operator, args, test_utils=('test_schema', 'test_faketensor'))


def test_every_operator_has_a_cpu_kernel_and_a_form_for_other_devices():
    served = {k: v for k, v in backends().items() if k.startswith('deformable_aggregation')}
    assert len(served) == 3
    assert {devices['cpu'] for devices in served.values()} == {'kernel'}


def test_names_of_others():
    inputs = make([[[5, 7]]])
    out = deformable_aggregation(*inputs)
    for other in (
        mxd_mmplugin.npu_deformable_aggregation,
        mxd_mmplugin.deformable_aggregation_function,
        DeformableAggregationFunction.apply,
        MODELS.build(dict(type='DeformableAggregation')),
        MODELS.build(dict(type='MxdDeformableAggregation')),
    ):
        assert torch.equal(other(*inputs), out)


def test_examples_of_the_document():
    page = Path(__file__).parents[2] / 'docs' / 'deformable_aggregation.md'
    blocks = re.findall(r'(?:^    .*\n|^\n)+', page.read_text(), re.MULTILINE)
    examples = [re.sub('^    ', '', block, flags=re.M) for block in blocks if 'import' in block]
    assert len(examples) == 2
    for example in examples:
        names = {}
        exec(example, names)
        assert names['out'].shape == names['expected_shape']
        assert names['feature_maps'].grad.isfinite().all()


GOOD = dict(zip(NAMES, make([[[2, 3], [1, 2]]] * 2, dtype=torch.float32)))


def changed(name, change):
    return {**GOOD, name: change(GOOD[name])}


BAD = [
    ('feature_maps', lambda t: t.long(), TypeError, 'feature_maps must be float32, float64'),
    ('feature_maps', lambda t: t[0], ValueError, r'feature_maps must have shape \[bs, num_feat, c'),
    (
        'feature_maps',
        lambda t: t[:, :15],
        ValueError,
        r'scale_start_index\[1, 1\] must begin a map',
    ),
    ('feature_maps', lambda t: t[..., :7], ValueError, 'must divide the channels.* 7, were 2'),
    ('feature_maps', lambda t: t.repeat(2, 1, 1), ValueError, r'sample_locations .*\[2, anchor'),
    ('spatial_shape', lambda t: t.float(), TypeError, 'spatial_shape must be int32 or int64, was'),
    ('spatial_shape', lambda t: t[0], ValueError, r'spatial_shape must have shape \[cam, scale, 2'),
    ('spatial_shape', lambda t: t[..., :1], ValueError, r'spatial_shape must have shape .*2, 2, 1'),
    ('spatial_shape', lambda t: t[:1], ValueError, r'scale_start_index must have shape \[1, 2\]'),
    (
        'spatial_shape',
        lambda t: t - 1,
        ValueError,
        r'spatial_shape\[0, 1\] must be at least 1 by 1',
    ),
    ('spatial_shape', lambda t: t * 2**40, ValueError, r'scale_start_index\[0, 0\] must begin'),
    (
        'scale_start_index',
        lambda t: t.half(),
        TypeError,
        'scale_start_index must be int32 or int64',
    ),
    ('scale_start_index', lambda t: t[:, :1], ValueError, r'scale_start_index must have shape'),
    ('scale_start_index', lambda t: t - 1, ValueError, r'\[0, 0\] must begin .* 16 rows.* was -1'),
    ('scale_start_index', lambda t: t + 1, ValueError, r'\[1, 1\] must begin a map of 1 by 2'),
    ('scale_start_index', lambda t: t + 2**62, ValueError, r'\[0, 0\] must begin'),
    ('sample_locations', lambda t: t.double(), TypeError, 'sample_locations must be float32 or'),
    ('sample_locations', lambda t: t.long(), TypeError, 'sample_locations must be float32 or'),
    ('sample_locations', lambda t: t[0], ValueError, r'\[1, anchor, pts, 2, 2\]'),
    ('sample_locations', lambda t: t[:, :, :, :1], ValueError, r'\[1, anchor, pts, 2, 2\]'),
    ('sample_locations', lambda t: t[..., :1], ValueError, r'was \[1, 3, 2, 2, 1\]'),
    ('sample_locations', lambda t: t[:, :2], ValueError, r'weight must have shape \[1, 2, 2, 2, 2'),
    ('weight', lambda t: t[0], ValueError, r'weight must have shape \[1, 3, 2, 2, 2, group\]'),
    ('weight', lambda t: t[:, :, :1], ValueError, r'weight .* was \[1, 3, 1, 2, 2, 2\]'),
    ('weight', lambda t: t[..., :1, :], ValueError, r'weight .* was \[1, 3, 2, 2, 1, 2\]'),
    ('weight', lambda t: t[..., :0], ValueError, 'the groups of weight must divide.* were 0'),
    ('weight', lambda t: t.repeat(1, 1, 1, 1, 1, 5), ValueError, 'divide .* 8, were 10'),
    *[
        (name, lambda t: t.to('meta'), ValueError, f'{name} must be on the device of feature_maps')
        for name in NAMES[1:]
    ],
]


@FORMS
@pytest.mark.parametrize('name, change, error, message', BAD)
def test_bad_input(form, name, change, error, message):
    with pytest.raises(error, match=message):
        form(**changed(name, change)) if form is deformable_aggregation else form(
            *changed(name, change).values()
        )


@pytest.mark.parametrize(
    'form', [torch.ops.mxd.deformable_aggregation, fallback.deformable_aggregation.forward]
)
def test_the_operator_itself_takes_one_dtype(form):
    for change in (
        changed('feature_maps', torch.Tensor.double),
        changed('weight', torch.Tensor.half),
    ):
        with pytest.raises(TypeError, match='weight must have the dtype of feature_maps'):
            form(*change.values())


@pytest.mark.parametrize(
    ('maps', 'weight'),
    [
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.float64, torch.float32),
    ],
)
def test_mixed_dtypes_are_promoted(maps, weight):
    inputs = make([[[7, 9], [4, 5]]], dtype=torch.float32)
    inputs[0], inputs[4] = inputs[0].to(maps), inputs[4].to(weight)
    inputs = leaves(inputs)
    out = deformable_aggregation(*inputs)
    both = torch.promote_types(maps, weight)
    same = [inputs[0].to(both), *inputs[1:4], inputs[4].to(both)]
    assert out.dtype == both and torch.equal(out, deformable_aggregation(*same))
    out.sum().backward()
    assert inputs[0].grad.dtype == maps and inputs[4].grad.dtype == weight


@pytest.mark.parametrize(
    'grad, error, message',
    [
        (torch.randn(1, 3, 7), ValueError, r'grad must have shape \[1, 3, 8\]'),
        (torch.randn(3, 8), ValueError, r'grad must have shape \[1, 3, 8\]'),
        (torch.randn(1, 3, 8).half(), TypeError, 'grad must have the dtype of feature_maps'),
        (torch.randn(1, 3, 8, device='meta'), ValueError, 'grad must be on the device'),
    ],
)
def test_bad_gradient(grad, error, message):
    form = fallback.deformable_aggregation
    for function in (
        torch.ops.mxd.deformable_aggregation_feature_grad,
        torch.ops.mxd.deformable_aggregation_sample_grad,
        form.feature_grad,
        form.sample_grad,
    ):
        with pytest.raises(error, match=message):
            function(grad, *GOOD.values())
