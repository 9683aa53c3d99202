"""Rotated boxes: against shapely's polygons in float64, and mmcv's functions through this package."""

import math

import mmcv.ops
import numpy as np
import pytest
import shapely
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet3d.models.layers import circle_nms as mmdet3d_circle_nms

import mxd_mmplugin
from mxd_mmplugin.ops import fallback

TOLERANCE = 1e-4
DTYPES = torch.float32, torch.float16, torch.bfloat16, torch.float64


@pytest.fixture(params=['kernel', 'plain'])
def form(request):
    """Run a test on the CPU kernel and on the plain PyTorch form."""
    if request.param == 'kernel':
        yield
    else:
        with fallback.Plain():
            yield


def polygons(boxes):
    """Shapely's polygons of boxes, float64 [..., 5]."""
    x, y, width, height, angle = np.moveaxis(boxes, -1, 0)
    cosine, sine = np.cos(angle), np.sin(angle)
    corners = [
        (x + i * cosine - j * sine, y + i * sine + j * cosine)
        for i, j in [
            (-width / 2, -height / 2),
            (width / 2, -height / 2),
            (width / 2, height / 2),
            (-width / 2, height / 2),
        ]
    ]
    return shapely.polygons(np.moveaxis(np.array(corners), (0, 1), (-2, -1)))


def reference(first, second, mode='iou'):
    """Overlaps of all pairs, float64; relative to the first box's middle, as shapely's numbers are absolute."""
    pairs = np.zeros((2, len(first), len(second), 5))
    pairs[0], pairs[1] = first.double()[:, None].numpy(), second.double().numpy()
    is_box = (pairs[..., 2:4] > 0).all((0, -1))
    one, other = pairs[:, is_box]
    other[:, :2] -= one[:, :2]
    one[:, :2] = 0
    one, other = polygons(one), polygons(other)
    # Without a grid, edges that lie on each other but for their last bits lose the whole overlap.
    shared = shapely.area(shapely.intersection(one, other, grid_size=1e-10))
    whole = shapely.area(one)
    if mode == 'iou':
        whole = whole + shapely.area(other) - shared
    out = np.zeros(is_box.shape)
    out[is_box] = shared if mode == 'area' else shared / whole
    return torch.from_numpy(out)


def random_boxes(count, seed=0, spread=10.0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator)
    return boxes * torch.tensor([spread, spread, 4, 4, 8]) + torch.tensor([0, 0, 0.2, 0.2, -4])


