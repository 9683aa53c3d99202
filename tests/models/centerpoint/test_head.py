"""CenterPoint's head beside mmdet3d's: the same bits in targets, losses, gradients and boxes; no loop, no wait."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.models.dense_heads import CenterHead as Stock
from mmdet3d.models.utils.gaussian import gaussian_2d, gaussian_radius
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.models.centerpoint import CenterHead
from mxd_mmplugin.models.centerpoint.targets import make_targets
from mxd_mmplugin.models.heatmap import gaussian_radii
from mxd_mmplugin.ops import draw_gaussians
from tests.counting import Counting

AREA, VOXEL, FACTOR = [-12.0, -16.0, -5.0, 12.0, 16.0, 3.0], [0.25, 0.5, 0.2], 4
GRID = [96, 64, 40]  # 24 x 16 cells: x and y differ
TASKS = (1,), (2, 3), (1, 2, 2, 1)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def config(tasks=(2, 3), head='SeparateHead', velocity=True, **changes):
    """The head of a stock config on a small map; `tasks` are numbers of classes."""
    names = iter(range(99))
    heads = dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2))
    grid = dict(out_size_factor=FACTOR, voxel_size=VOXEL[:2])
    separate = dict(type='SeparateHead', init_bias=-2.19, final_kernel=3)
    if head == 'DCNSeparateHead':
        conv = dict(type='DCN', in_channels=16, out_channels=16, kernel_size=3, padding=1, groups=4)
        separate = dict(separate, type=head, dcn_config=conv)
    cfg = dict(
        type='CenterHead',
        in_channels=8,
        share_conv_channel=16,
        tasks=[dict(num_class=n, class_names=[next(names) for _ in range(n)]) for n in tasks],
        common_heads=dict(heads, vel=(2, 2)) if velocity else heads,
        bbox_coder=dict(
            grid,
            type='CenterPointBBoxCoder',
            pc_range=AREA[:2],
            post_center_range=[-10, -20, -10, 20, 20, 10],
            max_num=30,
            score_threshold=0.1,
            code_size=9 if velocity else 7,
        ),
        separate_head=separate,
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        train_cfg=dict(
            grid,
            grid_size=GRID,
            point_cloud_range=AREA,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=20,
            min_radius=2,
            code_weights=[1.0] * 6 + [0.9] * 2 + [0.2] * 2 * velocity,
        ),
        test_cfg=dict(
            post_center_limit_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            min_radius=[2.0] * len(tasks),
            score_threshold=0.2,
            nms_type='rotate',
            pre_max_size=100,
            post_max_size=12,
            nms_thr=0.2,
        ),
    )
    for name, values in changes.items():
        cfg[name] = dict(cfg[name], **values) if isinstance(values, dict) else values
    return cfg


def pair(**options):
    """Ours and mmdet3d's with the same weights."""
    cfg = config(**options)
    ours = MODELS.build(copy.deepcopy(cfg))
    cfg.pop('type')
    stock = Stock(**copy.deepcopy(cfg))
    assert type(ours) is CenterHead
    torch.manual_seed(0)
    for value in ours.parameters():  # so that scores differ from cell to cell
        torch.nn.init.normal_(value, std=0.3)
    stock.load_state_dict(ours.state_dict())
    return ours, stock


@functools.cache
def target_makers(tasks):
    return pair(tasks=tasks)


def truth(boxes, labels):
    instances = InstanceData(labels_3d=torch.as_tensor(labels, dtype=torch.int64))
    instances.bboxes_3d = LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1])
    return instances


