"""Sparse max pooling against torch.nn's, its pure-PyTorch form, and its layers."""

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from mxd_mmplugin import (
    SparseConvTensor,
    SparseInverseConv3d,
    SparseMaxPool1d,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseMaxPool4d,
)
from mxd_mmplugin.ops import build_rulebook, fallback, sparse_max_pool
from tests.ops.sparse_problems import SETTINGS, coordinates, gradients, line, problems, with_grad

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def dense_form(features, indices, out_indices, *, batch_size, spatial_shape, **geometry):
    """torch.nn's max pooling of a grid whose empty cells are below every number, read at the output voxels."""
    ndim = len(spatial_shape)
    grid = features.new_full((batch_size, *spatial_shape, features.shape[1]), -torch.inf)
    grid = grid.index_put(tuple(indices.long().t()), features).movedim(-1, 1)
    kernel, stride, dilation = (geometry[name] for name in ('kernel_size', 'stride', 'dilation'))
    pads = [(p, p) for p in geometry['padding']]
    if geometry['subm']:
        stride = [1] * ndim
        pads = [(k // 2 * d, (k - 1 - k // 2) * d) for k, d in zip(kernel, dilation)]
    grid = F.pad(grid, [n for pad in reversed(pads) for n in pad], value=-torch.inf)
    out = POOLS[ndim](grid, kernel, stride, 0, dilation)
    return out.movedim(1, -1)[tuple(out_indices.long().t())]


@SETTINGS
@given(problems())
def test_equals_dense_pooling(problem):
    indices, geometry, features, *_ = problem
    if geometry['transposed']:
        geometry = dict(geometry, transposed=False, subm=True, output_padding=geometry['padding'])
    features = features.round()  # many equal numbers, so that the first one matters
    rulebook = build_rulebook(indices, **geometry)
    (ours,), (theirs,) = with_grad(features), with_grad(features)
    out = sparse_max_pool(ours, rulebook)
    expected = dense_form(theirs, indices, rulebook.out_indices, **geometry)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    if out.numel():
        torch.testing.assert_close(gradients(out, ours), gradients(expected, theirs))


@SETTINGS
@given(problems())
def test_equals_pure_pytorch_form(problem):
    indices, geometry, features, *_ = problem
    rulebook = build_rulebook(indices, **geometry).inverse  # some outputs may meet no voxel
    features = features.new_ones(len(rulebook.indices), 3).cumsum(0).remainder(7)
    args = features, rulebook.pairs, rulebook.bounds, len(rulebook.out_indices)
    ours, theirs = torch.ops.mxd.sparse_max_pool(*args), fallback.sparse_pool.forward(*args)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    grad = torch.randn_like(ours[0])
    back = *rulebook.transpose, len(features)
    torch.testing.assert_close(
        torch.ops.mxd.sparse_max_pool_backward(grad, ours[1], *back),
        fallback.sparse_pool.backward(grad, theirs[1], *back),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(max_channels=3))
def test_gradcheck(problem):
    indices, geometry, *_ = problem
    rulebook = build_rulebook(indices[:12], **geometry)
    count = len(rulebook.indices)
    features = torch.randperm(3 * count).reshape(count, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparse_max_pool(x, rulebook), features)


def test_negative_windows_equal_numbers_infinities_and_nan():
    indices, shape = line(5)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    features = torch.tensor([[-3.0], [-1.0], [-1.0], [-2.0], [-torch.inf]], requires_grad=True)
    out = sparse_max_pool(features, rulebook)
    assert out.flatten().tolist() == [-1, -1, -1, -1, -2]
    out.sum().backward()
    assert features.grad.flatten().tolist() == [0, 3, 1, 1, 0]
    lowest = sparse_max_pool(torch.full((5, 1), -torch.inf), rulebook)
    assert lowest.flatten().tolist() == [-torch.inf] * 5
    with_nan = sparse_max_pool(torch.tensor([[1.0], [2], [3], [torch.nan], [5]]), rulebook)
    assert with_nan.isnan().flatten().tolist() == [False, False, True, True, True]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_non_contiguous_inputs(dtype):
    indices, shape = line(700)
    rulebook = build_rulebook(indices, 1, shape, [3], [2], [1], [1], False)
    features = torch.randn(19, 700).to(dtype).t().requires_grad_()
    same = features.detach().double().contiguous().requires_grad_()
    out, expected = sparse_max_pool(features, rulebook), sparse_max_pool(same, rulebook)
    assert out.dtype == dtype and torch.equal(out.double(), expected)
    out.sum().backward()
    expected.sum().backward()
    assert features.grad.dtype == dtype and torch.equal(features.grad.double(), same.grad)


def test_bit_identical_whatever_the_number_of_threads():
    indices, shape = line(40_000, 50_000)
    features = torch.randn(40_000, 40)

    def run():
        rulebook = build_rulebook(indices, 1, shape, [5], [2], [1], [1], False)
        (leaf,) = with_grad(features)
        out = sparse_max_pool(leaf, rulebook)
        return out, *gradients(out, leaf)

    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
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
    for dtype in (torch.float32, torch.float64):
        for channels in (1, 7, 33):
            x = torch.randn(900, channels, dtype=dtype)
            out, _ = fallback.sparse_pool.forward(x, book.pairs, book.bounds, 900)
            assert torch.equal(sparse_max_pool(x, book), out)


@pytest.mark.parametrize('backend', ['kernel', 'pure PyTorch'])
@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(features=torch.randn(6)), ValueError, r'features must .*\[voxels, channels\], was'),
        (dict(features=torch.ones(6, 2).long()), TypeError, 'features must be .*float'),
    ],
)
def test_bad_features_on_every_backend(backend, change, error, message):
    indices, shape = line(6)
    book = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    good = dict(features=torch.randn(6, 2), pairs=book.pairs, bounds=book.bounds, num_out=6)
    run = {
        'kernel': torch.ops.mxd.sparse_max_pool,
        'pure PyTorch': fallback.sparse_pool.forward,
    }[backend]
    with pytest.raises(error, match=message):
        run(*{**good, **change}.values())


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(pairs=torch.zeros(3, dtype=torch.int32)), ValueError, r'pairs must have shape'),
        (dict(pairs=torch.zeros(1, 2)), TypeError, 'pairs must be int32'),
        (dict(bounds=torch.zeros(3)), ValueError, 'bounds must have shape'),
        (dict(bounds=torch.zeros(1, 4)), TypeError, 'bounds must be int64'),
        (dict(num_out=-1), ValueError, 'num_out must be at least 0, was -1'),
        (dict(num_out=2), ValueError, 'pairs must name input rows below 6 and output rows below 2'),
        (dict(features=torch.randn(2, 2)), ValueError, 'pairs must name input rows below 2'),
    ],
)
def test_bad_rulebook(change, error, message):
    indices, shape = line(6)
    book = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    good = dict(features=torch.randn(6, 2), pairs=book.pairs, bounds=book.bounds, num_out=6)
    with pytest.raises(error, match=message):
        torch.ops.mxd.sparse_max_pool(*{**good, **change}.values())


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(grad=torch.randn(3)), ValueError, r'grad must have shape'),
        (dict(grad=torch.ones(3, 2).int()), TypeError, 'grad must be float32'),
        (dict(argmax=torch.zeros(2, 2).int()), ValueError, r'argmax must have the shape of grad'),
        (dict(argmax=torch.zeros(3, 2).long()), TypeError, 'argmax must be int32'),
        (
            dict(pairs=torch.tensor([[3, 0]]).int()),
            ValueError,
            'pairs must name input rows below 3',
        ),
        (dict(bounds=torch.zeros(1, 3).int()), TypeError, 'bounds must be int64'),
        (dict(num_in=-1), ValueError, 'num_in must be at least 0'),
    ],
)
def test_bad_backward_input(change, error, message):
    good = dict(
        grad=torch.randn(3, 2),
        argmax=torch.zeros(3, 2).int(),
        pairs=torch.tensor([[0, 0]]).int(),
        bounds=torch.tensor([[0, 1]]),
        num_in=4,
    )
    with pytest.raises(error, match=message):
        torch.ops.mxd.sparse_max_pool_backward(*{**good, **change}.values())


