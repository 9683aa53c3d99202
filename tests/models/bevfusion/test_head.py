"""TransFusion's head: coder, heatmaps and assigners against plain loops, predictions in every mode."""

import pytest
import torch
from mmdet3d.models.utils import draw_heatmap_gaussian, gaussian_radius
from mmdet3d.registry import MODELS, TASK_UTILS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from mxd_mmplugin.models.bevfusion import TransFusionBBoxCoder
from mxd_mmplugin.models.heatmap import gaussian_radii
from mxd_mmplugin.ops import draw_gaussians
from tests.conftest import ROOT

AREA = [-12.0, -16.0, -5.0, 12.0, 16.0, 3.0]
CODER = dict(
    pc_range=AREA[:2],
    out_size_factor=4,
    voxel_size=[0.25, 0.5],
    post_center_range=[-20, -20, -10, 20, 20, 10],
    score_threshold=0.0,
    code_size=10,
)
IOU = dict(type='BboxOverlaps3D', coordinate='lidar')


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def boxes(count, seed=0):
    """[count, 9]: x, y, z of the bottom, dx, dy, dz, yaw, velocity."""
    generator = torch.Generator().manual_seed(seed)
    box = torch.rand(count, 9, generator=generator)
    box = box * torch.tensor([24, 32, 4, 5, 3, 2, 6.0, 2, 2]) - torch.tensor(
        [12, 16, 3, 0, 0, 0, 3, 1, 1]
    )
    box[:, 3:6] += 0.4
    return box


def head_config(**changes):
    """The head of the lidar config on a map of 24 x 16 cells (x and y differ), 20 queries."""
    path = next((ROOT / 'configs' / 'bevfusion').glob('*lidar_voxel0075*'))
    config = Config(dict(head=Config.fromfile(path).model.bbox_head))
    grid = dict(grid_size=[96, 64, 41], voxel_size=[0.25, 0.5, 0.2], out_size_factor=4)
    small = dict(
        num_proposals=20,
        in_channels=8,
        train_cfg=dict(grid, point_cloud_range=AREA),
        test_cfg=dict(grid, pc_range=AREA[:2]),
        bbox_coder=CODER,
    )
    for part in (small, changes):
        config.merge_from_dict(dict(head=part))
    return config.head


def truth(counts=(5, 0, 9)):
    samples = []
    for i, count in enumerate(counts):
        labels = torch.arange(count) % 10
        instances = LiDARInstance3DBoxes(boxes(count, i), box_dim=9)
        samples.append(InstanceData(bboxes_3d=instances, labels_3d=labels))
    return samples


def test_coder_there_and_back():
    coder, box = TransFusionBBoxCoder(**CODER), boxes(30)
    code = coder.encode(box)
    assert torch.allclose(code[:, 0], (box[:, 0] + 12) / 1.0) and torch.allclose(
        code[:, 1], (box[:, 1] + 16) / 2.0
    )
    scores = torch.rand(1, 3, 30)
    parts = dict(
        center=slice(0, 2), height=slice(2, 3), dim=slice(3, 6), rot=slice(6, 8), vel=slice(8, 10)
    )
    parts = {name: code.T[None, rows].clone() for name, rows in parts.items()}
    before = {name: part.clone() for name, part in parts.items()}
    (found,) = coder.decode(scores, **parts)
    assert torch.allclose(found['bboxes'], box, atol=1e-5)
    assert torch.equal(found['scores'], scores.max(1).values[0])
    assert all(torch.equal(before[name], parts[name]) for name in parts)
    without = TransFusionBBoxCoder(**dict(CODER, code_size=8))
    assert without.encode(box).shape == (30, 8)
    assert without.decode(scores, **dict(parts, vel=None))[0]['bboxes'].shape == (30, 7)