def random_truth(count, seed=0, classes=5):
    """`count` boxes in and around the area, some of no size, of labels that may be no class."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-1, 1, (count, 9)) * [14, 18, 3, 6, 6, 3, 7, 9, 9]
    boxes[:, 3:6] = np.abs(boxes[:, 3:6])
    boxes[rng.random(count) < 0.05, 3] = 0
    boxes[rng.random(count) < 0.05, 5] = -0.5  # its logarithm is not a number
    boxes[rng.random(count) < 0.1, 7:] = np.nan
    boxes[rng.random(count) < 0.1, :2] = [-12.3, 3.9]  # rounded towards zero: in the first column
    return truth(boxes, rng.integers(-1, classes + 1, count))


def assert_same(ours, stock):
    """Equal in type, dtype, shape, strides and bits, through lists and dicts."""
    assert type(ours) is type(stock)
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == stock.dtype and ours.shape == stock.shape
        assert ours.is_contiguous() == stock.is_contiguous()
        torch.testing.assert_close(ours, stock, rtol=0, atol=0, equal_nan=True)
        return
    keys = ours.keys() if isinstance(ours, dict) else range(len(ours))
    assert keys == (stock.keys() if isinstance(stock, dict) else range(len(stock)))
    for key in keys:
        assert_same(ours[key], stock[key])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    tasks=st.sampled_from(TASKS),
    counts=st.lists(st.integers(0, 25), min_size=1, max_size=3),
    norm_bbox=st.booleans(),
    max_objs=st.integers(1, 12),
    dense_reg=st.integers(1, 2),
    overlap=st.sampled_from([0.1, 0.5, 0.7]),
    min_radius=st.integers(0, 3),
    seed=st.integers(0, 2**20),
)
def test_targets_are_mmdet3ds(
    tasks, counts, norm_bbox, max_objs, dense_reg, overlap, min_radius, seed
):
    init_default_scope('mmdet3d')
    ours, stock = target_makers(tasks)
    for head in (ours, stock):
        head.norm_bbox = norm_bbox
        head.train_cfg.update(max_objs=max_objs, dense_reg=dense_reg)
        head.train_cfg.update(gaussian_overlap=overlap, min_radius=min_radius)
    batch = [random_truth(count, seed + i, sum(tasks)) for i, count in enumerate(counts)]
    assert_same(list(ours.get_targets(batch)), list(stock.get_targets(batch)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    numbers=st.lists(
        st.tuples(*[st.floats(-40, 40, width=32)] * 3, *[st.floats(0, 60, width=32)] * 3),
        max_size=6,
    ),
    yaw=st.floats(-10, 10, width=32),
)
def test_targets_of_odd_boxes(numbers, yaw):
    init_default_scope('mmdet3d')
    ours, stock = target_makers((1,))
    boxes = np.array([[*row, yaw, 0.5, -1.0] for row in numbers], np.float32).reshape(-1, 9)
    batch = [truth(boxes, [0] * len(boxes))]
    assert_same(list(ours.get_targets(batch)), list(stock.get_targets(batch)))


def test_radii_are_mmdet3ds():
    torch.manual_seed(0)
    sizes = torch.cat([torch.rand(300, 2) * 30, torch.rand(50, 2) * 1e-3, torch.ones(1, 2)])
    for overlap in (0.0, 0.1, 0.5, 0.9, 1.0):
        one_by_one = [gaussian_radius((width, length), overlap) for length, width in sizes]
        assert torch.equal(gaussian_radii(sizes, overlap), torch.stack(one_by_one))


def test_every_bump_has_mmdet3ds_bits():
    for radius in range(80):
        side = 2 * radius + 1
        expected = torch.from_numpy(gaussian_2d((side, side), sigma=side / 6)).float()
        place = torch.tensor([[radius, radius]]).int()
        (bump,) = draw_gaussians(
            torch.zeros(1).int(), place, torch.tensor([radius]).int(), (1, side, side)
        )
        assert torch.equal(bump, expected), radius


def test_samples_without_boxes_may_have_other_columns():
    """A frame that mmdet3d's data set finds no annotation of has boxes without velocities."""
    ours, stock = pair()
    nothing = truth(np.zeros((0, 7), np.float32), [])
    for batch in ([nothing], [nothing, random_truth(9)], [random_truth(9), nothing, nothing]):
        assert_same(list(ours.get_targets(batch)), list(stock.get_targets(batch)))
    without = truth(np.ones((2, 7), np.float32), [0, 1])
    with pytest.raises(ValueError, match='bboxes_3d must have 9 columns or more, had 7'):
        ours.get_targets([without])


def features(samples):
    torch.manual_seed(1)
    return [torch.randn(samples, 8, 16, 24)]


def step(head, batch):
    """Losses and gradients."""
    head.zero_grad()
    losses = head.loss(features(len(batch)), batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in head.named_parameters()}


@pytest.mark.parametrize('head', ['SeparateHead', 'DCNSeparateHead'])
@pytest.mark.parametrize('norm_bbox', [True, False])
@pytest.mark.parametrize('counts', [[30], [0], [7, 0, 12]])
def test_losses_and_gradients_are_mmdet3ds(head, norm_bbox, counts):
    ours, stock = pair(tasks=[1, 2, 2], head=head, norm_bbox=norm_bbox)
    batch = []
    for i, count in enumerate(counts):
        instances = random_truth(count, i)
        instances.bboxes_3d.tensor.nan_to_num_(0.5).clamp_(min=-20)
        instances.bboxes_3d.tensor[:, 3:6].clamp_(min=0.01)
        batch.append(Det3DDataSample(gt_instances_3d=instances))
    found, expected = step(ours, batch), step(stock, batch)
    assert all(torch.isfinite(value) for value in found[0].values())
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])


