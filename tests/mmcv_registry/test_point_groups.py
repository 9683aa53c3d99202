"""Features gathered by lists of points, and their gradients, against PyTorch's own operations."""

import mmcv.ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mxd_mmplugin  # noqa: F401

seeds = st.integers(0, 2**16)


def indices(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, dtype=torch.int32)


def same_with_grads(function, wanted, *inputs):
    """Values and gradients, of any cotangent."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out, expected = function(*leaves), wanted(*leaves)
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
    )


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(0, 5),
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(0, 5),
    seeds,
)
def test_grouping(batches, channels, count, groups, samples, seed):
    torch.manual_seed(seed)
    idx = indices(count, batches, groups, samples)
    rows = idx.long().flatten(1)[:, None].expand(-1, channels, -1)
    features = torch.randn(batches, channels, count, dtype=torch.float64)
    same_with_grads(
        lambda x: mmcv.ops.grouping_operation(x, idx),
        lambda x: x.gather(2, rows).view(batches, channels, groups, samples),
        features,
    )
    if samples:
        first = idx[:, :, 0].contiguous()
        same_with_grads(
            lambda x: mmcv.ops.gather_points(x, first),
            lambda x: x.gather(2, first.long()[:, None].expand(-1, channels, -1)),
            features,
        )


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 5),
    seeds,
)
def test_stacked_grouping(sizes, channels, samples, seed):
    """What is outside of its batch gives zeros, as the other rows of an empty ball."""
    torch.manual_seed(seed)
    counts, group_counts = (torch.tensor(column).int() for column in zip(*sizes))
    idx = torch.cat([indices(int(count) + 2, int(groups), samples) - 1 for count, groups in sizes])

    def wanted(features):
        out, groups = [], idx.split(group_counts.tolist())
        for cloud, rows in zip(features.split(counts.tolist()), groups):
            padded = torch.cat([cloud, cloud.new_zeros(1, channels)])
            place = torch.where((rows >= 0) & (rows < len(cloud)), rows, len(cloud))
            out.append(padded[place.long()].transpose(1, 2))
        return torch.cat(out)

    same_with_grads(
        lambda x: mmcv.ops.grouping_operation(x, idx, counts, group_counts),
        wanted,
        torch.randn(int(counts.sum()), channels, dtype=torch.float64),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), st.integers(1, 30), seeds)
def test_three_interpolate(batches, channels, known, count, seed):
    torch.manual_seed(seed)
    idx, weight = indices(known, batches, count, 3), torch.rand(batches, count, 3).double()
    rows = idx.long().flatten(1)[:, None].expand(-1, channels, -1)
    same_with_grads(
        lambda x: mmcv.ops.three_interpolate(x, idx, weight),
        lambda x: (x.gather(2, rows).unflatten(2, (count, 3)) * weight[:, None]).sum(-1),
        torch.randn(batches, channels, known, dtype=torch.float64),
    )


def assign_score(scores, points, centres, knn_idx):
    """The weighted sum over M of the features of neighbours, less those of the first one."""
    batches = torch.arange(len(points))[:, None, None]
    valid = (knn_idx >= 0) & (knn_idx < points.shape[1])
    rows = knn_idx.where(valid, 0)
    difference = points[batches, rows] - centres[batches, rows[:, :, :1]]
    return ((scores[..., None] * difference).sum(3) * valid[..., None]).permute(0, 3, 1, 2)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5),
    st.integers(1, 20), seeds,
)  # fmt: skip
def test_assign_score_withk(batches, count, centres, neighbours, weights, channels, seed):
    torch.manual_seed(seed)
    idx = torch.randint(-1, count + 1, (batches, centres, neighbours))
    idx[:, :, 0] = torch.randint(count, (batches, centres))
    same_with_grads(
        lambda *args: mmcv.ops.assign_score_withk(*args, idx, 'sum'),
        lambda *args: assign_score(*args, idx),
        torch.randn(batches, centres, neighbours, weights, dtype=torch.float64),
        torch.randn(batches, count, weights, channels, dtype=torch.float64),
        torch.randn(batches, count, weights, channels, dtype=torch.float64),
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_halves_are_summed_in_float32(dtype):
    features = torch.zeros(1, 2, 5, dtype=dtype, requires_grad=True)
    out = mmcv.ops.grouping_operation(features, torch.zeros(1, 64, 64, dtype=torch.int32))
    assert out.dtype == dtype
    grad = torch.full(out.shape, 1 / 3).to(dtype)
    out.backward(grad)
    torch.testing.assert_close(
        features.grad[..., 0].float(), grad.float().sum((2, 3)), rtol=1e-2, atol=0
    )


def test_nondeterministic_voxelization_is_the_deterministic_one():
    geometry = dict(voxel_size=[0.5, 0.5, 1], point_cloud_range=[-3, -4, -2, 3, 4, 2])
    points = torch.randn(400, 5) * 3
    fast, steady = (
        mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, deterministic=wanted, **geometry)
        for wanted in (False, True)
    )
    for found, expected in zip(fast(points), steady(points)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize('reduce_type', ['max', 'mean', 'sum'])
def test_dynamic_scatter(reduce_type):
    """As our own: points outside of the grid count nothing, the first maximum has the gradient."""
    feats = torch.randint(4, (90, 6)).double().requires_grad_()
    coors = torch.randint(3, (90, 3), dtype=torch.int32)
    coors[::7] = -1
    out, voxels = mmcv.ops.dynamic_scatter(feats, coors, reduce_type)
    kept = (coors >= 0).all(1)
    wanted, index = coors[kept].unique(dim=0, return_inverse=True)
    assert torch.equal(voxels, wanted)
    grad = torch.randn_like(out)
    (found,) = torch.autograd.grad(out, feats, grad)
    for voxel in range(len(wanted)):
        rows = kept.nonzero()[:, 0][index == voxel]
        members = feats.detach()[rows]
        value = {'max': members.amax(0), 'mean': members.mean(0), 'sum': members.sum(0)}[
            reduce_type
        ]
        torch.testing.assert_close(out[voxel].detach(), value)
        if reduce_type == 'max':
            share = torch.nn.functional.one_hot(members.argmax(0), len(rows)).t().double()
        else:
            share = torch.full_like(members, 1 / len(rows) if reduce_type == 'mean' else 1)
        torch.testing.assert_close(found[rows], share * grad[voxel])
    assert not found[~kept].any()


@pytest.mark.parametrize(
    ('call', 'error', 'words'),
    [
        (lambda: mmcv.ops.grouping_operation(torch.zeros(1, 2, 3), indices(1, 1, 2, 2) + 3), IndexError, '3 points'),
        (lambda: mmcv.ops.gather_points(torch.zeros(1, 2, 3), indices(1, 1, 2) - 1), IndexError, 'idx must be rows'),
        (lambda: mmcv.ops.gather_points(torch.zeros(1, 2, 3), indices(1, 1, 2).long()), TypeError, 'int32'),
        (
            lambda: mmcv.ops.assign_score_withk(
                torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2, 4), torch.tensor([[[5, 1]]])
            ),
            IndexError,
            'centre among the 3 points first, was 5',
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
