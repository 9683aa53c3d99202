"""The deformable convolution operators against mmcv's CPU kernels, grid_sample, gradcheck and plain PyTorch."""

import itertools

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mxd_mmplugin
from mxd_mmplugin import (
    DeformConv2dFunction,
    ModulatedDeformConv2dFunction,
    deform_conv2d,
    modulated_deform_conv2d,
)
from mxd_mmplugin.ops import backends, fallback
from tests.conftest import traces

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
NAMES = 'input', 'offset', 'mask', 'weight', 'bias'


@st.composite
def problems(draw, max_channels=40, max_batch=3, dtype=torch.float64):
    """Tensors (mask and bias also None) and geometry of a convolution.

    Offsets are small or reach far out of the image, and fall between pixels, on eighths, or exactly
    on pixels and so on the border too.
    """

    def pair(least, most):
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    groups, deform_groups = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (2, 6)]))
    whole = torch.tensor([groups, deform_groups]).prod().item()
    inputs = draw(st.sampled_from([whole, 16 * whole, whole * draw(st.integers(1, 4))]))
    outputs = groups * draw(st.sampled_from([1, 16, draw(st.integers(1, max_channels))]))
    if inputs > max_channels:
        inputs = whole
    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 3)
    size = [
        max(s, d * (k - 1) + 1 - 2 * p, 1)
        for s, k, p, d in zip(pair(1, 15), kernel, padding, dilation)
    ]
    out = [
        (s + 2 * p - d * (k - 1) - 1) // step + 1
        for s, k, p, d, step in zip(size, kernel, padding, dilation, stride)
    ]
    batch = draw(st.integers(1, max_batch))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def random(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    samples = deform_groups * kernel[0] * kernel[1]
    offset = random(batch, 2 * samples, *out) * draw(st.sampled_from([0, 1, 8]))
    grain = draw(st.sampled_from([None, 1, 8]))
    if grain:
        offset = (offset * grain).round() / grain
    tensors = [
        random(batch, inputs, *size),
        offset,
        draw(st.sampled_from([None, random(batch, samples, *out)])),
        random(outputs, inputs // groups, *kernel),
        draw(st.sampled_from([None, random(outputs)])),
    ]
    return tensors, (stride, padding, dilation, groups, deform_groups)


def with_grad(tensors):
    return [None if t is None else t.detach().clone().requires_grad_() for t in tensors]


def run(function, tensors, geometry, grad=None):
    """Output and gradients of all tensors that are there."""
    leaves = with_grad(tensors)
    out = function(*leaves, *geometry)
    if grad is None:
        grad = torch.sin(torch.arange(out.numel())).view_as(out).to(out.dtype)
    present = [t for t in leaves if t is not None]
    return [out.detach(), *torch.autograd.grad(out, present, grad)]


def fits(problem):
    """Whether the input is as large as the kernel, which mmcv's v1 asks for."""
    input, _, _, weight, _ = problem[0]
    return all(size >= kernel for size, kernel in zip(input.shape[2:], weight.shape[2:]))


def by_mmcv(input, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    geometry = stride, padding, dilation, groups, deform_groups
    if mask is not None:
        return mmcv.ops.modulated_deform_conv2d(input, offset, mask, weight, bias, *geometry)
    out = mmcv.ops.deform_conv2d(input, offset, weight, *geometry)
    return out if bias is None else out + bias[:, None, None]


def by_grid_sample(
    input, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
):
    """Each kernel point's samples by `grid_sample`, then a 1x1 convolution over all of them."""
    height, width = input.shape[2:]
    out_height, out_width = offset.shape[2:]
    kernel = weight.shape[2:]
    parts = []
    for group, channels in enumerate(input.chunk(deform_groups, 1)):
        for k, (i, j) in enumerate(itertools.product(*map(range, kernel))):
            at = group * kernel.numel() + k
            y = torch.arange(out_height)[:, None] * stride[0] - padding[0] + i * dilation[0]
            x = torch.arange(out_width) * stride[1] - padding[1] + j * dilation[1]
            grid = torch.stack(
                [
                    (2 * (x + offset[:, 2 * at + 1]) + 1) / width - 1,
                    (2 * (y + offset[:, 2 * at]) + 1) / height - 1,
                ],
                -1,
            )
            part = F.grid_sample(channels, grid, align_corners=False)
            parts.append(part if mask is None else part * mask[:, at : at + 1])
    columns = torch.stack(parts, 2)  # [N, channels / deform_groups, deform_groups * points, ...]
    columns = columns.unflatten(2, (deform_groups, -1)).transpose(1, 2).flatten(1, 3)
    return F.conv2d(columns, weight.flatten(1)[:, :, None, None], bias, groups=groups)


def assert_same(ours, theirs, tolerance=1e-5):
    for got, want in zip(ours, theirs):
        assert got.shape == want.shape and got.dtype == want.dtype
        scale = max(want.abs().max().item(), 1) if want.numel() else 1
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * scale)


@SETTINGS
@given(problems(dtype=torch.float32))
def test_equals_mmcv(problem):
    if problem[0][2] is None:
        assume(fits(problem))
    assert_same(run(modulated_deform_conv2d, *problem), run(by_mmcv, *problem))


@settings(SETTINGS, max_examples=30)
@given(problems(dtype=torch.float32))
def test_v1_equals_mmcv(problem):
    assume(fits(problem))
    (input, offset, _, weight, _), geometry = problem
    assert_same(
        run(deform_conv2d, (input, offset, weight), geometry),
        run(mmcv.ops.deform_conv2d, (input, offset, weight), geometry),
    )


@settings(SETTINGS, max_examples=40)
@given(problems())
def test_equals_grid_sample(problem):
    (input, offset, *rest), geometry = problem
    # grid_sample rounds positions otherwise, which matters where the slope jumps: keep off pixels.
    offset = offset.floor() + 0.05 + 0.9 * (offset - offset.floor())
    problem = (input, offset, *rest), geometry
    assert_same(run(modulated_deform_conv2d, *problem), run(by_grid_sample, *problem), 1e-9)


def by_pytorch(input, offset, mask, weight, bias, *geometry):
    """The plain PyTorch form, with the gradients that belong to it."""
    tensors, form = (input, offset, mask, weight, bias), fallback.modulated_deform_conv
    detached = [None if t is None else t.detach() for t in tensors]

    class Form(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            return form.forward(*detached, *geometry)

        @staticmethod
        def backward(ctx, grad):
            grads = form.backward(grad, *detached[:4], *geometry, True, True)
            return tuple(g if t is not None else None for g, t in zip(grads, tensors))

    return Form.apply(*tensors)


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    assert_same(run(modulated_deform_conv2d, *problem), run(by_pytorch, *problem), 1e-9)


@settings(SETTINGS, max_examples=15)
@given(problems(max_channels=6, max_batch=2))
def test_gradcheck(problem):
    (input, offset, mask, weight, bias), geometry = problem
    offset = offset.floor() + 0.1 + 0.8 * (offset - offset.floor())  # no slope jumps nearby
    tensors = with_grad([input, offset, mask, weight, bias])
    present = [t for t in tensors if t is not None]

    def function(*present):
        each = iter(present)
        filled = [None if t is None else next(each) for t in tensors]
        return modulated_deform_conv2d(*filled, *geometry)

    assert torch.autograd.gradcheck(function, present, fast_mode=True)


def problem_of(batch, inputs, outputs, size, kernel=3, stride=1, deform_groups=1, groups=1, by=1.0):
    """Random float32 tensors of a convolution with padding kernel // 2."""
    out = [(s + 2 * (kernel // 2) - kernel) // stride + 1 for s in size]
    samples = deform_groups * kernel**2
    tensors = [
        torch.randn(batch, inputs, *size),
        torch.randn(batch, 2 * samples, *out) * by,
        torch.rand(batch, samples, *out),
        torch.randn(outputs, inputs // groups, kernel, kernel) / kernel,
        torch.randn(outputs),
    ]
    geometry = (stride, stride), (kernel // 2,) * 2, (1, 1), groups, deform_groups
    return tensors, geometry


def test_no_offset_is_a_convolution():
    (input, offset, _, weight, bias), geometry = problem_of(2, 20, 24, (9, 12), stride=2)
    ours = run(
        lambda input, weight, bias: modulated_deform_conv2d(
            input, offset * 0, None, weight, bias, *geometry
        ),
        (input, weight, bias),
        (),
    )
    theirs = run(F.conv2d, (input, weight, bias), geometry[:4])
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(batch=1, inputs=64, outputs=64, size=(40, 60), stride=2),
        dict(batch=2, inputs=150, outputs=130, size=(12, 17)),  # columns in several blocks
        dict(batch=3, inputs=96, outputs=16, size=(300, 310), kernel=1, stride=5),  # two chunks
        dict(batch=2, inputs=32, outputs=48, size=(33, 47), groups=4, deform_groups=2, by=9.0),
        dict(batch=40, inputs=16, outputs=16, size=(5, 6)),  # several images in a unit
    ],
)
def test_sizes_of_models(arguments):
    problem = problem_of(**arguments)
    ours, theirs = run(modulated_deform_conv2d, *problem), run(by_pytorch, *problem)
    assert_same(ours, theirs, 2e-5)


@pytest.mark.parametrize('needed', [('input',), ('offset', 'mask'), ('weight',), ('bias',)])
def test_only_the_gradients_that_are_asked_for(needed):
    problem = problem_of(2, 16, 16, (12, 13))
    all_grads = dict(zip(NAMES, run(modulated_deform_conv2d, *problem)[1:]))
    tensors = dict(zip(NAMES, problem[0]))
    for name in needed:
        tensors[name].requires_grad_()
    out = modulated_deform_conv2d(*tensors.values(), *problem[1])
    grad = torch.sin(torch.arange(out.numel())).view_as(out)
    grads = torch.autograd.grad(out, [tensors[name] for name in needed], grad)
    assert_same(grads, [all_grads[name] for name in needed])


def test_offsets_that_lead_nowhere():
    tensors, geometry = problem_of(1, 16, 16, (8, 8))
    for value in (float('nan'), float('inf'), -float('inf'), 1e30, -1e30):
        tensors[1].fill_(value)
        out, *grads = run(modulated_deform_conv2d, tensors, geometry)
        assert torch.equal(out, tensors[4][None, :, None, None].expand_as(out))
        assert not any(grad.any() for grad in grads[:4])


def test_pixels_outside_of_the_samples_do_not_matter():
    tensors, geometry = problem_of(1, 16, 16, (8, 8), kernel=1, by=0.0)
    tensors[0][:, :, 0, 0] = float('inf')
    tensors[1][:] = 2.5
    out = modulated_deform_conv2d(*tensors, *geometry)
    assert out.isfinite().all()


@pytest.mark.parametrize('batch, mask', [(0, True), (0, False)])
def test_empty_batch(batch, mask):
    tensors, geometry = problem_of(2, 16, 24, (8, 9))
    tensors = [t[:batch] for t in tensors[:3]] + tensors[3:]
    if not mask:
        tensors[2] = None
    out, *grads = run(modulated_deform_conv2d, tensors, geometry)
    assert out.shape == (0, 24, 8, 9)
    for grad, tensor in zip(grads, [t for t in tensors if t is not None]):
        assert grad.shape == tensor.shape and not grad.any()


def test_non_contiguous_inputs():
    tensors, geometry = problem_of(2, 16, 24, (8, 9))
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    strided[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    assert not any(t.is_contiguous() for t in strided[:4])
    grad = torch.randn(9, 24, 8, 2).transpose(0, 3)
    ours = run(modulated_deform_conv2d, strided, geometry, grad)
    theirs = run(modulated_deform_conv2d, tensors, geometry, grad.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize('function', [modulated_deform_conv2d, by_pytorch])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_sums_in_float32(dtype, tolerance, function):
    tensors, geometry = problem_of(2, 48, 20, (8, 9))
    tensors[1] = (tensors[1] * 4).round() / 4 + 0.125
    half = [t.to(dtype) for t in tensors]
    grad = torch.randn(2, 20, 8, 9).to(dtype)
    ours = run(function, half, geometry, grad)
    theirs = run(function, [t.float() for t in half], geometry, grad.float())
    for got, want in zip(ours, theirs):
        assert got.dtype == dtype
        scale = want.abs().max()
        torch.testing.assert_close(
            got.float() / scale, want / scale, rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize('apply', [modulated_deform_conv2d, ModulatedDeformConv2dFunction.apply])
def test_autocast_as_for_a_convolution(apply):
    tensors, geometry = problem_of(1, 16, 16, (8, 9))
    tensors = with_grad(tensors)
    with torch.autocast('cpu', torch.bfloat16):
        out = apply(tensors[0], tensors[1].bfloat16(), *tensors[2:], *geometry)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert {t.grad.dtype for t in tensors} == {torch.float32}


def test_bit_identical_whatever_the_number_of_threads():
    cases = [
        problem_of(2, 32, 32, (40, 50), by=4.0),
        problem_of(1, 24, 16, (60, 70), groups=2, deform_groups=2, stride=2),
        problem_of(1, 8, 1, (50, 50)),
    ]
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, threads, 1, 5):
            torch.set_num_threads(count)
            results = [run(modulated_deform_conv2d, *case) for case in cases]
            runs.append([tensor for result in results for tensor in result])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


# No more than PyTorch and the library, to be quick.
def check_widths():
    """For test_vector_widths.py."""
    form = fallback.modulated_deform_conv
    for dtype in (torch.float32, torch.float64):
        for arguments in (
            dict(inputs=36, outputs=70, groups=2, deform_groups=3),
            dict(inputs=64, outputs=64),
            dict(inputs=3, outputs=5),
        ):
            tensors, geometry = problem_of(batch=2, size=(15, 11), **arguments)
            tensors = [t.to(dtype) for t in tensors]
            out = form.forward(*tensors, *geometry)
            torch.testing.assert_close(
                torch.ops.mxd.modulated_deform_conv2d(*tensors, *geometry),
                out,
                rtol=1e-4,
                atol=1e-4,
            )
            grad = torch.randn_like(out)
            arguments = grad, *tensors[:4], *geometry, True, True
            torch.testing.assert_close(
                torch.ops.mxd.modulated_deform_conv2d_backward(*arguments),
                form.backward(*arguments),
                rtol=1e-4,
                atol=1e-4,
            )


@traces
@pytest.mark.parametrize('mask', [True, False])
@pytest.mark.parametrize('dynamic', [True, False])
def test_compiles_with_its_gradients(mask, dynamic):
    compiled = torch.compile(
        modulated_deform_conv2d, backend='aot_eager', fullgraph=True, dynamic=dynamic
    )
    for batch, height in ((1, 8), (2, 9)):
        tensors, geometry = problem_of(batch, 4, 6, (height, 9))
        if not mask:
            tensors[2] = None
        ours = run(compiled, tensors, geometry)
        assert_same(ours, run(modulated_deform_conv2d, tensors, geometry))


@traces
def test_meta_kernels_agree_with_the_cpu_kernels():
    tensors, geometry = problem_of(2, 12, 8, (9, 7), groups=2, deform_groups=3)
    names = 'modulated_deform_conv2d', 'modulated_deform_conv2d_backward'
    forward, backward = (getattr(torch.ops.mxd, name).default for name in names)
    grad = torch.randn(2, 8, 9, 7)
    for mask in (tensors[2], None):
        now = [tensors[0], tensors[1], mask, tensors[3]]
        torch.library.opcheck(
            forward, (*now, tensors[4], *geometry), test_utils=('test_schema', 'test_faketensor')
        )
        for flags in itertools.product((True, False), repeat=2):
            torch.library.opcheck(
                backward,
                (grad, *now, *geometry, *flags),
                test_utils=('test_schema', 'test_faketensor'),
            )


def test_every_operator_has_a_cpu_kernel_and_a_form_for_other_devices():
    for name, devices in backends().items():
        if 'deform' in name:
            assert devices == {'cpu': 'kernel', 'npu': 'plain PyTorch', 'cuda': 'plain PyTorch'}


def test_example_of_modulated_deform_conv2d():
    n, channels, height, width, kernel = 2, 64, 20, 40, 3
    x = torch.randn(n, channels, height, width)
    offset = torch.randn(n, 2 * kernel * kernel, height // 2, width // 2)
    mask = torch.rand(n, kernel * kernel, height // 2, width // 2)
    weight = torch.randn(64, channels, kernel, kernel)
    bias, stride, padding, dilation, groups, deformable_groups = None, 2, 1, 1, 1, 1
    arguments = x, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups
    output = mxd_mmplugin.modulated_deform_conv2d(*arguments)
    assert torch.equal(output, ModulatedDeformConv2dFunction.apply(*arguments))
    assert_same([output], [mmcv.ops.modulated_deform_conv2d(*arguments)])


def test_example_of_deform_conv2d():
    n, channels, height, width, kernel = 2, 64, 20, 40, 3
    x = torch.randn(n, channels, height, width, requires_grad=True)
    offset = torch.randn(n, 2 * kernel * kernel, height // 2, width // 2, requires_grad=True)
    weight = torch.randn(64, channels, kernel, kernel, requires_grad=True)
    stride, padding, dilation, groups, deformable_groups = 2, 1, 1, 1, 1
    arguments = x, offset, weight, stride, padding, dilation, groups, deformable_groups
    output = mxd_mmplugin.deform_conv2d(*arguments)
    assert torch.equal(output, DeformConv2dFunction.apply(*arguments))
    assert_same([output], [mmcv.ops.deform_conv2d(*arguments)])
    output.backward(torch.ones_like(output))
    assert x.grad is not None and offset.grad is not None and weight.grad is not None


def test_defaults():
    x, offset = torch.randn(1, 4, 5, 6), torch.randn(1, 8, 4, 5)
    mask, weight = torch.rand(1, 4, 4, 5), torch.randn(3, 4, 2, 2)
    geometry = 1, 0, 1, 1, 1
    assert torch.equal(
        modulated_deform_conv2d(x, offset, mask, weight),
        modulated_deform_conv2d(x, offset, mask, weight, None, *geometry),
    )
    assert torch.equal(
        DeformConv2dFunction.apply(x, offset, weight),
        deform_conv2d(x, offset, weight, *geometry, False, 32),
    )


def bad(name, value, error, message):
    return pytest.param(name, value, error, message, id=f'{name}: {message}')


META = torch.ops.mxd.modulated_deform_conv2d  # given tensors on the meta device


@pytest.mark.parametrize(
    'form', [modulated_deform_conv2d, fallback.modulated_deform_conv.forward, META]
)
@pytest.mark.parametrize(
    'name, value, error, message',
    [
        bad('input', torch.randn(2, 8, 9), ValueError, r'input must have shape \[N, channels'),
        bad('input', torch.randn(2, 6, 9, 7), ValueError, 'input must have 8 channels'),
        bad('input', torch.zeros(2, 8, 9, 7).long(), TypeError, 'input must be float32'),
        bad('input', torch.randn(2, 8, 0, 7), ValueError, 'input of 0 rows is too small'),
        bad(
            'offset', torch.randn(2, 36, 4, 4), ValueError, r'offset must have shape \[2, 36, 5, 4'
        ),
        bad('offset', torch.randn(2, 18, 5, 4), ValueError, 'offset must have shape'),
        bad('offset', torch.randn(1, 36, 5, 4), ValueError, 'offset must have shape'),
        bad(
            'offset', torch.randn(2, 36, 5, 4).double(), TypeError, 'offset must have the dtype of'
        ),
        bad('mask', torch.randn(2, 36, 5, 4), ValueError, r'mask must have shape \[2, 18, 5, 4\]'),
        bad(
            'mask', torch.randn(2, 18, 5, 4).half(), TypeError, 'mask must have the dtype of input'
        ),
        bad('weight', torch.randn(6, 4, 9), ValueError, 'weight must have shape'),
        bad('weight', torch.randn(6, 4, 0, 3), ValueError, 'none of them 0'),
        bad('weight', torch.randn(6, 3, 3, 3), ValueError, 'input must have 6 channels'),
        bad('weight', torch.randn(6, 4, 3, 3).double(), TypeError, 'weight must have the dtype of'),
        bad('bias', torch.randn(5), ValueError, r'bias must have shape \[6\]'),
        bad('bias', torch.randn(6).double(), TypeError, 'bias must have the dtype of input'),
        bad('stride', (0, 1), ValueError, 'stride must be one or two numbers of at least 1'),
        bad('stride', (1, 1, 1), ValueError, 'stride must be one or two numbers'),
        bad('padding', (1, -1), ValueError, 'padding must be one or two numbers of at least 0'),
        bad('dilation', (1, 0), ValueError, 'dilation must be one or two numbers of at least 1'),
        bad(
            'dilation',
            (1, 9),
            ValueError,
            'input of 7 columns is too small for a kernel that spans',
        ),
        bad('groups', 0, ValueError, 'groups must be at least 1'),
        bad('groups', 4, ValueError, 'groups must be at least 1 and divide the out_channels'),
        bad('deform_groups', 0, ValueError, 'deform_groups must be at least 1'),
        bad('deform_groups', 3, ValueError, 'divide the channels of input, 8, was 3'),
    ],
)
def test_bad_input(form, name, value, error, message):
    tensors, geometry = problem_of(2, 8, 6, (9, 7), stride=2, deform_groups=2, groups=2)
    names = *NAMES, 'stride', 'padding', 'dilation', 'groups', 'deform_groups'
    arguments = dict(zip(names, [*tensors, *geometry]), **{name: value})
    if form is META:
        arguments.update({key: arguments[key].to('meta') for key in NAMES})
    with pytest.raises(error, match=message):
        form(*arguments.values())


@pytest.mark.parametrize(
    'function',
    [torch.ops.mxd.modulated_deform_conv2d_backward, fallback.modulated_deform_conv.backward],
)
@pytest.mark.parametrize(
    'grad, error, message',
    [
        (torch.randn(2, 6, 9, 8), ValueError, r'grad must have shape \[2, 6, 9, 7\]'),
        (torch.randn(2, 6, 9, 7).double(), TypeError, 'grad must have the dtype of input'),
    ],
)
def test_bad_gradient(function, grad, error, message):
    tensors, geometry = problem_of(2, 8, 6, (9, 7))
    with pytest.raises(error, match=message):
        function(grad, *tensors[:4], *geometry, True, True)


@pytest.mark.parametrize('bias', [True, torch.randn(6), None])
def test_v1_has_no_bias(bias):
    (input, offset, _, weight, _), geometry = problem_of(2, 8, 6, (9, 7))
    with pytest.raises(ValueError, match='bias must be False'):
        deform_conv2d(input, offset, weight, *geometry, bias)