def test_boxes_without_velocity():
    head = MODELS.build(config(velocity=False))
    boxes = random_truth(9).bboxes_3d.tensor.nan_to_num(0.5).clamp(min=0.1)
    for columns in (7, 9):  # a velocity that nothing predicts is left out
        instances = truth(boxes[:, :columns].numpy(), [0, 1, 2, 3, 4, 0, 1, 2, 3])
        losses, _ = step(head, [Det3DDataSample(gt_instances_3d=instances)])
        assert all(torch.isfinite(value) for value in losses.values())
        assert head.get_targets([instances])[1][0].shape == (1, 20, 8)
    with torch.no_grad():
        (found,) = head.eval().predict(features(1), [sample()])
    assert found.bboxes_3d.tensor.shape[1] == 7


def sample():
    return Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))


@pytest.mark.parametrize('nms_type', ['rotate', 'circle'])
@pytest.mark.parametrize('threshold', [0.0, 0.4, 2.0])
@pytest.mark.parametrize('tasks', TASKS)
def test_predictions_are_mmdet3ds(nms_type, threshold, tasks):
    ours, stock = pair(
        tasks=tasks,
        norm_bbox=threshold > 0,
        bbox_coder=dict(score_threshold=min(threshold, 1.0)),
        test_cfg=dict(nms_type=nms_type, score_threshold=min(threshold, 0.5)),
    )
    with torch.no_grad():
        found = ours.eval().predict(features(3), [sample()] * 3)
        expected = stock.eval().predict(features(3), [sample()] * 3)
    assert len(found) == 3 and (threshold > 1 or any(len(x) for x in found))
    for mine, theirs in zip(found, expected):
        assert mine.bboxes_3d.box_dim == theirs.bboxes_3d.box_dim
        assert_same(mine.bboxes_3d.tensor, theirs.bboxes_3d.tensor)
        assert_same(mine.scores_3d, theirs.scores_3d)
        assert_same(mine.labels_3d, theirs.labels_3d)


def test_another_coder_decides_by_itself():
    class Coder(type(MODELS.build(config()).bbox_coder)):
        def decode(self, *args, **kwargs):
            return [dict(x, scores=x['scores'] * 0 + 0.75) for x in super().decode(*args, **kwargs)]

    ours, _ = pair(bbox_coder=dict(score_threshold=0.0))
    ours.bbox_coder = Coder(**vars(ours.bbox_coder))
    with torch.no_grad():
        (found,) = ours.eval().predict(features(1), [sample()])
    assert len(found) and (found.scores_3d == 0.75).all()


def test_classes_of_users_stay_as_they_are():
    class Mine(Stock):
        pass

    cfg = config()
    cfg.pop('type')
    head = Mine(**cfg)
    assert not isinstance(head, CenterHead)
    assert Mine.get_targets is Stock.get_targets and Mine.loss_by_feat is Stock.loss_by_feat
    assert Stock.__module__.startswith('mmdet3d.') and MODELS.get('CenterHead') is CenterHead


def test_operators_grow_with_nothing_and_nothing_waits():
    head = MODELS.build(config(tasks=[1, 2, 2]))
    found = {}
    for samples, objects in ((1, 0), (1, 5), (1, 90), (4, 90)):
        batch = [Det3DDataSample(gt_instances_3d=random_truth(objects, i)) for i in range(samples)]
        step(head, batch)  # what is made once
        with Counting() as counting:
            head.loss(features(samples), batch)
        assert counting.waits == 0
        found[samples, objects] = sum(counting.calls.values())
    assert found[1, 5] == found[1, 90]
    assert abs(found[1, 0] - found[1, 5]) < 15  # with no box at all there is nothing to join
    assert found[4, 90] - found[1, 90] == 3  # the number of its sample for each box


def test_one_wait_for_the_boxes_of_a_batch():
    head = MODELS.build(config(tasks=[1, 2, 2])).eval()
    counts = []
    for samples in (1, 4):
        maps = head(features(samples))
        counting = Counting()
        with torch.no_grad(), counting:
            head.predict_by_feat(maps, [sample().metainfo] * samples)
        assert counting.waits == 0  # but for the sizes, which are copied to the host
        counts.append(counting.calls)
    grown = counts[1] - counts[0]
    for view in ('slice', 'select', 'unbind'):
        del grown[f'aten::{view}']
    assert grown == {'aten::cat': 3 * 3, 'aten::clone': 3}


def test_targets_of_a_model_in_half_precision_are_float32():
    batch = [random_truth(7)]
    cfg = config()['train_cfg']
    with torch.autocast('cpu', torch.bfloat16):
        half = make_targets(batch, [2, 3], cfg, True, True)
    full = make_targets(batch, [2, 3], cfg, True, True)
    assert_same(half.heatmaps, full.heatmaps)
    assert_same(half.boxes, full.boxes)