def test_coder_filters_by_place_and_score():
    box = boxes(40)
    coder = TransFusionBBoxCoder(
        **dict(CODER, post_center_range=[0, -20, -10, 20, 20, 10], score_threshold=0.5)
    )
    code = coder.encode(box).T[None]
    scores = torch.rand(1, 1, 40)
    arguments = scores, code[:, 6:8], code[:, 3:6], code[:, :2], code[:, 2:3], code[:, 8:]
    (found,) = coder.decode(*arguments, filter=True)
    keep = (box[:, 0] >= 0) & (scores[0, 0] > 0.5)
    assert 0 < keep.sum() < 40 and torch.allclose(found['bboxes'], box[keep], atol=1e-5)
    assert len(coder.decode(*arguments)[0]['bboxes']) == 40


def test_radii_and_bumps_are_mmdet3ds():
    torch.manual_seed(0)
    sizes = torch.rand(60, 2) * 12 + 0.05
    for overlap in (0.1, 0.5, 0.7):
        one_by_one = [gaussian_radius((length, width), overlap) for length, width in sizes]
        assert torch.allclose(gaussian_radii(sizes, overlap), torch.stack(one_by_one), atol=1e-5)

    radii = gaussian_radii(sizes, 0.1).int().clamp(min=2)
    centers = torch.stack([torch.randint(-3, 24, (60,)), torch.randint(-3, 20, (60,))], 1).int()
    inside = ((centers >= 0) & (centers < torch.tensor([20, 17]))).all(1)
    channels = torch.randint(0, 3, (60,)).int()
    found = draw_gaussians(channels[inside], centers[inside], radii[inside], (3, 20, 17))
    expected = torch.zeros(3, 20, 17)
    for channel, center, radius in zip(channels[inside], centers[inside], radii[inside]):
        draw_heatmap_gaussian(expected[channel], center[[1, 0]], int(radius))
    assert torch.allclose(found, expected, atol=1e-6)
    ones = {tuple(place) for place in found.eq(1).nonzero().tolist()}
    assert ones == {(int(c), *p) for c, p in zip(channels[inside], centers[inside].tolist())}
    everywhere = draw_gaussians(
        channels, centers, radii, (3, 20, 17)
    )  # outside: drawn as far as seen
    assert torch.isfinite(everywhere).all() and (everywhere >= found).all()
    assert not draw_gaussians(channels[:0], centers[:0], radii[:0], (3, 20, 17)).any()


@pytest.mark.parametrize('dist_thre, labels', [(100, True), (6, True), (4, False)])
def test_heuristic_assigner_against_a_loop(dist_thre, labels):
    assigner = TASK_UTILS.build(
        dict(type='HeuristicAssigner3D', dist_thre=dist_thre, iou_calculator=IOU)
    )
    box, gt = boxes(25, 1), boxes(12, 2)
    gt[3] = gt[7]  # equally near: the first one counts
    gt_labels, queries = torch.arange(12) % 3, torch.arange(25) % 3
    found = assigner.assign(box, gt, None, gt_labels, queries if labels else None)
    expected, nearest = [0] * 25, [float('inf')] * 25
    for g in range(12):
        distances = [float((box[p, :2] - gt[g, :2]).norm()) for p in range(25)]
        if labels:
            distances = [
                d + dist_thre * (queries[p] != gt_labels[g]) for p, d in enumerate(distances)
            ]
        p = min(range(25), key=distances.__getitem__)
        if distances[p] <= dist_thre and distances[p] < nearest[p]:
            expected[p], nearest[p] = g + 1, distances[p]
    assert found.gt_inds.tolist() == expected and any(expected)
    assert found.labels.tolist() == [int(gt_labels[g - 1]) if g else -1 for g in expected]


def test_hungarian_assigner_against_a_loop():
    config = head_config().train_cfg
    assigner = TASK_UTILS.build(config.assigner)
    box, gt, labels = boxes(25, 1), boxes(12, 2), torch.arange(12) % 10
    logits = torch.randn(1, 10, 25)
    found = assigner.assign(box, gt, labels, logits, config)
    iou = TASK_UTILS.build(IOU)(box, gt)
    cost = torch.zeros(25, 12)
    for p in range(25):
        for g in range(12):
            score = logits[0, labels[g], p].sigmoid()
            focal = -0.25 * (1 - score) ** 2 * (score + 1e-12).log()
            focal = focal + 0.75 * score**2 * (1 - score + 1e-12).log()
            away = (box[p, :2] - gt[g, :2]).abs() / torch.tensor([24.0, 32.0])
            cost[p, g] = 0.15 * focal + 0.25 * away.sum() - 0.25 * iou[p, g]
    rows, columns = linear_sum_assignment(cost)
    expected = torch.zeros(25, dtype=torch.long)
    expected[rows] = torch.from_numpy(columns) + 1
    assert torch.equal(found.gt_inds, expected)
    assert torch.allclose(found.max_overlaps[rows], iou[rows, columns])


