"""The sparse convolution operator against dense convolution, float64 gradcheck and its pure-PyTorch form."""

import itertools

import pytest
import torch
from hypothesis import given, settings

from mxd_mmplugin.ops import backends, build_rulebook, fallback, sparse_conv
from tests.ops import sparse_reference as reference
from tests.ops.sparse_problems import SETTINGS, gradients, line, problems, with_grad


def dense_form(indices, geometry, features, weight, bias, groups, out_indices):
    """The same convolution densely, read at the output voxels."""
    dense = reference.scatter(features, indices, geometry['batch_size'], geometry['spatial_shape'])
    out = reference.convolve(dense, weight, bias, groups, **geometry)
    return reference.gather(out, out_indices)


@SETTINGS
@given(problems())
def test_equals_dense_convolution(problem):
    indices, geometry, *tensors, groups = problem
    rulebook = build_rulebook(indices, **geometry)
    if geometry['subm']:
        assert rulebook.out_indices is indices
    else:
        expected = reference.reached(indices, **geometry)
        torch.testing.assert_close(rulebook.out_indices, expected)
    ours, theirs = with_grad(*tensors), with_grad(*tensors)
    out = sparse_conv(*ours, rulebook, groups)
    expected = dense_form(indices, geometry, *theirs, groups, rulebook.out_indices)
    torch.testing.assert_close(out, expected)
    if out.numel():
        for got, want in zip(gradients(out, *ours), gradients(expected, *theirs)):
            torch.testing.assert_close(got, want)


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    indices, geometry, features, weight, bias, groups = problem
    rulebook = build_rulebook(indices, **geometry)
    out_indices, pairs, bounds = fallback.sparse_conv.rulebook(indices, **geometry)
    torch.testing.assert_close(out_indices, rulebook.out_indices)
    flat = weight.flatten(0, -3)
    out = fallback.sparse_conv.forward(
        features, flat, bias, pairs, bounds, len(out_indices), groups
    )
    torch.testing.assert_close(out, sparse_conv(features, weight, bias, rulebook, groups))
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        fallback.sparse_conv.weight_grad(features, grad, pairs, bounds, groups),
        torch.ops.mxd.sparse_conv_weight_grad(
            features, grad, rulebook.pairs, rulebook.bounds, groups
        ),
    )
    theirs = fallback.sparse_conv.rulebook_transpose(pairs, bounds, len(indices))
    ours = rulebook.transpose
    back = torch.randn(len(flat), grad.shape[1] // groups, features.shape[1], dtype=grad.dtype)
    torch.testing.assert_close(
        fallback.sparse_conv.forward(grad, back, None, *theirs, len(indices), groups),
        torch.ops.mxd.sparse_conv(grad, back, None, *ours, len(indices), groups),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(max_channels=4))
def test_gradcheck(problem):
    indices, geometry, *tensors, groups = problem
    keep = slice(0, 12)
    indices, (features, weight, bias) = indices[keep], tensors
    features, weight, bias = with_grad(features[keep], weight, bias)
    rulebook = build_rulebook(indices, **geometry)

    def run(features, weight, bias):
        return sparse_conv(features, weight, bias, rulebook, groups)

    assert torch.autograd.gradcheck(run, (features, weight, bias))


@SETTINGS
@given(problems())
def test_inverse_is_the_input_gradient(problem):
    indices, geometry, features, weight, _, groups = problem
    rulebook = build_rulebook(indices, **geometry)
    volume, inputs, outputs = weight.flatten(0, -3).shape
    back = weight.reshape(volume, inputs, groups, outputs // groups).permute(0, 3, 2, 1)
    back = back.reshape(*geometry['kernel_size'], outputs // groups, groups * inputs)
    (leaf,) = with_grad(features)
    out = sparse_conv(leaf, weight, None, rulebook, groups)
    (grad,) = with_grad(torch.randn_like(out))
    restored = sparse_conv(grad, back, None, rulebook.inverse, groups)
    assert torch.equal(rulebook.inverse.out_indices, indices)
    if out.numel():
        torch.testing.assert_close(restored, torch.autograd.grad(out, leaf, grad.detach())[0])
        (there,) = torch.autograd.grad(restored, grad, features)
        torch.testing.assert_close(there, sparse_conv(features, weight, None, rulebook, groups))


@pytest.mark.parametrize(('inputs', 'outputs'), [(0, 6), (4, 0), (0, 0)])
def test_no_channels(inputs, outputs):
    indices, shape = line(5)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1])
    tensors = with_grad(torch.ones(5, inputs), torch.ones(3, inputs, outputs), torch.ones(outputs))
    out = sparse_conv(*tensors, rulebook, 1)
    assert torch.equal(out, torch.ones(len(rulebook.out_indices), outputs))
    grads = torch.autograd.grad(out.sum(), tensors)
    assert all(g.shape == t.shape for g, t in zip(grads, tensors))


def test_four_dimensions():
    shape, kernel = [4, 5, 3, 6], [2, 3, 1, 3]
    indices = torch.unique(torch.stack([torch.randint(0, s, (60,)) for s in [2, *shape]], 1), dim=0)
    features, weight = torch.randn(len(indices), 3), torch.randn(*kernel, 3, 5)
    rulebook = build_rulebook(
        indices.int(), 2, shape, kernel, [2, 1, 1, 2], [1, 1, 0, 1], [1, 1, 1, 2], False
    )
    out = sparse_conv(features, weight, None, rulebook)
    cells = {tuple(row): n for n, row in enumerate(indices.tolist())}
    for row, value in zip(rulebook.out_indices.tolist(), out):
        expected = torch.zeros(5)
        for offset in itertools.product(*map(range, kernel)):
            at = zip(row[1:], offset, [2, 1, 1, 2], [1, 1, 0, 1], [1, 1, 1, 2])
            cell = (row[0], *(o * s - p + k * d for o, k, s, p, d in at))
            if cell in cells:
                expected += features[cells[cell]] @ weight[offset]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_sums_in_float32(dtype, tolerance):
    indices, shape = line(700)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    tensors = torch.randn(700, 48), torch.randn(3, 48, 20) / 12, torch.randn(20)
    half = with_grad(*(t.to(dtype) for t in tensors))
    full = with_grad(*(t.to(dtype).float() for t in tensors))
    out, expected = sparse_conv(*half, rulebook), sparse_conv(*full, rulebook)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.randn_like(out)
    ours, theirs = (
        torch.autograd.grad(out, half, grad),
        torch.autograd.grad(expected, full, grad.float()),
    )
    for got, want in zip(ours, theirs):
        assert got.dtype == dtype
        scale = want.abs().max()
        torch.testing.assert_close(
            got.float() / scale, want / scale, rtol=tolerance, atol=tolerance
        )


@SETTINGS
@given(problems())
def test_bfloat16_of_any_shape(problem):
    indices, geometry, *tensors, groups = problem
    rulebook = build_rulebook(indices, **geometry)
    ours = with_grad(*(t.detach().bfloat16() for t in tensors if t is not None))
    full = with_grad(*(t.detach().double() for t in ours))
    out, expected = (
        sparse_conv(*leaves, *[None] * (3 - len(leaves)), rulebook, groups)
        for leaves in (ours, full)
    )
    pairs = [(out, expected)]
    if out.numel():
        grad = torch.randn_like(out)
        pairs += zip(
            torch.autograd.grad(out, ours, grad),
            torch.autograd.grad(expected, full, grad.double()),
        )
    for got, want in pairs:
        assert got.dtype == torch.bfloat16
        near = 1e-2 * float(want.detach().abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(got.double(), want, rtol=1e-2, atol=near)


def test_autocast_as_for_a_convolution():
    indices, shape = line(5)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    features, weight = with_grad(torch.randn(5, 4), torch.randn(3, 4, 2))
    with torch.autocast('cpu', torch.bfloat16):
        out = sparse_conv(features, weight, None, rulebook)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert features.grad.dtype == weight.grad.dtype == torch.float32


def test_memory_does_not_grow_with_the_grid():
    shape = [1000, 1000, 1000]
    indices = torch.unique(torch.randint(0, 1000, (60_000, 3)), dim=0)
    indices = torch.cat([torch.zeros(len(indices), 1, dtype=torch.long), indices], 1).int()
    for subm in (True, False):
        rulebook = build_rulebook(indices, 1, shape, [3] * 3, [2] * 3, [1] * 3, [1] * 3, subm)
        assert len(rulebook.pairs) < 8 * len(indices)


def test_bit_identical_whatever_the_number_of_threads():
    indices = torch.unique(torch.randint(0, 40, (30_000, 3)), dim=0)
    indices = torch.cat([torch.zeros(len(indices), 1, dtype=torch.long), indices], 1).int()
    indices = indices[torch.randperm(len(indices))]
    features, weight = torch.randn(len(indices), 24), torch.randn(3, 3, 3, 24, 40)

    def run():
        results = []
        for subm in (True, False):
            rulebook = build_rulebook(
                indices, 1, [40] * 3, [3] * 3, [2] * 3, [1] * 3, [1] * 3, subm
            )
            leaves = with_grad(features, weight)
            out = sparse_conv(*leaves, None, rulebook)
            results += [rulebook.out_indices, rulebook.pairs, rulebook.bounds, out]
            results += gradients(out, *leaves)
        return results

    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, threads, 1, 5):
            torch.set_num_threads(count)
            runs.append(run())
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def check_widths():
    """For test_vector_widths.py."""
    indices = torch.stack([torch.zeros(900), torch.arange(900)], 1).int()
    book = build_rulebook(indices, 1, [900], [3], [1], [1], [1], True)
    parts = book.pairs, book.bounds
    form = fallback.sparse_conv
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for inputs, outputs in ((1, 1), (7, 33), (32, 96)):
            x = torch.randn(900, inputs, dtype=dtype)
            weight = torch.randn(3, inputs, outputs, dtype=dtype)
            out = sparse_conv(x, weight, None, book)
            back = torch.ops.mxd.sparse_conv_weight_grad(x, out, *parts, 1)
            wide = x.double(), weight.double(), out.double()
            for got, want in (
                (out, form.forward(*wide[:2], None, *parts, 900, 1)),
                (back, form.weight_grad(wide[0], wide[2], *parts, 1)),
            ):
                near = 1e-2 if dtype == torch.bfloat16 else 1e-5
                scale = float(want.abs().max())
                torch.testing.assert_close(got.double(), want, rtol=near, atol=near * scale)


def test_non_contiguous_inputs():
    indices, shape = line(600)
    rulebook = build_rulebook(indices.t().contiguous().t(), 1, shape, [3], [2], [1], [1], False)
    features, weight = torch.randn(20, 600).t(), torch.randn(3, 36, 20).transpose(1, 2)
    torch.testing.assert_close(
        sparse_conv(features, weight, None, rulebook),
        sparse_conv(features.contiguous(), weight.contiguous(), None, rulebook),
    )


def test_traces_with_fake_tensors_and_compiles():
    indices, shape = line(50)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)

    @torch.compile(backend='aot_eager', fullgraph=True)
    def run(features, weight, pairs, bounds):
        return torch.ops.mxd.sparse_conv(features, weight, None, pairs, bounds, 50, 1).relu()

    features, weight = torch.randn(50, 3), torch.randn(3, 3, 7)
    torch.testing.assert_close(
        run(features, weight, rulebook.pairs, rulebook.bounds),
        sparse_conv(features, weight, None, rulebook).relu(),
    )


