"""mmcv's ops on npu tensors, where mmcv was built without FORCE_NPU: the same as on the CPU."""

import math

import mmcv.ops
import pytest
import torch

from mxd_mmplugin import dynamic_scatter
from tests.mmcv_registry.problems import boxes, lattice
from tests.npu.compare import assert_same, npu, with_grads

pytestmark = pytest.mark.npu
GEOMETRY = dict(voxel_size=[0.5, 0.5, 1.0], point_cloud_range=[-4, -4, -1, 4, 4, 1])


def corners(count):
    first = torch.rand(count, 2) * 20
    return torch.cat([first, first + 1 + torch.rand(count, 2) * 6], 1)


def rotated(count):
    """x, y, width, height, angle."""
    boxes = torch.rand(count, 5) * torch.tensor([10, 10, 4, 4, 6]) + torch.tensor([0, 0, 1, 1, -3])
    return boxes


def quads(count):
    box = corners(count)
    x1, y1, x2, y2 = box.unbind(1)
    return torch.stack([x1, y1, x2, y1 + 0.3, x2, y2, x1, y2 - 0.2], 1)


def boxes3d(count):
    """x, y, z, sizes, yaw."""
    scale = torch.tensor([8, 8, 1, 3, 2, 1, 6])
    return torch.rand(count, 7) * scale + torch.tensor([-4, -4, -1, 1, 1, 1, -3])


def rois(count):
    return torch.cat([torch.zeros(count, 1), corners(count) / 2], 1)


# Functions that have a CPU form in mmcv, and arguments for them.
CPU_FORMS = {
    'nms': lambda: (mmcv.ops.nms, corners(60), torch.rand(60), 0.4),
    'nms offset': lambda: (mmcv.ops.nms, corners(60), torch.rand(60), 0.4, 1),
    'batched_nms': lambda: (
        mmcv.ops.batched_nms,
        corners(60),
        torch.rand(60),
        torch.arange(60) % 3,
        dict(type='nms', iou_threshold=0.3),
    ),
    'soft_nms': lambda: (mmcv.ops.soft_nms, corners(30), torch.rand(30)),
    'nms_match': lambda: (
        mmcv.ops.nms_match,
        torch.cat([corners(20), torch.rand(20, 1)], 1),
        0.3,
    ),
    'nms_rotated': lambda: (mmcv.ops.nms_rotated, rotated(60), torch.rand(60), 0.2),
    'nms_rotated counterclockwise': lambda: (
        lambda *args: mmcv.ops.nms_rotated(*args, clockwise=False),
        rotated(60),
        torch.rand(60),
        0.2,
    ),
    'box_iou_rotated': lambda: (mmcv.ops.box_iou_rotated, rotated(20), rotated(30)),
    'box_iou_rotated aligned': lambda: (
        mmcv.ops.box_iou_rotated,
        rotated(20),
        rotated(20),
        'iof',
        True,
        False,
    ),
    'box_iou_quadri': lambda: (mmcv.ops.box_iou_quadri, quads(10), quads(15)),
    'voxelization': lambda: (
        mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, **GEOMETRY),
        torch.randn(400, 5) * 3,
    ),
    'voxelization of few': lambda: (
        mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, **GEOMETRY),
        torch.full((1, 4), 90.0),
    ),
    'dynamic voxelization': lambda: (
        mmcv.ops.Voxelization(max_num_points=-1, **GEOMETRY),
        torch.randn(400, 5) * 3,
    ),
    'nms of nothing': lambda: (mmcv.ops.nms, corners(0), torch.rand(0), 0.4),
    'box_iou_rotated of nothing': lambda: (mmcv.ops.box_iou_rotated, rotated(0), rotated(3)),
    'voxelization of nothing': lambda: (
        mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, **GEOMETRY),
        torch.rand(0, 4),
    ),
    'roi_align of nothing': lambda: (
        mmcv.ops.roi_align,
        torch.rand(1, 4, 16, 16),
        rois(0),
        (3, 2),
    ),
    'roi_align': lambda: (
        lambda x, boxes: with_grads(lambda x: mmcv.ops.roi_align(x, boxes, (3, 2)), x),
        torch.rand(1, 4, 16, 16),
        rois(5),
    ),
    'roi_align max': lambda: (
        lambda x, boxes: with_grads(
            lambda x: mmcv.ops.roi_align(x, boxes, (3, 2), 0.5, 2, 'max'), x
        ),
        torch.rand(1, 4, 16, 16),
        rois(5),
    ),
    'roi_align_rotated': lambda: (
        lambda x, boxes: with_grads(
            lambda x: mmcv.ops.roi_align_rotated(x, boxes, (3, 2), 1.0, 2), x
        ),
        torch.rand(1, 4, 16, 16),
        torch.cat([torch.zeros(5, 1), rotated(5)], 1),
    ),
}