@pytest.mark.parametrize('kind', ['HungarianAssigner3D', 'HeuristicAssigner3D'])
def test_assigners_without_ground_truth(kind):
    assigner = TASK_UTILS.build(dict(type=kind, iou_calculator=IOU))
    arguments = dict(gt_labels=torch.zeros(0, dtype=torch.long))
    if kind == 'HungarianAssigner3D':
        arguments.update(cls_pred=torch.zeros(1, 10, 4), train_cfg=dict(point_cloud_range=AREA))
    found = assigner.assign(boxes(4), boxes(0), **arguments)
    assert found.gt_inds.tolist() == [0] * 4 and found.max_overlaps.tolist() == [0] * 4


@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize('auxiliary', [True, False])
@pytest.mark.parametrize('assigner', ['HungarianAssigner3D', 'HeuristicAssigner3D'])
def test_losses_and_targets(layers, auxiliary, assigner):
    config = head_config(num_decoder_layers=layers, auxiliary=auxiliary)
    if assigner == 'HeuristicAssigner3D':
        config.train_cfg.assigner = dict(type=assigner, iou_calculator=IOU)
    head = MODELS.build(config)
    preds = head([torch.randn(3, 8, 24, 16)])
    samples = truth()
    targets = head.get_targets(samples, preds[0])
    rows = 20 * (layers if auxiliary else 1)
    assert targets.labels.shape == (3, rows) and targets.boxes.shape == (3, rows, 10)
    assert targets.heatmap.shape == (3, 10, 24, 16)
    for i, sample in enumerate(samples):
        peaks = {tuple(place) for place in targets.heatmap[i].eq(1).nonzero().tolist()}
        gt = sample.bboxes_3d.tensor
        cells = torch.stack([(gt[:, 0] + 12) / 1, (gt[:, 1] + 16) / 2], 1).long().tolist()
        assert peaks == {(int(c), *place) for c, place in zip(sample.labels_3d, cells)}
        for label, code, weight in zip(targets.labels[i], targets.boxes[i], targets.box_weights[i]):
            if label == 10:
                assert not weight.any() and not code.any()
            else:
                codes = head.bbox_coder.encode(gt[sample.labels_3d == label])
                assert (codes - code).abs().max(1).values.min() < 1e-5 and weight.all()
        if assigner == 'HungarianAssigner3D':
            assert (targets.labels[i] < 10).sum() == len(gt) * rows // 20
    losses = head.loss_by_feat(preds, samples)
    names = ['layer_-1'] if rows == 20 else ['layer_0', 'layer_-1']
    expected = {f'{name}_loss_{kind}' for name in names for kind in ('cls', 'bbox')}
    assert set(losses) == expected | {'loss_heatmap', 'matched_ious'}
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total)
    unused = {n for n, p in head.named_parameters() if p.grad is None}
    assert all(name.startswith('prediction_heads.0') for name in unused)
    assert bool(unused) == (layers == 2 and not auxiliary)


@pytest.mark.parametrize('dataset', ['nuScenes', 'Waymo', 'other'])
@pytest.mark.parametrize('nms_type', [None, 'circle', 'rotate'])
@pytest.mark.parametrize('kernel', [1, 3])
def test_predictions(dataset, nms_type, kernel):
    classes = 3 if dataset == 'Waymo' else 10
    test_cfg = dict(dataset=dataset, nms_type=nms_type, pre_maxsize=100, post_maxsize=50)
    changes = dict(num_classes=classes, nms_kernel_size=kernel, test_cfg=test_cfg)
    if dataset == 'Waymo':
        changes.update(class_names=None)
    if dataset == 'other':
        test_cfg.update(nms_radius=dict(car=2.0))
    head = MODELS.build(head_config(**changes)).eval()
    metas = [dict(box_type_3d=LiDARInstance3DBoxes)] * 2
    with torch.no_grad():
        found = head.predict([torch.randn(2, 8, 24, 16)], metas)
    for sample in found:
        assert sample.bboxes_3d.tensor.shape == (len(sample), 9) and 0 < len(sample) <= 20
        assert (sample.labels_3d < classes).all() and (sample.scores_3d <= 1).all()


