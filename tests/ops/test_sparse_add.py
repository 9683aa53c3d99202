"""Sums of sparse tensors with different voxels."""

import mmcv.ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin import (
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SubMConv3d,
    sparse_add,
)
from mxd_mmplugin.ops import fallback, sparse_sum, sparse_to_dense, sparse_union
from tests.ops.sparse_problems import coordinates


@st.composite
def sums(draw, max_channels=20):
    """Voxels and features of one to four tensors of one grid, some of them empty."""
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    batch_size, channels = draw(st.integers(1, 3)), draw(st.integers(1, max_channels))
    cells = batch_size * int(torch.tensor(shape).prod())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    indices, features = [], []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, min(cells, 60)))
        chosen = torch.randperm(cells, generator=generator)[:count]
        indices.append(coordinates(chosen, [batch_size, *shape]))
        features.append(torch.randn(count, channels, dtype=torch.float64, generator=generator))
    return indices, features, batch_size, shape


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sums())
def test_equals_the_sum_of_the_grids(problem):
    indices, features, batch_size, shape = problem
    ours = [x.clone().requires_grad_() for x in features]
    theirs = [x.clone().requires_grad_() for x in features]
    out = sparse_add(*(SparseConvTensor(x, i, shape, batch_size) for x, i in zip(ours, indices)))
    expected = sum(sparse_to_dense(x, i, batch_size, shape) for x, i in zip(theirs, indices))
    torch.testing.assert_close(out.dense(), expected)
    assert len(out.indices) == len(torch.unique(torch.cat(indices), dim=0))
    weight = torch.randn_like(expected)
    got = torch.autograd.grad((out.dense() * weight).sum(), ours)
    torch.testing.assert_close(got, torch.autograd.grad((expected * weight).sum(), theirs))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sums())
def test_equals_pure_pytorch_form(problem):
    indices, features, batch_size, shape = problem
    union, rows = sparse_union(indices, batch_size, shape)
    torch.testing.assert_close((union, rows), fallback.sparse_add.union(indices, batch_size, shape))
    assert torch.equal(union, torch.unique(torch.cat(indices), dim=0))
    for dtype in (torch.float64, torch.float16):
        parts = [x.to(dtype) for x in features]
        torch.testing.assert_close(
            sparse_sum(parts, rows, len(union)),
            fallback.sparse_add.sum_(parts, rows, len(union)),
            rtol=0,
            atol=0,
        )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sums(max_channels=2))
def test_gradcheck(problem):
    indices, features, batch_size, shape = problem
    indices, features = [i[:8] for i in indices], [x[:8].requires_grad_() for x in features]
    union, rows = sparse_union(indices, batch_size, shape)

    def run(*features):
        return sparse_sum(features, rows, len(union))

    assert torch.autograd.gradcheck(run, features) and torch.autograd.gradgradcheck(run, features)


def tensor(cells, cls=SparseConvTensor, shape=(4, 5, 6), dtype=torch.float32, channels=3):
    indices = coordinates(torch.tensor(cells), [2, *shape])
    return cls(torch.randn(len(cells), channels).to(dtype), indices, list(shape), 2)


def test_low_precision_is_summed_in_float32_and_inputs_may_be_strided():
    parts = [tensor([7, 3], dtype=torch.bfloat16) for _ in range(3)]
    features = [x.features.t().contiguous().t() for x in parts]
    union, rows = sparse_union([x.indices for x in parts], 2, [4, 5, 6])
    expected = sum(x.float() for x in features).bfloat16().flip(0)
    assert torch.equal(sparse_sum(features, rows, len(union)), expected)


def test_the_same_voxels_keep_their_order_and_rulebooks():
    x = tensor([9, 4, 77])
    y = SubMConv3d(3, 3, 3, indice_key='subm')(x)
    out = sparse_add(x, y, x)
    assert out.indices is x.indices and out.indice_dict is x.indice_dict
    assert torch.equal(out.features, x.features + y.features + x.features)


def test_a_tensor_with_all_voxels_keeps_its_order_and_rulebooks():
    x = tensor([9, 4, 77, 100])
    wide = SubMConv3d(3, 3, 3, indice_key='subm')(x)
    out = sparse_add(tensor([77, 9]), wide)
    assert out.indices is wide.indices and out.indice_dict is x.indice_dict
    SubMConv3d(3, 3, 3, indice_key='subm')(out)
    # Kernels of different reach, summed and then led back, as in spconv's guide.
    small = SparseConv3d(3, 4, (1, 3, 3), 2, (0, 1, 1))(x)
    large = SparseConv3d(3, 4, 3, 2, 1, indice_key='down')(x)
    back = SparseInverseConv3d(4, 3, 3, 'down')(sparse_add(small, large))
    assert torch.equal(back.indices, x.indices)


def test_other_voxels_are_sorted_and_have_no_rulebooks():
    x, y = tensor([9, 4, 77]), tensor([5, 4])
    x.indice_dict['a'] = y.indice_dict['a'] = object()
    out = sparse_add(x, y)
    assert out.indice_dict == {} and torch.equal(
        out.indices, torch.unique(torch.cat([x.indices, y.indices]), dim=0)
    )
    assert torch.equal(out.features[0], x.features[1] + y.features[1])


def test_its_answer_is_ours_and_passes_for_the_class_of_the_first():
    theirs = tensor([3, 4], mmcv.ops.SparseConvTensor)
    for out in (sparse_add(theirs, tensor([5])), sparse_add(tensor([5]), theirs)):
        assert type(out) is SparseConvTensor and isinstance(out, mmcv.ops.SparseConvTensor)
    assert sparse_add(tensor([5])).features.shape == (1, 3)