def counts(*numbers):
    return torch.tensor(numbers).int()


# Functions that have CPU kernels of this package, on points with ties.
POINT_FORMS = {
    'furthest_point_sample': lambda: (mmcv.ops.furthest_point_sample, lattice(2, 90), 12),
    'furthest_point_sample_with_dist': lambda: (
        mmcv.ops.furthest_point_sample_with_dist,
        torch.cdist(lattice(2, 50), lattice(2, 50)),
        12,
    ),
    'ball_query': lambda: (mmcv.ops.ball_query, 0.5, 1.0, 9, lattice(2, 90), lattice(2, 7)),
    'stacked ball_query': lambda: (
        *(mmcv.ops.ball_query, 0, 0.75, 9, lattice(90), lattice(7, seed=1)),
        *(counts(30, 0, 60), counts(3, 1, 3)),
    ),
    'knn': lambda: (mmcv.ops.knn, 7, lattice(2, 90), lattice(2, 7, seed=1)),
    'three_nn': lambda: (mmcv.ops.three_nn, lattice(2, 90), lattice(2, 7, seed=1)),
    'stacked grouping': lambda: (
        lambda x, *args: with_grads(lambda x: mmcv.ops.grouping_operation(x, *args), x),
        *(torch.randn(90, 5), torch.randint(-1, 62, (7, 9)).int()),
        *(counts(30, 0, 60), counts(3, 1, 3)),
    ),
    'assign_score_withk': lambda: (
        lambda idx, *args: with_grads(lambda *args: mmcv.ops.assign_score_withk(*args, idx), *args),
        torch.cat([torch.randint(20, (2, 9, 1)), torch.randint(-1, 21, (2, 9, 4))], 2),
        *(torch.randn(2, 9, 5, 3), torch.randn(2, 20, 3, 6), torch.randn(2, 20, 3, 6)),
    ),
    'roiaware_pool3d max': lambda: (
        lambda rois, points, x: with_grads(
            lambda x: mmcv.ops.RoIAwarePool3d(3, 6)(rois, points, x), x
        ),
        *(boxes(6), lattice(200) + 0.01, torch.randint(5, (200, 4)).float()),
    ),
    'roiaware_pool3d avg': lambda: (
        lambda rois, points, x: with_grads(
            lambda x: mmcv.ops.RoIAwarePool3d((2, 3, 4), 6, 'avg')(rois, points, x), x
        ),
        *(boxes(6), lattice(200) + 0.01, torch.randn(200, 4)),
    ),
    'roipoint_pool3d': lambda: (
        *(mmcv.ops.RoIPointPool3d(16), lattice(2, 200) + 0.01, torch.randn(2, 200, 4)),
        boxes(2, 6),
    ),
    'roipoint_pool3d without points': lambda: (
        *(mmcv.ops.RoIPointPool3d(16), lattice(2, 0), torch.randn(2, 0, 4), boxes(2, 6)),
    ),
    'points_in_boxes_all': lambda: (
        mmcv.ops.points_in_boxes_all,
        lattice(2, 90) + 0.01,
        boxes(2, 9),
    ),
    'points_in_boxes_part': lambda: (
        *(mmcv.ops.points_in_boxes_part, lattice(2, 90) + 0.01, boxes(2, 9)),
    ),
}


@pytest.mark.parametrize('case', POINT_FORMS)
def test_equals_the_cpu_kernel(case):
    function, *args = POINT_FORMS[case]()
    assert_same(function(*npu(args)), function(*args))


@pytest.mark.parametrize('case', CPU_FORMS)
def test_equals_the_cpu_form(case):
    function, *args = CPU_FORMS[case]()
    given = npu(args)
    assert_same(function(*given), function(*args))
    # mmcv's nms_rotated changes an npu tensor of the caller: the change is taken back.
    assert_same(given, args)


def test_nondeterministic_voxelization_is_the_deterministic_one():
    points = torch.randn(400, 5) * 3
    module = mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, deterministic=False, **GEOMETRY)
    assert_same(
        module(points.npu()),
        mmcv.ops.Voxelization(max_num_points=3, max_voxels=20, **GEOMETRY)(points),
    )


@pytest.mark.parametrize('reduce_type', ['max', 'mean', 'sum'])
def test_dynamic_scatter(reduce_type):
    # Equal features, and a point outside of the grid.
    feats, coors = torch.randint(4, (90, 6)).float(), torch.randint(3, (90, 3), dtype=torch.int32)
    coors[::7] = -1

    def reduce(function, feats, coors):
        return with_grads(lambda feats: function(feats, coors, reduce_type)[0], feats), function(
            feats, coors, reduce_type
        )[1]

    assert_same(
        reduce(mmcv.ops.dynamic_scatter, feats.npu(), coors.npu()),
        reduce(dynamic_scatter, feats, coors),
    )