def test_every_operator_has_a_cpu_kernel_and_a_form_for_other_devices():
    for devices in backends().values():
        assert devices['cpu'] == 'kernel'
        assert set(devices.values()) <= {'kernel', 'Ascend kernel', 'plain PyTorch'}


GOOD = dict(
    batch_size=2,
    spatial_shape=[4, 5],
    kernel_size=[3, 3],
    stride=[1, 1],
    padding=[1, 1],
    dilation=[1, 1],
    subm=False,
)
ROWS = [[0, 1, 2], [1, 3, 4]]


@pytest.mark.parametrize(
    'rows, change, error, message',
    [
        (
            [[0, 1, 2], [0, 4, 0]],
            {},
            ValueError,
            r'indices\[1\] is \[0, 4, 0\].*outside of spatial_shape',
        ),
        ([[0, 1, -1]], {}, ValueError, r'indices\[0\].*outside of spatial_shape \[4, 5\]'),
        ([[2, 1, 1]], {}, ValueError, r'indices\[0\] has the batch index 2; allowed are 0 to 1'),
        ([[-1, 1, 1]], {}, ValueError, r'batch index -1'),
        ([[0, 1, 2], [1, 0, 0], [0, 1, 2]], {}, ValueError, r'rows 0 and 2 are both \[0, 1, 2\]'),
        ([[0, 1]], {}, ValueError, r'indices must have shape \[voxels, 3\]'),
        (ROWS, dict(kernel_size=[0, 3]), ValueError, 'kernel_size must be at least 1'),
        (ROWS, dict(kernel_size=[3]), ValueError, 'kernel_size must have 2 numbers'),
        (ROWS, dict(stride=[0, 1]), ValueError, 'stride must be at least 1'),
        (ROWS, dict(padding=[-1, 0]), ValueError, 'padding must be at least 0'),
        (ROWS, dict(dilation=[1, 0]), ValueError, 'dilation must be at least 1'),
        (ROWS, dict(spatial_shape=[0, 5]), ValueError, 'spatial_shape must be at least 1'),
        (ROWS, dict(spatial_shape=[]), ValueError, 'spatial_shape must have 1 to 4 numbers'),
        (ROWS, dict(batch_size=-1), ValueError, 'batch_size must be at least 0, was -1'),
        (ROWS, dict(kernel_size=[9, 9]), ValueError, 'must leave an output of spatial_shape'),
        (ROWS, dict(output_padding=[0, -1]), ValueError, 'output_padding must be at least 0'),
        (ROWS, dict(subm=True, transposed=True), ValueError, 'transposed must be false'),
        (ROWS, dict(spatial_shape=[2**31 - 1] * 2), ValueError, r'below 2\*\*63'),
    ],
)
def test_bad_rulebook_input(rows, change, error, message):
    with pytest.raises(error, match=message):
        build_rulebook(torch.tensor(rows, dtype=torch.int32), **{**GOOD, **change})