def test_peaks_are_local_and_not_on_the_border():
    head = MODELS.build(head_config())
    heatmap = torch.rand(1, 10, 24, 16)
    peaks = head._peaks(heatmap)[0]
    for c, i, j in ((0, 0, 5), (3, 23, 2), (7, 4, 0), (7, 4, 15)):
        assert peaks[c, i, j] == 0
    for c, i, j in ((0, 5, 5), (4, 11, 8), (7, 22, 14)):
        greatest = heatmap[0, c, i - 1 : i + 2, j - 1 : j + 2].max()
        assert peaks[c, i, j] == (heatmap[0, c, i, j] if heatmap[0, c, i, j] == greatest else 0)
    assert torch.equal(peaks[8:], heatmap[0, 8:])  # small objects: every cell


TWELVE = ['traffic_cone', 'a', 'b', 'pedestrian', *'cdefgh', 'car', 'bus']


@pytest.mark.parametrize(
    ('names', 'small', 'suppressed'),
    [
        (None, [8, 9], [8, 9]),  # those of the published config
        (['car'], [], []),
        (['pedestrian'], [0], [0]),
        (TWELVE, [3, 0], [3, 0]),
    ],
)
def test_classes_are_treated_by_name(names, small, suppressed):
    count = 10 if names is None else len(names)
    near = torch.cat([boxes(1)] * count * 2)  # two at one place of each class
    labels = torch.arange(count).repeat(2)
    for kind in ('circle', 'rotate'):
        test_cfg = dict(nms_type=kind, pre_maxsize=100, post_maxsize=50)
        head = MODELS.build(head_config(num_classes=count, class_names=names, test_cfg=test_cfg))
        keep = head._suppress(near, torch.linspace(1, 0.5, 2 * count), labels, LiDARInstance3DBoxes)
        assert keep[:count].all()
        assert (~keep[count:]).nonzero().flatten().tolist() == sorted(suppressed)
    heatmap = torch.rand(1, count, 24, 16)
    whole = [c for c in range(count) if torch.equal(head._peaks(heatmap)[0, c], heatmap[0, c])]
    assert whole == sorted(small)


@pytest.mark.parametrize('count', [1, 12])
@pytest.mark.parametrize('dataset', ['nuScenes', 'Waymo', 'Lyft'])
def test_any_number_of_classes(count, dataset):
    """Without names every class is treated alike, and none is lost."""
    config = head_config(num_classes=count, class_names=None, test_cfg=dict(dataset=dataset))
    head = MODELS.build(config).eval()
    samples = [InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes(count), box_dim=9))]
    samples[0].labels_3d = torch.arange(count)
    losses = head.loss_by_feat(head([torch.randn(1, 8, 24, 16)]), samples)
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        found = head.predict([torch.randn(1, 8, 24, 16)], [dict(box_type_3d=LiDARInstance3DBoxes)])
    assert len(found[0]) > 0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(num_classes=12), r"class_names must name the 12 classes .*'traffic_cone'\]"),
        (dict(test_cfg=dict(dataset='Lyft', nms_type='circle')), "'Lyft' nms_radius of test_cfg"),
        (
            dict(num_classes=1, class_names=None, test_cfg=dict(nms_type='circle')),
            "nms_type 'circle' needs class_names of the head, was None",
        ),
    ],
)
def test_class_options_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(head_config(**changes))


def test_a_loss_without_sigmoid_is_refused():
    with pytest.raises(ValueError, match='use_sigmoid=True'):
        MODELS.build(head_config(loss_cls=dict(use_sigmoid=False)))