def sigmoid_focal_loss(logits, target, gamma, alpha, weight):
    hot = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1].bool()
    p = torch.where(hot, logits, -logits).sigmoid()
    factor = torch.where(hot, alpha, 1 - alpha)
    if weight is not None:
        factor = factor * weight[target.clamp(max=logits.shape[1] - 1)][:, None]
    return -factor * (1 - p) ** gamma * p.log()


def softmax_focal_loss(logits, target, gamma, alpha, weight):
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]
    factor = alpha if weight is None else alpha * weight[target]
    return -factor * (1 - p) ** gamma * p.log()


@pytest.mark.parametrize('reference', [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 1, 2, 3, 1.5])])
def test_focal_loss(reference, weight):
    background = int(reference is sigmoid_focal_loss)  # a class more, without a logit of its own
    logits, target = torch.randn(40, 5) * 3, torch.randint(5 + background, (40,))
    function = getattr(mmcv.ops, reference.__name__)
    assert_same(
        with_grads(
            lambda x: function(x, target.npu(), 2.0, 0.25, npu(weight), 'sum'), logits.npu()
        ),
        with_grads(lambda x: reference(x, target, 2.0, 0.25, weight).sum(), logits),
    )


def test_ms_deform_attn():
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    shapes = torch.tensor([[6, 5], [3, 4]])
    starts = torch.tensor([0, 30])
    value, locations = torch.rand(2, 42, 3, 8), torch.rand(2, 7, 3, 2, 4, 2) * 1.2 - 0.1
    weights = torch.rand(2, 7, 3, 2, 4)

    def on_npu(value, locations, weights):
        return MultiScaleDeformableAttnFunction.apply(
            value, shapes.npu(), starts.npu(), locations, weights, 64
        )

    assert_same(
        with_grads(on_npu, *npu((value, locations, weights))),
        with_grads(
            lambda value, *rest: multi_scale_deformable_attn_pytorch(value, shapes, *rest),
            value,
            locations,
            weights,
        ),
    )


def test_points_in_boxes():
    points, boxes = torch.rand(2, 300, 3) * 8 - 4, boxes3d(24).view(2, 12, 7)
    inside = mmcv.ops.points_in_boxes_cpu(points, boxes)
    assert inside.any()
    assert_same(mmcv.ops.points_in_boxes_all(points.npu(), boxes.npu()), inside)
    first = torch.where(inside.any(-1), inside.argmax(-1), -1).int()
    assert_same(mmcv.ops.points_in_boxes_part(points.npu(), boxes.npu()), first)
    assert (mmcv.ops.points_in_boxes_part(points.npu(), boxes[:, :0].npu()) == -1).all()


def test_boxes_overlap_bev():
    square = torch.tensor([[1.0, 2, 0, 2, 2, 1, 0]])
    others = square.repeat(3, 1)
    others[1, 6] = math.pi / 4  # an octagon in common
    others[2, 0] = 9
    overlap = mmcv.ops.boxes_overlap_bev(square.npu(), others.npu())
    assert_same(overlap, torch.tensor([[4, 8 * (math.sqrt(2) - 1), 0]]))


@pytest.mark.parametrize('normal', [False, True])
def test_nms3d(normal):
    boxes, scores = boxes3d(60), torch.rand(60)
    above = boxes[:, [0, 1, 3, 4, 6]]
    if normal:
        above[:, 4] = 0
    iou = mmcv.ops.box_iou_rotated(above, above)
    kept = []
    for box in scores.argsort(descending=True).tolist():
        if all(iou[box, other] <= 0.2 for other in kept):
            kept.append(box)
    assert len(kept) < 60
    function = mmcv.ops.nms3d_normal if normal else mmcv.ops.nms3d
    assert_same(function(boxes.npu(), scores.npu(), 0.2), torch.tensor(kept))


def test_nearest_points():
    points, centres, feats = torch.rand(2, 50, 3), torch.rand(2, 8, 3), torch.rand(2, 5, 8)
    distance, idx = torch.cdist(points, centres).topk(3, largest=False)
    assert_same(mmcv.ops.three_nn(points.npu(), centres.npu()), [distance, idx.int()])
    weight = torch.rand(2, 50, 3)
    rows = idx.flatten(1)[:, None].expand(-1, 5, -1)
    assert_same(
        with_grads(
            lambda feats: mmcv.ops.three_interpolate(feats, idx.int().npu(), weight.npu()),
            feats.npu(),
        ),
        with_grads(
            lambda feats: (feats.gather(2, rows).view(2, 5, 50, 3) * weight[:, None]).sum(-1), feats
        ),
    )