def greedy(suppresses, scores):
    """Rows that are left, by their definition; `suppresses` bool [N, N]."""
    kept = []
    for i in scores.float().sort(descending=True, stable=True).indices.tolist():
        if not any(suppresses[k, i] for k in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('clockwise', [True, False])
def test_all_pairs(form, mode, clockwise):
    first, second = random_boxes(23), random_boxes(17, 1)
    found = mxd_mmplugin.box_iou_rotated(first, second, mode, clockwise=clockwise)
    if not clockwise:
        first, second = (boxes * torch.tensor([1, 1, 1, 1, -1]) for boxes in (first, second))
    wanted = reference(first, second, mode)
    assert found.dtype == torch.float32 and (wanted > 0).sum() > 50
    assert (found - wanted).abs().max() < TOLERANCE


def test_aligned_is_the_diagonal(form):
    first, second = random_boxes(70), random_boxes(70, 1)
    for mode in ('iou', 'iof'):
        aligned = mxd_mmplugin.box_iou_rotated(first, second, mode, aligned=True)
        torch.testing.assert_close(
            aligned, mxd_mmplugin.box_iou_rotated(first, second, mode).diagonal()
        )


SPECIAL = {
    'identical': ([3, 4, 5, 2, 0.7], [3, 4, 5, 2, 0.7], 1),
    'a whole turn': ([3, 4, 5, 2, 0.7], [3, 4, 5, 2, 0.7 + 2 * math.pi], 1),
    'a quarter turn': ([3, 4, 5, 2, 0], [3, 4, 2, 5, math.pi / 2], 1),
    'touching sides': ([0, 0, 2, 2, 0], [2, 0, 2, 2, 0], 0),
    'touching corners': ([0, 0, 2, 2, 0], [2, 2, 2, 2, 0], 0),
    'touching sides, turned': ([0, 0, 2, 2, math.pi / 4], [2**0.5, 2**0.5, 2, 2, math.pi / 4], 0),
    'nested': ([0, 0, 4, 4, 0], [0.5, 0.5, 1, 1, 0.3], 1 / 16),
    'nested, on a side': ([0, 0, 4, 4, 0], [-1, 0, 2, 2, 0], 1 / 4),
    'nested, in a corner': ([0, 0, 4, 4, 0], [1, 1, 2, 2, 0], 1 / 4),
    'half on half': ([0, 0, 4, 2, 0], [1, 0, 4, 2, 0], 3 / 5),
    'a cross': ([0, 0, 10, 1, 0], [0, 0, 10, 1, math.pi / 2], 1 / 19),
    'an octagon': ([0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], math.sqrt(2) / 2),
    'no width': ([0, 0, 0, 2, 0], [0, 0, 2, 2, 0], 0),
    'nothing twice': ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], 0),
    'negative sizes': ([0, 0, -2, -2, 0], [0, 0, 2, 2, 0], 0),
    'far away': ([1e6, -1e6, 4, 2, 0.3], [1e6 + 1, -1e6, 4, 2, 0.3], 0.5197),
    'far apart': ([-1e30, 0, 4, 2, 0.3], [1e30, 0, 4, 2, 0.3], 0),
    'hardly turned': ([0, 0, 4, 2, 0], [0, 0, 4, 2, 1e-7], 1),
    'small': ([0, 0, 1e-3, 2e-3, 0.5], [0, 0, 1e-3, 2e-3, 0.5], 1),
    'large': ([0, 0, 1e6, 1e6, 0.5], [5e5, 0, 1, 1, 0.2], 0),
}


@pytest.mark.parametrize('case', SPECIAL)
def test_special_pairs(form, case):
    first, second, wanted = SPECIAL[case]
    for pair in ((first, second), (second, first)):
        boxes = [torch.tensor([box], dtype=torch.float32) for box in pair]
        found = mxd_mmplugin.box_iou_rotated(*boxes).item()
        if case == 'far away':
            wanted = reference(*boxes).item()
        assert found == pytest.approx(wanted, abs=TOLERANCE)


def numbers(least, greatest):
    return st.floats(least, greatest, width=32)


BOX = st.tuples(
    numbers(-20, 20), numbers(-20, 20), numbers(0.125, 16), numbers(0.125, 16), numbers(-16, 16)
)


@settings(deadline=None, max_examples=200)
@given(st.lists(BOX, min_size=1, max_size=6), st.lists(BOX, min_size=1, max_size=6), st.booleans())
def test_any_boxes(first, second, plain):
    first, second = torch.tensor(first), torch.tensor(second)
    for mode in ('iou', 'iof'):
        if plain:
            with fallback.Plain():
                found = mxd_mmplugin.box_iou_rotated(first, second, mode)
        else:
            found = mxd_mmplugin.box_iou_rotated(first, second, mode)
        assert (found - reference(first, second, mode)).abs().max() < TOLERANCE


def test_numbers_that_are_not_finite(form):
    boxes = torch.ones(11, 5)
    for i in range(5):
        boxes[2 * i, i], boxes[2 * i + 1, i] = math.nan, math.inf
    found = mxd_mmplugin.box_iou_rotated(boxes, boxes)
    wanted = torch.zeros(11, 11)
    wanted[10, 10] = 1
    torch.testing.assert_close(found, wanted)
    _, kept = mxd_mmplugin.nms_rotated(boxes, torch.arange(11.0), 0.5)
    assert kept.tolist() == list(range(10, -1, -1))