@pytest.mark.parametrize('dtype', [torch.int64, torch.float32, torch.int16])
def test_bad_indices_dtype(dtype):
    with pytest.raises(TypeError, match='indices must be int32, was'):
        build_rulebook(torch.tensor(ROWS).to(dtype), **GOOD)


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(features=torch.randn(2, 5)), ValueError, 'features must have 4 channels'),
        (
            dict(features=torch.randn(3, 4)),
            ValueError,
            'features must have a row for each of the 2',
        ),
        (dict(features=torch.randn(2, 4).long()), TypeError, 'features must be float32'),
        (
            dict(features=torch.randn(2, 4).double()),
            TypeError,
            'weight must have the dtype of features',
        ),
        (dict(weight=torch.randn(3, 1, 4, 6)), ValueError, 'weight must have the kernel_size'),
        (dict(bias=torch.randn(5)), ValueError, r'bias must have shape \[6\]'),
        (dict(bias=torch.randn(6).double()), TypeError, 'bias must have the dtype of features'),
        (dict(groups=0), ValueError, 'groups must be at least 1'),
        (
            dict(groups=4, weight=torch.randn(3, 3, 1, 6)),
            ValueError,
            'groups must divide out_channels',
        ),
    ],
)
def test_bad_convolution_input(change, error, message):
    rulebook = build_rulebook(torch.tensor(ROWS, dtype=torch.int32), **GOOD)
    good = dict(
        features=torch.randn(2, 4), weight=torch.randn(3, 3, 4, 6), bias=None, rulebook=rulebook
    )
    with pytest.raises(error, match=message):
        sparse_conv(**{**good, **change})


def test_rulebook_that_leaves_the_tensors_is_refused():
    features, weight = torch.randn(2, 4), torch.randn(1, 4, 6)
    for pair in ([2, 0], [-1, 0], [0, 2]):
        pairs, bounds = torch.tensor([pair], dtype=torch.int32), torch.tensor([[0, 1]])
        with pytest.raises(ValueError, match='pairs must name'):
            torch.ops.mxd.sparse_conv(features, weight, None, pairs, bounds, 2, 1)
    with pytest.raises(ValueError, match='bounds must ascend'):
        torch.ops.mxd.sparse_conv(features, weight, None, pairs, torch.tensor([[0, 9]]), 2, 1)
    with pytest.raises(ValueError, match='bounds must have 1 tiles'):
        torch.ops.mxd.sparse_conv(features, weight, None, pairs, torch.tensor([[0, 1]] * 2), 2, 1)