def test_equally_near_points_come_in_their_order():
    known = torch.ones(256, 21, 3)
    distance, idx = mmcv.ops.three_nn(torch.zeros(256, 21, 3).npu(), known.npu())
    assert torch.equal(idx.cpu(), torch.tensor([0, 1, 2]).int().expand(256, 21, 3))
    torch.testing.assert_close(distance.cpu(), torch.full((256, 21, 3), 3**0.5))
    known[:, [1, 4, 20]] = 0.5  # the nearest ones are no longer the first
    _, idx = mmcv.ops.three_nn(torch.zeros(256, 21, 3).npu(), known.npu())
    assert torch.equal(idx.cpu(), torch.tensor([1, 4, 20]).int().expand(256, 21, 3))


def test_gradients_of_halves_are_summed_in_float32():
    """4096 times 1 / 3 into one point: a sum in half precision would stop to grow."""
    feats = torch.zeros(1, 2, 5).half().npu().requires_grad_()
    idx = torch.zeros(1, 64, 64, dtype=torch.int32).npu()
    out = mmcv.ops.grouping_operation(feats, idx)
    grad = torch.full(out.shape, 1 / 3).half()
    out.backward(grad.npu())
    wanted = grad.float().sum((2, 3))
    torch.testing.assert_close(feats.grad[..., 0].cpu().float(), wanted, rtol=1e-3, atol=0)
    assert not feats.grad[..., 1:].cpu().any()


@pytest.mark.parametrize('count', [4, 70])
def test_ball_query_and_grouping(count):
    points, centres = torch.rand(2, 50, 3), torch.rand(2, 8, 3)
    centres[0, 0] = 9  # nothing is near
    wanted = torch.zeros(2, 8, count, dtype=torch.int32)
    near = (torch.cdist(centres, points) >= 0.1) & (torch.cdist(centres, points) < 0.5)
    for batch in range(2):
        for centre in range(8):
            found = near[batch, centre].nonzero()[:count, 0]
            if len(found):
                wanted[batch, centre] = found[0]
                wanted[batch, centre, : len(found)] = found
    idx = mmcv.ops.ball_query(0.1, 0.5, count, points.npu(), centres.npu())
    assert_same(idx, wanted)
    rows = wanted.long().flatten(1)[:, None].expand(-1, 5, -1)
    feats = torch.rand(2, 5, 50)
    assert_same(
        with_grads(lambda feats: mmcv.ops.grouping_operation(feats, idx), feats.npu()),
        with_grads(lambda feats: feats.gather(2, rows).view(2, 5, 8, count), feats),
    )
    assert_same(
        with_grads(
            lambda feats: mmcv.ops.gather_points(feats, idx[:, :, 0].contiguous()), feats.npu()
        ),
        with_grads(
            lambda feats: feats.gather(2, wanted[:, None, :, 0].long().expand(-1, 5, -1)), feats
        ),
    )


def test_half_precision():
    boxes, scores = corners(40).half(), torch.rand(40).half()
    _, keep = mmcv.ops.nms(boxes.npu(), scores.npu(), 0.4)
    assert_same(keep, mmcv.ops.nms(boxes.float(), scores.float(), 0.4)[1])
    image, regions = torch.rand(1, 4, 16, 16).half(), rois(5).half()
    out, (grad,) = with_grads(lambda x: mmcv.ops.roi_align(x, regions.npu(), (3, 2)), image.npu())
    assert out.dtype == grad.dtype == torch.float16
    assert_same(
        (out.float(), grad.float()),
        with_grads(lambda x: mmcv.ops.roi_align(x, regions.float(), (3, 2)), image.float()),
        2e-3,
    )


def test_one_warning_names_the_op(capfd):
    # Ops that no other test calls: the warning comes once in a process.
    boxes, others, scores = quads(10), quads(20), torch.rand(10)
    for _ in range(2):
        assert_same(
            mmcv.ops.bbox_overlaps(boxes[:, :4].npu(), others[:, :4].npu()),
            mmcv.ops.bbox_overlaps(boxes[:, :4], others[:, :4]),
        )
        assert_same(
            mmcv.ops.nms_quadri(boxes.npu(), scores.npu(), 0.2),
            mmcv.ops.nms_quadri(boxes, scores, 0.2),
        )
    text = capfd.readouterr().err
    assert text.count('no NPU kernel of bbox_overlaps_impl') == 1
    assert text.count('no NPU kernel of nms_quadri') == 1


def test_report():
    served = torch.ops.mxd.mmcv_registry()
    assert served['hard_voxelize_forward_impl'] == 'operators of mxd_mmplugin'
    assert served['sigmoid_focal_loss_forward_impl'] == 'PyTorch ops'
    assert served['nms_impl'] == served['nms_quadri'] == 'the CPU'
    assert served['nms_rotated'] == served['box_iou_rotated_impl'] == 'operators of mxd_mmplugin'
