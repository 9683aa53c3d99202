"""Points in boxes and pooling by RoI, box by box and point by point."""

import mmcv.ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mxd_mmplugin  # noqa: F401
from tests.mmcv_registry import reference
from tests.mmcv_registry.problems import boxes, lattice

seeds = st.integers(0, 2**16)
SIZE = (2, 3, 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(0, 150), st.integers(0, 9), seeds)
def test_points_in_boxes(batches, count, number, seed):
    # In float64, in which a rotated lattice has no point within rounding of a side.
    points = lattice(batches, count, seed=seed).double() + 0.01
    frames = boxes(batches, number, seed=seed).double()
    every = mmcv.ops.points_in_boxes_all(points, frames)
    first = mmcv.ops.points_in_boxes_part(points, frames)
    for batch in range(batches):
        for k in range(count):
            inside = [
                reference.inside(frames[batch, box].numpy(), points[batch, k].numpy())
                for box in range(number)
            ]
            assert every[batch, k].tolist() == inside
            assert first[batch, k] == (inside.index(True) if any(inside) else -1)


def test_sides_are_outside_and_top_and_bottom_are_inside():
    box = torch.tensor([[[0.0, 0, 0, 2, 4, 1, 0]]])
    points = torch.tensor(
        [[[1.0, 0, 0.5], [0, 2, 0.5], [0, 0, 0], [0, 0, 1], [0.5, -1.5, 1], [0, 0, 1.5]]]
    )
    assert mmcv.ops.points_in_boxes_part(points, box)[0].tolist() == [-1, -1, 0, 0, 0, -1]
    assert torch.equal(
        mmcv.ops.points_in_boxes_all(points, box), mmcv.ops.points_in_boxes_cpu(points, box)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 200), st.integers(0, 4), st.integers(1, 20), st.integers(1, 6),
    st.sampled_from(['max', 'avg']), seeds,
)  # fmt: skip
def test_roiaware_pool3d(count, number, channels, most, mode, seed):
    torch.manual_seed(seed)
    points, rois = lattice(count, seed=seed).double() + 0.01, boxes(number, seed=seed).double()
    features = torch.randint(-3, 4, (count, channels)).double().requires_grad_()
    pooled = mmcv.ops.RoIAwarePool3d(SIZE, most, mode)(rois, points, features)
    grad = torch.randn_like(pooled)
    expected, found = torch.zeros_like(pooled), torch.zeros(count, channels, dtype=torch.float64)
    for box in range(number):
        # The first number of a list is how many it has: a list of `most` numbers has one point less.
        for cell, members in reference.cells(
            rois[box].numpy(), points.numpy(), SIZE, most - 1
        ).items():
            if not members:
                continue
            values, place = features.detach()[members], (box, *cell)
            if mode == 'avg':
                expected[place] = values.mean(0)
                found[members] += grad[place] / len(members)
            else:
                expected[place] = values.amax(0)
                first = torch.tensor(members)[values.argmax(0)]
                found[first, torch.arange(channels)] += grad[place]
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(torch.autograd.grad(pooled, features, grad)[0], found)


def test_what_is_no_number_is_no_maximum():
    features = torch.tensor(
        [[float('nan'), float('-inf')], [2.0, float('-inf')]], requires_grad=True
    )
    roi, points = (
        torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]),
        torch.tensor([[0.0, 0, 0.5], [0, 0, 0.5]]),
    )
    pooled = mmcv.ops.RoIAwarePool3d(1)(roi, points, features)
    assert pooled.flatten().tolist() == [2, 0]
    pooled.sum().backward()
    assert features.grad.tolist() == [[0, 0], [1, 0]]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(0, 150),
    st.integers(0, 5),
    st.integers(0, 6),
    st.integers(1, 9),
    seeds,
)
def test_roipoint_pool3d(batches, count, number, channels, samples, seed):
    torch.manual_seed(seed)
    points = lattice(batches, count, seed=seed).double() + 0.01
    rois, features = (
        boxes(batches, number, seed=seed).double(),
        torch.randn(batches, count, channels).double(),
    )
    if number == 0:
        rois = torch.zeros(batches, 0, 7).double()
    pooled, empty = mmcv.ops.RoIPointPool3d(samples)(points, features, rois)
    for batch in range(batches):
        rows = torch.cat([points[batch], features[batch]], 1)
        for box in range(number):
            frame = rois[batch, box].numpy()
            members = [k for k in range(count) if reference.inside(frame, points[batch, k].numpy())]
            members = members[:samples]
            assert empty[batch, box] == (not members)
            wanted = rows[[members[k % len(members)] for k in range(samples)]] if members else 0
            assert (pooled[batch, box] == wanted).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    points, rois = lattice(1, 100) + 0.0625, boxes(1, 4)
    rois[..., 6] = 0
    wanted = mmcv.ops.points_in_boxes_all(points.double(), rois.double())
    assert torch.equal(mmcv.ops.points_in_boxes_all(points.to(dtype), rois.to(dtype)), wanted)
    features = torch.randint(9, (1, 100, 3))
    for module, args in (
        (mmcv.ops.RoIAwarePool3d(2, mode='avg'), (rois[0], points[0], features[0])),
        (mmcv.ops.RoIPointPool3d(8), (points, features, rois)),
    ):
        out, expected = (module(*(x.to(d) for x in args)) for d in (dtype, torch.float64))
        if isinstance(out, tuple):
            out, expected = out[0], expected[0]
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ('rois', 'points', 'features', 'words'),
    [
        ((1, 6), (3, 3), (3, 2), 'rois must have shape'),
        ((1, 7), (3, 2), (3, 2), 'pts must have shape'),
        ((1, 7), (3, 3), (4, 2), 'pts_feature must have shape'),
    ],
)
def test_bad_input_is_named(rois, points, features, words):
    rois, points, features = torch.zeros(rois), torch.zeros(points), torch.zeros(features)
    with pytest.raises(ValueError, match=words):
        mmcv.ops.RoIAwarePool3d(2)(rois, points, features)
    with pytest.raises(ValueError, match='pts_feature must have shape'):
        mmcv.ops.RoIPointPool3d(2)(
            points[None, :, :1].expand(1, 3, 3), torch.zeros(1, 5, 2), torch.zeros(1, 1, 7)
        )