def test_features_of_another_rulebook():
    indices, shape = line(6)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    with pytest.raises(ValueError, match='features must have a row for each of the 6 voxels'):
        sparse_max_pool(torch.randn(5, 2), rulebook)


def tensor(ndim=3, channels=4, count=30, size=6, cls=SparseConvTensor):
    cells = torch.randperm(2 * size**ndim)[:count]
    indices = coordinates(cells, [2] + [size] * ndim)
    return cls(torch.randn(len(indices), channels), indices, [size] * ndim, 2)


@pytest.mark.parametrize(
    'layer', [SparseMaxPool1d, SparseMaxPool2d, SparseMaxPool3d, SparseMaxPool4d]
)
def test_layers(layer):
    ndim = layer.ndim
    x = tensor(ndim, count=8, size=4)
    out = layer(2, 2)(x)
    assert type(out) is SparseConvTensor and out.spatial_shape == [2] * ndim
    for row, value in zip(out.indices, out.features):
        inside = (x.indices[:, 0] == row[0]) & (x.indices[:, 1:] // 2 == row[1:]).all(1)
        assert torch.equal(value, x.features[inside].amax(0))


def test_layer_answers_in_kind_shares_its_rulebook_and_can_be_inverted():
    x = tensor(cls=mmcv.ops.SparseConvTensor)
    layer = SparseMaxPool3d(3, 2, 1, indice_key='pool')
    out = mmcv.ops.SparseSequential(layer, torch.nn.ReLU())(x)
    assert type(out) is SparseConvTensor and isinstance(out, mmcv.ops.SparseConvTensor)
    assert list(x.indice_dict) == ['pool']
    again = layer(x)
    assert again.indices is out.indices
    back = SparseInverseConv3d(4, 5, 3, 'pool')(out)
    assert torch.equal(back.indices, x.indices)
    with pytest.raises(ValueError, match=r"indice_key 'pool' was made with stride .* is reused"):
        SparseMaxPool3d(3, 1, 1, indice_key='pool')(x)


def test_submanifold_layer_and_the_stride_of_none():
    x = tensor()
    assert SparseMaxPool3d(3, subm=True)(x).indices is x.indices
    assert SparseMaxPool3d((2, 1, 3), None).stride == (2, 1, 3)
    assert SparseMaxPool3d(2).stride == (1, 1, 1)
    assert 'kernel_size=(2, 2, 2)' in repr(SparseMaxPool3d(2))


def test_empty_tensor():
    x = tensor(count=0)
    x.features.requires_grad_()
    out = SparseMaxPool3d(2, 2)(x)
    assert out.features.shape == (0, 4)
    out.features.sum().backward()


@pytest.mark.parametrize(
    'arguments, error, message',
    [
        (dict(kernel_size=0), ValueError, 'kernel_size must be an integer of at least 1'),
        (dict(stride=(1, 1)), ValueError, 'stride must be .* 3 of them'),
        (dict(padding=-1), ValueError, 'padding must be an integer of at least 0'),
        (dict(dilation=0), ValueError, 'dilation must be an integer of at least 1'),
        (dict(ceil_mode=True), TypeError, "unexpected keyword argument 'ceil_mode'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SparseMaxPool3d(**{**dict(kernel_size=2), **arguments})


def test_bad_input():
    x = tensor()
    with pytest.raises(ValueError, match='must leave an output of spatial_shape'):
        SparseMaxPool3d(7)(x)
    x.indices[3, 1] = 9
    with pytest.raises(ValueError, match=r'indices\[3\] is .* outside of spatial_shape'):
        SparseMaxPool3d(2)(x)