@pytest.mark.parametrize('dtype', DTYPES)
def test_dtypes(form, dtype):
    first, second = random_boxes(9).to(dtype), random_boxes(5, 1).to(dtype)
    found = mxd_mmplugin.box_iou_rotated(first, second)
    assert found.dtype == dtype
    assert (found.double() - reference(first, second)).abs().max() < max(
        TOLERANCE, torch.finfo(dtype).eps
    )


def test_nothing(form):
    none, some = torch.zeros(0, 5), random_boxes(3)
    assert mxd_mmplugin.box_iou_rotated(none, some).shape == (0, 3)
    assert mxd_mmplugin.box_iou_rotated(some, none).shape == (3, 0)
    assert mxd_mmplugin.box_iou_rotated(none, none, aligned=True).shape == (0,)
    assert mxd_mmplugin.boxes_overlap_bev(torch.zeros(0, 7), torch.zeros(2, 7)).shape == (0, 2)
    boxes, kept = mxd_mmplugin.nms_rotated(none, torch.zeros(0), 0.5)
    assert boxes.shape == (0, 6) and kept.shape == (0,) and kept.dtype == torch.long
    assert mxd_mmplugin.nms3d(torch.zeros(0, 7), torch.zeros(0), 0.5).shape == (0,)
    assert mxd_mmplugin.circle_nms(torch.zeros(0, 2), torch.zeros(0), 0.5).shape == (0,)


def test_areas_from_above(form):
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([8, 8, 1, 3, 2, 1, 6])
    boxes = torch.rand(20, 7, generator=generator) * scale + torch.tensor([0, 0, 0, 1, 1, 1, -3])
    seen = boxes[:, [0, 1, 3, 4, 6]]
    wanted = reference(seen[:8], seen[8:], 'area')
    assert (mxd_mmplugin.boxes_overlap_bev(boxes[:8], boxes[8:]) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize('count', [1, 7, 64, 65, 200])
@pytest.mark.parametrize('labelled', [False, True])
def test_nms(form, count, labelled):
    boxes = random_boxes(count, spread=15)
    scores = (torch.rand(count, generator=torch.Generator().manual_seed(1)) * 20).round()
    labels = torch.arange(count) % 3 if labelled else None
    overlaps = reference(boxes, boxes)
    suppresses = overlaps >= 0.2
    if labelled:
        suppresses &= labels[:, None] == labels
    wanted = greedy(suppresses, scores)
    dets, kept = mxd_mmplugin.nms_rotated(boxes, scores, 0.2, labels)
    assert torch.equal(kept, wanted) and (count < 64 or len(kept) < count)
    assert torch.equal(dets, torch.cat([boxes[wanted], scores[wanted, None]], 1))


def test_nms_at_the_threshold(form):
    """Mmcv's rotated NMS drops a box whose overlap is the threshold, its NMS of 3-D boxes does not."""
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 4, 0]])  # one half, exactly
    scores = torch.tensor([1.0, 2])
    assert mxd_mmplugin.nms_rotated(boxes, scores, 0.5)[1].tolist() == [1]
    assert mxd_mmplugin.nms_rotated(boxes, scores, 0.51)[1].tolist() == [1, 0]
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [0, 0, 0, 4, 4, 1, 0]])
    assert mxd_mmplugin.nms3d(boxes, scores, 0.5).tolist() == [1, 0]
    assert mxd_mmplugin.nms3d(boxes, scores, 0.49).tolist() == [1]


@pytest.mark.parametrize('rotated', [True, False])
def test_nms_of_3d_boxes(form, rotated):
    flat, scores = random_boxes(80), torch.rand(80, generator=torch.Generator().manual_seed(1))
    boxes = torch.zeros(80, 7)
    boxes[:, [0, 1, 3, 4, 6]] = flat
    if not rotated:
        flat[:, 4] = 0
    wanted = greedy(reference(flat, flat) > 0.1, scores)
    function = mxd_mmplugin.nms3d if rotated else mxd_mmplugin.nms3d_normal
    assert torch.equal(function(boxes, scores, 0.1), wanted) and len(wanted) < 80


