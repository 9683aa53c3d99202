"""mmcv's overlap of rotated boxes with a gradient, against polygons that are cut."""

import math

import mmcv.ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity, geometry

import mxd_mmplugin  # noqa: F401


def rectangles(count, seed=0):
    """x, y, width, height, angle: float64 [1, count, 5]."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(1, count, 5, generator=generator, dtype=torch.float64)
    return numbers * torch.tensor([3, 3, 3, 3, 6]) + torch.tensor([0, 0, 0.5, 0.5, -3])


def polygon(box):
    x, y, width, height, angle = box
    shape = geometry.box(-width / 2, -height / 2, width / 2, height / 2)
    return affinity.translate(affinity.rotate(shape, angle, (0, 0), use_radians=True), x, y)


def overlap(a, b):
    one, other = polygon(a), polygon(b)
    return one.intersection(other).area / one.union(other).area


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 9))
def test_the_overlap_is_that_of_the_polygons(seed, count):
    a, b = rectangles(count, seed), rectangles(count, seed + 1)
    wanted = [overlap(*pair) for pair in zip(a[0].tolist(), b[0].tolist())]
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        found = mmcv.ops.diff_iou_rotated_2d(a.to(dtype), b.to(dtype))[0]
        assert found.tolist() == pytest.approx(wanted, abs=tolerance)


def test_the_gradient():
    a, b = rectangles(5).requires_grad_(), rectangles(5, 1).requires_grad_()
    assert torch.autograd.gradcheck(mmcv.ops.diff_iou_rotated_2d, (a, b))
    generator = torch.Generator().manual_seed(2)
    high = torch.rand(1, 5, 2, generator=generator, dtype=torch.float64) + 0.5
    z, height = high.split(1, 2)
    boxes = [torch.cat([x[..., :2], z, x[..., 2:4], height, x[..., 4:]], 2) for x in (a, b)]
    boxes = [box.detach().requires_grad_() for box in boxes]
    assert torch.autograd.gradcheck(mmcv.ops.diff_iou_rotated_3d, boxes)


@pytest.mark.parametrize(
    ('a', 'b', 'wanted'),
    [
        ((0, 0, 2, 2, 0.3), (0, 0, 2, 2, 0.3), 1),
        ((0, 0, 2, 2, 0.3), (0, 0, 1, 1, 0.9), 1 / 4),
        ((0, 0, 2, 2, 0), (9, 0, 2, 2, 0.3), 0),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 4), math.sqrt(0.5)),
    ],
    ids=['the same', 'one inside', 'apart', 'eight corners'],
)
def test_special_cases(a, b, wanted):
    boxes = torch.tensor([a, b], dtype=torch.float64)[:, None, None]
    assert mmcv.ops.diff_iou_rotated_2d(*boxes).item() == pytest.approx(wanted, abs=1e-6)


def test_the_order_of_the_vertices():
    """Anticlockwise from the x axis, then the first again, then a point that counts nothing."""
    sort = mmcv.ops.diff_iou_rotated.SortVertices.apply
    angles = torch.tensor([2.0, -1.0, 0.5, -2.5])
    vertices = torch.zeros(1, 1, 24, 2)
    vertices[0, 0, :4] = torch.stack([angles.cos(), angles.sin()], 1)
    mask = torch.zeros(1, 1, 24, dtype=torch.bool)
    mask[..., :4] = True
    mask[..., 8] = True  # not where the padding points to
    mask[..., 1] = False
    vertices[0, 0, 8] = torch.tensor([-0.5, -0.1])
    found = sort(vertices, mask, mask.sum(2).int())
    assert found.tolist() == [[[2, 0, 8, 3, 2, 9, 9, 9, 9]]]
    mask[..., 2:4] = False
    assert sort(vertices, mask, mask.sum(2).int()).tolist() == [[[9] * 9]]


def test_no_polygons():
    sort = mmcv.ops.diff_iou_rotated.SortVertices.apply
    mask = torch.zeros(1, 0, 24, dtype=torch.bool)
    assert sort(torch.zeros(1, 0, 24, 2), mask, mask.sum(2).int()).shape == (1, 0, 9)


def test_bad_input_is_named():
    sort = mmcv.ops.diff_iou_rotated.SortVertices.apply
    mask, count = torch.zeros(1, 2, 24, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match='vertices must have shape'):
        sort(torch.zeros(1, 2, 8, 2), mask, count)
    with pytest.raises(TypeError, match='mask must be bool'):
        sort(torch.zeros(1, 2, 24, 2), mask.int(), count)
