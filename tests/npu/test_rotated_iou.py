"""Rotated boxes' kernels against the CPU operator."""

import math

import mmcv.ops
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mxd_mmplugin
from tests.npu.compare import assert_same, npu

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TOLERANCE = 1e-4


def random_boxes(count, seed=0, spread=10.0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator)
    return boxes * torch.tensor([spread, spread, 4, 4, 8]) + torch.tensor([0, 0, 0.2, 0.2, -4])


def random_scores(count, seed=1):
    """Of either sign, some of them equal."""
    scores = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return torch.where(torch.arange(count) % 3 == 0, (scores * 4).round(), scores)


@SETTINGS
@given(
    st.integers(1, 90),
    st.integers(1, 90) | st.sampled_from([1024, 1025, 1500]),
    st.sampled_from(['iou', 'iof']),
    st.integers(1, 40),
)
def test_all_pairs(monkeypatch, rows, columns, mode, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    first, second = random_boxes(rows), random_boxes(columns, 1)
    found = mxd_mmplugin.box_iou_rotated(first.npu(), second.npu(), mode)
    assert_same(found, mxd_mmplugin.box_iou_rotated(first, second, mode), TOLERANCE)


@SETTINGS
@given(st.integers(1, 700), st.integers(1, 40))
def test_aligned(monkeypatch, count, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    first, second = random_boxes(count, spread=2), random_boxes(count, 1, spread=2)
    found = mxd_mmplugin.box_iou_rotated(first.npu(), second.npu(), aligned=True)
    assert_same(found, mxd_mmplugin.box_iou_rotated(first, second, aligned=True), TOLERANCE)


def test_special_pairs():
    """Those that touch, are the same, nested, turned by quarters, small, far away, or nothing."""
    pairs = torch.tensor(
        [
            [[3, 4, 5, 2, 0.7], [3, 4, 5, 2, 0.7]],
            [[3, 4, 5, 2, 0], [3, 4, 2, 5, math.pi / 2]],
            [[0, 0, 2, 2, 0], [2, 0, 2, 2, 0]],
            [[0, 0, 2, 2, 0], [2, 2, 2, 2, 0]],
            [[0, 0, 2, 2, math.pi / 4], [2**0.5, 2**0.5, 2, 2, math.pi / 4]],
            [[0, 0, 4, 4, 0], [-1, 0, 2, 2, 0]],
            [[0, 0, 4, 4, 0], [1, 1, 2, 2, 0]],
            [[0, 0, 10, 1, 0], [0, 0, 10, 1, math.pi / 2]],
            [[0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4]],
            [[0, 0, 4, 2, 0], [0, 0, 4, 2, 1e-7]],
            [[0, 0, 1e-3, 2e-3, 0.5], [0, 0, 1e-3, 2e-3, 0.5]],
            [[1e6, -1e6, 4, 2, 0.3], [1e6 + 1, -1e6, 4, 2, 0.3]],
            [[-1e30, 0, 4, 2, 0.3], [1e30, 0, 4, 2, 0.3]],
            [[0, 0, 4, 2, 300], [0.5, 0, 4, 2, -700]],
            [[0, 0, 0, 2, 0], [0, 0, 2, 2, 0]],
            [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            [[0, 0, -2, -2, 0], [0, 0, 2, 2, 0]],
            [[math.nan, 0, 2, 2, 0], [0, 0, 2, 2, 0]],
            [[0, 0, 2, math.inf, 0], [0, 0, 2, 2, 0]],
            [[0, 0, 2, 2, -math.inf], [0, 0, 2, 2, 0]],
        ]
    )
    for first, second in (pairs.unbind(1), pairs.unbind(1)[::-1]):
        for mode in ('iou', 'iof'):
            wanted = mxd_mmplugin.box_iou_rotated(first, second, mode, aligned=True)
            found = mxd_mmplugin.box_iou_rotated(first.npu(), second.npu(), mode, aligned=True)
            assert_same(found, wanted, TOLERANCE)
            found = mxd_mmplugin.box_iou_rotated(first.npu(), second.npu(), mode)
            wanted = mxd_mmplugin.box_iou_rotated(first, second, mode)
            assert_same(found, wanted, TOLERANCE)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_short_dtypes(dtype):
    first, second = random_boxes(30).to(dtype), random_boxes(20, 1).to(dtype)
    found = mxd_mmplugin.box_iou_rotated(first.npu(), second.npu())
    wanted = mxd_mmplugin.box_iou_rotated(first, second)
    assert_same(found, wanted, torch.finfo(dtype).eps)


def kept(boxes, scores, labels=None, threshold=0.1):
    return mxd_mmplugin.nms_rotated(boxes, scores, threshold, labels)[1]


@SETTINGS
@given(
    st.sampled_from([1, 63, 64, 65, 256, 257, 600]) | st.integers(1, 300),
    st.booleans(),
    st.integers(1, 40),
)
def test_nms(monkeypatch, count, labelled, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    boxes, scores = random_boxes(count, spread=25), random_scores(count)
    labels = torch.arange(count) % 3 if labelled else None
    wanted = kept(boxes, scores, labels)
    assert_same(kept(boxes.npu(), scores.npu(), npu(labels)), wanted)


def test_nms_of_many():
    boxes, scores = random_boxes(9000, spread=150), random_scores(9000)
    assert_same(kept(boxes.npu(), scores.npu()), kept(boxes, scores))


def test_scores_in_order():
    """Whatever the floats are, the sort is PyTorch's: stable, with what is no number first."""
    scores = torch.tensor(
        [0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, math.inf, -math.inf, math.nan, -math.nan, 1, 1, -1]
    )
    scores = torch.cat([scores, random_scores(300) * 1e4, scores])
    boxes = torch.ones(len(scores), 5)
    boxes[:, 0] = torch.arange(len(scores)) * 10
    assert_same(kept(boxes.npu(), scores.npu()), kept(boxes, scores))


@pytest.mark.parametrize('count', [1, 70, 500])
def test_circle_nms(count):
    generator = torch.Generator().manual_seed(0)
    centers = (torch.rand(count, 2, generator=generator) * 40).round() / 2
    scores = random_scores(count)
    for most in (20, None):
        wanted = mxd_mmplugin.circle_nms(centers, scores, 4.0, most)
        assert_same(mxd_mmplugin.circle_nms(centers.npu(), scores.npu(), 4.0, most), wanted)


@SETTINGS
@given(
    st.integers(1, 7),
    st.one_of(st.integers(1, 12), st.integers(240, 270), st.integers(500, 520)),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
)
def test_groups(monkeypatch, groups, count, circles, inclusive, blocks):
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    boxes = torch.stack([random_boxes(count, seed, spread=20) for seed in range(groups)])
    boxes[0, 0, 0] = math.nan
    boxes = boxes[..., :2].clone() if circles else boxes
    valid = torch.rand(groups, count, generator=torch.Generator().manual_seed(blocks)) < 0.7
    threshold = 4.0 if circles else 0.2
    wanted = mxd_mmplugin.grouped_nms(boxes, valid, threshold, inclusive)
    found = mxd_mmplugin.grouped_nms(boxes.npu(), valid.npu(), threshold, inclusive)
    for a, b in zip(found, wanted):
        assert_same(a, b)


@pytest.mark.parametrize('shape', [(0, 4, 5), (3, 0, 2), (2, 4096, 2)])
def test_groups_of_any_size(shape):
    boxes = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 60
    valid = torch.ones(shape[:2], dtype=torch.bool)
    wanted = mxd_mmplugin.grouped_nms(boxes, valid, 1.0)
    for a, b in zip(mxd_mmplugin.grouped_nms(boxes.npu(), valid.npu(), 1.0), wanted):
        assert_same(a, b)


@pytest.mark.parametrize('name', ['nms3d', 'nms3d_normal'])
def test_nms_of_3d_boxes(name):
    boxes, scores = torch.zeros(150, 7), torch.rand(150)
    boxes[:, [0, 1, 3, 4, 6]] = random_boxes(150)
    for module in (mxd_mmplugin, mmcv.ops):
        found = getattr(module, name)(boxes.npu(), scores.npu(), 0.1)
        assert_same(found, getattr(mxd_mmplugin, name)(boxes, scores, 0.1))


def test_nothing():
    none, some = torch.zeros(0, 5).npu(), random_boxes(3).npu()
    assert mxd_mmplugin.box_iou_rotated(none, some).shape == (0, 3)
    assert mxd_mmplugin.box_iou_rotated(some, none).shape == (3, 0)
    assert kept(none, torch.zeros(0).npu()).shape == (0,)
    assert mxd_mmplugin.circle_nms(none[:, :2], torch.zeros(0).npu(), 0.5).shape == (0,)


def test_any_number_of_blocks_gives_the_same_bits(monkeypatch):
    first, second = random_boxes(60).npu(), random_boxes(70, 1).npu()
    results = []
    for blocks in (1, 3, 40):
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        results.append(mxd_mmplugin.box_iou_rotated(first, second).cpu().view(torch.int32))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_errors_name_the_argument():
    boxes, scores = random_boxes(3).npu(), torch.ones(3).npu()
    with pytest.raises(ValueError, match='scores must have shape'):
        kept(boxes, scores[:2])
    with pytest.raises(ValueError, match='boxes2 must be on the device of boxes1'):
        mxd_mmplugin.box_iou_rotated(boxes, boxes.cpu())