@pytest.mark.parametrize('count', [1, 90, 300])
def test_circle_nms_is_mmdet3ds(form, count):
    generator = torch.Generator().manual_seed(0)
    centers = (torch.rand(count, 2, generator=generator) * 40).round() / 2  # distances of all kinds
    scores = torch.rand(count, generator=generator)
    for most in (20, 83):
        wanted = mmdet3d_circle_nms(torch.cat([centers, scores[:, None]], 1).numpy(), 4.0, most)
        kept = mxd_mmplugin.circle_nms(centers, scores, 4.0, most)
        assert kept.tolist() == list(wanted)
    every = mxd_mmplugin.circle_nms(centers, scores, 4.0, None)
    assert every[:20].tolist() == mxd_mmplugin.circle_nms(centers, scores, 4.0, 20).tolist()


@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, 5),
    st.one_of(st.integers(0, 12), st.integers(60, 140)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_groups(form, groups, count, circles, inclusive, seed):
    """Each group as the choice among its valid boxes alone."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(groups, count, 5, generator=generator) * 9 + 1
    valid = torch.rand(groups, count, generator=generator) < 0.8
    boxes = boxes[..., :2] if circles else boxes
    keep, total = mxd_mmplugin.grouped_nms(boxes, valid, 0.3, inclusive)
    assert keep.shape == (groups, count) and total.shape == (groups,)
    for group in range(groups):
        places = valid[group].nonzero().squeeze(1)
        rows = boxes[group, places].double()
        if circles:
            suppresses = torch.cdist(rows, rows).square() <= 0.3
        else:
            overlap = reference(rows, rows)
            suppresses = overlap >= 0.3 if inclusive else overlap > 0.3
        wanted = places[greedy(suppresses, -torch.arange(len(places)))]
        assert torch.equal(keep[group, : total[group]], wanted)
        assert not keep[group, total[group] :].any()


def test_scores_that_are_no_numbers_come_first(form):
    boxes = torch.ones(4, 5)
    boxes[:, 0] = torch.arange(4) * 10
    scores = torch.tensor([0.5, -math.inf, math.nan, math.inf])
    assert mxd_mmplugin.nms_rotated(boxes, scores, 0.5)[1].tolist() == [2, 3, 0, 1]


def test_mmcvs_functions_are_served():
    """What mmcv's Python returns, beside its compiled CPU code (boxes that overlap well) or our functions."""
    first, second, scores = random_boxes(30), random_boxes(20, 1), torch.rand(30)
    for mode in ('iou', 'iof'):
        for clockwise in (True, False):
            found = mmcv.ops.box_iou_rotated(first, second, mode, clockwise=clockwise)
            ours = mxd_mmplugin.box_iou_rotated(first, second, mode, clockwise=clockwise)
            assert torch.equal(found, ours)
            found = mmcv.ops.box_iou_rotated(first[:20], second, mode, True, clockwise)
            assert torch.equal(found, ours[:20].diagonal())
    for labels in (None, torch.arange(30) % 2):
        found = mmcv.ops.nms_rotated(first, scores, 0.1, labels)
        for theirs, ours in zip(found, mxd_mmplugin.nms_rotated(first, scores, 0.1, labels)):
            assert torch.equal(theirs, ours)
    boxes = torch.zeros(30, 7)
    boxes[:, [0, 1, 3, 4, 6]] = first
    boxes[:, 5] = 1
    overlap = mxd_mmplugin.boxes_overlap_bev(boxes, boxes[:9])
    assert torch.equal(mmcv.ops.boxes_overlap_bev(boxes, boxes[:9]), overlap)
    iou = mmcv.ops.boxes_iou3d(boxes, boxes[:9])
    assert (iou - reference(first, first[:9])).abs().max() < TOLERANCE
    for name in ('nms3d', 'nms3d_normal'):
        ours = getattr(mxd_mmplugin, name)(boxes, scores, 0.1)
        assert torch.equal(getattr(mmcv.ops, name)(boxes, scores, 0.1), ours)


def test_no_gradient():
    boxes = random_boxes(4).requires_grad_()
    assert not mxd_mmplugin.box_iou_rotated(boxes, boxes).requires_grad
    assert not mmcv.ops.box_iou_rotated(boxes, boxes).requires_grad


def test_strided_inputs(form):
    boxes = random_boxes(20)
    wide = torch.rand(20, 9)
    wide[:, ::2] = boxes
    scores = torch.rand(40)[::2]
    wanted = mxd_mmplugin.box_iou_rotated(boxes, boxes)
    assert torch.equal(mxd_mmplugin.box_iou_rotated(wide[:, ::2], wide[:, ::2]), wanted)
    kept = mxd_mmplugin.nms_rotated(wide[:, ::2], scores, 0.1)[1]
    assert torch.equal(kept, mxd_mmplugin.nms_rotated(boxes, scores.contiguous(), 0.1)[1])


def wrong(change):
    good = dict(boxes1=torch.ones(3, 5), boxes2=torch.ones(4, 5), mode=0, aligned=False)
    return {**good, **change}


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(boxes1=torch.ones(3, 5).int()), TypeError, 'boxes1 must be float32'),
        (dict(boxes2=torch.ones(4, 5).half()), TypeError, 'boxes2 must have the dtype of boxes1'),
        (dict(boxes1=torch.ones(3, 4)), ValueError, r'boxes1 must have shape \[boxes, 5\]'),
        (dict(boxes2=torch.ones(5)), ValueError, r'boxes2 must have shape \[boxes, 5\]'),
        (dict(mode=3), ValueError, 'mode must be 0'),
        (dict(aligned=True), ValueError, 'boxes2 must have a row for each of the 3'),
    ],
)
def test_wrong_pairs(form, change, error, message):
    with pytest.raises(error, match=message):
        torch.ops.mxd.rotated_iou(**wrong(change))