def test_bit_identical_whatever_the_number_of_threads():
    parts = [torch.randperm(90_000)[:30_000].tolist() for _ in range(3)]
    parts = [tensor(part, shape=(50, 30, 30)) for part in parts]
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, 1, 5):
            torch.set_num_threads(count)
            out = sparse_add(*parts)
            runs.append((out.indices, out.features))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


HALVES = torch.float16, torch.bfloat16


@pytest.mark.parametrize('one', [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize('two', [torch.float32, torch.float64, *HALVES])
def test_dtypes_are_promoted_as_by_plus(one, two):
    a, b = tensor([1, 2], dtype=one), tensor([2, 3], dtype=two)
    a.features.requires_grad_(), b.features.requires_grad_()
    out = sparse_add(a, b)
    both = a.features[:1] + b.features[:1]
    assert out.features.dtype == both.dtype == torch.promote_types(one, two)
    torch.testing.assert_close(out.dense(), a.dense() + b.dense())
    out.features.sum().backward()
    assert a.features.grad.dtype == one and b.features.grad.dtype == two
    same = SparseConvTensor(b.features, a.indices, a.spatial_shape, 2)
    assert sparse_add(a, same).features.dtype == both.dtype


def test_branches_under_autocast_go_together():
    x = tensor([1, 2, 40])
    with torch.autocast('cpu', torch.bfloat16):
        half = SubMConv3d(3, 3, 3)(x)
        other = tensor([2, 3])
        assert half.features.dtype == torch.bfloat16
        assert sparse_add(half, other).features.dtype == torch.float32


def test_bad_tensors():
    x = tensor([1, 2])
    with pytest.raises(ValueError, match='sparse_add needs at least one tensor'):
        sparse_add()
    for other, message in (
        (tensor([1], shape=(4, 5, 7)), r'one spatial_shape, was \[4, 5, 6\] in tensor 0'),
        (SparseConvTensor(x.features, x.indices, x.spatial_shape, 3), 'one batch_size, was 2 in'),
        (tensor([1], channels=4), 'one channels, was 3 in tensor 0 and 4 in tensor 1'),
    ):
        with pytest.raises(ValueError, match=message):
            sparse_add(x, other)
    with pytest.raises(ValueError, match=r'rows 0 and 2 of tensor 1 are both \[0, 0, 0, 5\]'):
        sparse_add(x, tensor([5, 6, 5]))
    with pytest.raises(TypeError, match='features must be float32'):
        sparse_add(*(tensor([n], dtype=torch.int32) for n in (1, 2)))


UNIONS = {'kernel': torch.ops.mxd.sparse_union, 'pure PyTorch': fallback.sparse_add.union}


@pytest.mark.parametrize('backend', UNIONS)
@pytest.mark.parametrize(
    'indices, error, message',
    [
        ([[0, 4]], ValueError, r'indices\[0\].*outside of'),
        ([[1, 0]], ValueError, r'indices\[0\].*batch'),
        ([[0, 1], [0, 1]], ValueError, 'indices must name each voxel once'),
        ([[0, 1, 2]], ValueError, r'indices must have shape \[voxels, 2\]'),
        ([[0.0, 1.0]], TypeError, 'indices must be int32, was'),
    ],
)
def test_bad_indices(backend, indices, error, message):
    indices = torch.tensor(indices)
    indices = indices if indices.is_floating_point() else indices.int()
    with pytest.raises(error, match=message):
        UNIONS[backend]([indices], 1, [4])


def test_bad_grid():
    with pytest.raises(ValueError, match='indices must have at least one tensor'):
        sparse_union([], 1, [4])
    one = [torch.zeros(1, 3).int()]
    with pytest.raises(ValueError, match='spatial_shape must have at least 1'):
        sparse_union(one, 1, [4, 0])
    with pytest.raises(ValueError, match='batch_size must be at least 0'):
        sparse_union(one, -1, [4, 4])
    with pytest.raises(ValueError, match=r'below 2\*\*63'):
        sparse_union(one, 2, [2**31, 2**31])


SUMS = {'kernel': torch.ops.mxd.sparse_sum, 'pure PyTorch': fallback.sparse_add.sum_}


@pytest.mark.parametrize('backend', SUMS)
@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(features=[torch.randn(2, 3), torch.randn(1, 4)]), ValueError, 'features must have s'),
        (dict(features=[torch.randn(2, 3), torch.randn(1, 3).half()]), TypeError, 'dtype of the f'),
        (dict(rows=torch.zeros(2).int()), ValueError, r'rows must have shape \[3\]'),
    ],
)
def test_bad_sum(backend, change, error, message):
    good = dict(
        features=[torch.randn(2, 3), torch.randn(1, 3)],
        rows=torch.tensor([0, 1, 0]).int(),
        num_out=2,
    )
    with pytest.raises(error, match=message):
        SUMS[backend](*{**good, **change}.values())


@pytest.mark.parametrize(
    'rows, num_out, error, message',
    [
        (torch.tensor([0, 1, 0]), 2, TypeError, 'rows must be int32'),
        (torch.tensor([0, 2, 0]).int(), 2, ValueError, 'rows must be 0 to num_out - 1'),
        (torch.tensor([-1, 2, 0]).int(), 3, ValueError, 'rows must be 0 to num_out - 1'),
        (torch.tensor([1, 1, 0]).int(), 2, ValueError, 'is there twice in tensor 0'),
        (torch.tensor([0, 1, 0]).int(), -1, ValueError, 'num_out must be at least 0'),
    ],
)
def test_bad_rows(rows, num_out, error, message):
    with pytest.raises(error, match=message):
        sparse_sum([torch.randn(2, 3), torch.randn(1, 3)], rows, num_out)