@pytest.mark.parametrize(
    ('call', 'error', 'message'),
    [
        (lambda m, b, s: m.nms_rotated(b[:, :4], s, 0.5), ValueError, 'boxes must have shape'),
        (lambda m, b, s: m.nms_rotated(b, s[:2], 0.5), ValueError, r'scores must have shape \[3\]'),
        (lambda m, b, s: m.nms_rotated(b, s.long(), 0.5), TypeError, 'scores must be float32'),
        (lambda m, b, s: m.nms_rotated(b, s, 0.5, s[:1]), ValueError, 'labels must have shape'),
        (lambda m, b, s: m.nms_rotated(b, s, math.nan), ValueError, 'threshold must be a number'),
        (lambda m, b, s: m.nms3d(b, s, 0.5), ValueError, r'boxes must have shape \[boxes, 7\]'),
        (lambda m, b, s: m.boxes_overlap_bev(b, b), ValueError, 'boxes_a must have shape'),
        (lambda m, b, s: m.circle_nms(b, s, 0.5), ValueError, r'centers must have shape'),
        (lambda m, b, s: m.box_iou_rotated(b, b, 'giou'), ValueError, "mode must be 'iou' or"),
    ],
)
def test_wrong_arguments(form, call, error, message):
    with pytest.raises(error, match=message):
        call(mxd_mmplugin, torch.ones(3, 5), torch.ones(3))


def test_meta():
    boxes = torch.empty(6, 5, device='meta')
    assert mxd_mmplugin.box_iou_rotated(boxes, boxes[:2]).shape == (6, 2)
    keep, count = torch.ops.mxd.rotated_nms(boxes, boxes[:, 0], None, 0.5, True)
    assert keep.shape == (6,) and count.shape == (1,) and keep.dtype == torch.long


def test_two_runs_are_the_same():
    boxes, scores = random_boxes(300), torch.rand(300)
    runs = [mxd_mmplugin.nms_rotated(boxes, scores, 0.1)[1] for _ in range(2)]
    assert torch.equal(*runs)
    runs = [mxd_mmplugin.box_iou_rotated(boxes, boxes) for _ in range(2)]
    assert torch.equal(*runs)
