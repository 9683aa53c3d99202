"""Bird's-eye pictures, of plain arrays and by the hook."""

from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from mmdet3d.structures import (
    Box3DMode,
    CameraInstance3DBoxes,
    Det3DDataSample,
    LiDARInstance3DBoxes,
)
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from mmengine.structures import InstanceData

from mxd_mmplugin.engine.bev import PALETTE, TRUTH, draw_bev
from mxd_mmplugin.engine.bev_hook import lidar_boxes

CLASSES = ('car', 'pedestrian')
# 8 m long, 4 m wide, one at 10 m in x, one at 10 m in y.
BOXES = np.array([[10, 0, 0, 8, 4, 2, 0.0], [0, 10, 0, 8, 4, 2, 0.0]])
VIEW = (-20, -20, 20, 20)


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def has_color(picture, color, x, y, radius=0.5):
    """Whether a colour is near a point in metres."""
    height, width = picture.shape[:2]
    row, column = (20 - y) / 40 * height, (x + 20) / 40 * width
    reach = int(radius / 40 * width)
    patch = picture[
        int(row) - reach : int(row) + reach + 1, int(column) - reach : int(column) + reach + 1, :3
    ]
    return bool((np.abs(patch - rgb(color)).max(axis=-1) < 0.06).any())


def test_boxes_stand_where_they_are(tmp_path):
    path = draw_bev(
        tmp_path / 'new' / 'frame.png',
        np.zeros((0, 5)),
        CLASSES,
        gt_boxes=BOXES[:1],
        gt_labels=[0],
        boxes=BOXES[1:],
        labels=[1],
        scores=[0.9],
        view_range=VIEW,
    )
    picture = matplotlib.image.imread(path)
    assert has_color(picture, TRUTH, 12, 2) and has_color(picture, TRUTH, 6, 0)
    assert has_color(picture, PALETTE[1], 2, 12) and has_color(picture, PALETTE[1], -4, 10)
    assert not has_color(picture, TRUTH, 0, 12) and not has_color(picture, PALETTE[1], 12, 2)
    # The tick leaves the front, which is to +x at yaw 0.
    assert has_color(picture, TRUTH, 14.6, 0, radius=0.2)
    assert not has_color(picture, TRUTH, 5.4, 0, radius=0.2)


def test_low_scores_and_unknown_labels_are_left_out(tmp_path):
    path = draw_bev(
        tmp_path / 'frame.png',
        np.zeros((0, 3)),
        CLASSES,
        gt_boxes=BOXES[:1],
        gt_labels=[-1],
        boxes=BOXES[1:],
        labels=[1],
        scores=[0.2],
        score_thr=0.3,
        view_range=VIEW,
    )
    picture = matplotlib.image.imread(path)
    assert not has_color(picture, TRUTH, 12, 2) and not has_color(picture, PALETTE[1], 2, 12)


def test_tracks_have_colours_of_their_own(tmp_path):
    boxes = dict(boxes=BOXES, labels=[0, 0], scores=[0.9, 0.8], view_range=VIEW)
    path = draw_bev(tmp_path / 'a.png', np.zeros((0, 2)), CLASSES, **boxes, tracks=[3, 14])
    picture = matplotlib.image.imread(path)
    for x, y, track in ((12, 2, 3), (2, 12, 14)):
        assert has_color(picture, PALETTE[track % len(PALETTE)], x, y)
        assert not has_color(picture, PALETTE[0], x, y)
    # One that is left out takes its number along.
    path = draw_bev(
        tmp_path / 'b.png', np.zeros((0, 2)), CLASSES, **boxes, tracks=[3, 14], score_thr=0.85
    )
    picture = matplotlib.image.imread(path)
    assert has_color(picture, PALETTE[3], 12, 2) and not has_color(picture, PALETTE[4], 2, 12)


def test_points_are_drawn(tmp_path):
    path = draw_bev(tmp_path / 'a.png', np.full((500, 4), -5.0), CLASSES, view_range=VIEW)
    picture = matplotlib.image.imread(path)
    dark = picture[..., :3].max(axis=-1) < 0.75
    height, width = dark.shape
    row, column = int(25 / 40 * height), int(15 / 40 * width)
    assert dark[row - 2 : row + 3, column - 2 : column + 3].any()


def sample(with_truth=True):
    """One predicted car, and the same car as ground truth."""
    boxes = LiDARInstance3DBoxes(torch.tensor(BOXES[:1], dtype=torch.float32))
    result = Det3DDataSample()
    result.pred_instances_3d = InstanceData(
        bboxes_3d=boxes, labels_3d=torch.tensor([0]), scores_3d=torch.tensor([0.8])
    )
    result.eval_ann_info = None
    if with_truth:
        result.eval_ann_info = dict(gt_bboxes_3d=boxes, gt_labels_3d=np.array([0]))
    return result


class Loader(list):
    """A data loader of five frames in batches of two, the second with two versions of each."""

    batch_size = 2

    def __init__(self):
        pair = dict(inputs=dict(points=[torch.rand(50, 5), torch.rand(50, 5)]))
        last = dict(inputs=dict(points=[torch.rand(50, 5)]))
        super().__init__([pair, [pair, pair], last])
        self.dataset = Frames()


class Frames(list):
    """A data set of five frames."""

    metainfo = dict(classes=CLASSES)

    def __init__(self):
        super().__init__(range(5))


@pytest.mark.parametrize('with_truth', [True, False])
def test_hook_draws_the_same_frames_of_val_and_test(tmp_path, with_truth):
    hook = HOOKS.build(dict(type='BEVPictureHook', frames=3))
    runner = SimpleNamespace(
        work_dir=str(tmp_path), epoch=3, val_dataloader=Loader(), test_dataloader=Loader()
    )
    for index, batch in enumerate(Loader()):
        outputs = [sample(with_truth)] * (2 if index < 2 else 1)
        hook.after_val_iter(runner, index, batch, outputs)
        hook.after_test_iter(runner, index, batch, outputs)
    for run in ('val_epoch_3', 'test'):
        names = sorted(path.name for path in (tmp_path / 'pictures' / run).iterdir())
        assert names == ['frame_0000.png', 'frame_0001.png', 'frame_0003.png']


class IterLoop(IterBasedTrainLoop):
    """A loop without a runner."""

    def __init__(self):
        pass


def test_training_by_iterations_has_a_folder_for_each_validation(tmp_path):
    hook = HOOKS.build(dict(type='BEVPictureHook', frames=1))
    for iteration in (10, 20):
        runner = SimpleNamespace(
            work_dir=str(tmp_path),
            epoch=0,
            iter=iteration,
            val_dataloader=Loader(),
            _train_loop=IterLoop(),
        )
        hook.after_val_iter(runner, 0, Loader()[0], [sample(), sample()])
    names = sorted(path.name for path in (tmp_path / 'pictures').iterdir())
    assert names == ['val_iter_10', 'val_iter_20']


def test_boxes_of_a_camera_are_taken_into_the_lidar_frame():
    expected = LiDARInstance3DBoxes(torch.tensor(BOXES[:1], dtype=torch.float32) + 0.3)
    lidar2cam = np.eye(4)
    lidar2cam[:3] = [[0.6, -0.8, 0, 0.5], [0, 0, -1, 1.2], [0.8, 0.6, 0, -2]]
    inner = np.diag([400.0, 400, 1])
    inner[:2, 2] = 300, 200
    whole = np.eye(4)
    whole[:3, :3] = inner
    seen = expected.convert_to(Box3DMode.CAM, lidar2cam, correct_yaw=True)
    for meta in (
        dict(lidar2cam=lidar2cam),
        dict(lidar2cam=[lidar2cam]),
        dict(lidar2img=whole @ lidar2cam, cam2img=inner),
    ):
        found = lidar_boxes(seen, meta)
        turns = (found[:, 6] - expected.tensor[:, 6]) / (2 * np.pi)
        assert torch.allclose(turns, turns.round(), atol=1e-5)
        torch.testing.assert_close(found[:, :6], expected.tensor[:, :6], rtol=1e-4, atol=1e-4)
    assert torch.equal(lidar_boxes(expected, {}), expected.tensor)
    # The camera's own frame where nothing is known of the LiDAR: ahead is ahead.
    ahead = CameraInstance3DBoxes(torch.tensor([[0.0, 1, 9, 2, 2, 2, 0]]))
    assert torch.allclose(lidar_boxes(ahead, {})[0, :3], torch.tensor([9.0, 0, -1]), atol=1e-6)
    with pytest.raises(ValueError, match='one camera, not to 6'):
        lidar_boxes(ahead, dict(lidar2cam=np.stack([lidar2cam] * 6)))


@pytest.mark.parametrize(
    'result',
    [
        Det3DDataSample(),  # segmentation
        Det3DDataSample(pred_instances_3d=InstanceData(labels_3d=torch.zeros(1))),
        Det3DDataSample(pred_instances_3d=InstanceData(bboxes_3d=[1, 2])),
    ],
)
@pytest.mark.parametrize('kind', ['BEVPictureHook', 'CameraPictureHook'])
def test_what_cannot_be_drawn_is_told_once(tmp_path, monkeypatch, result, kind):
    told = []
    monkeypatch.setattr('mxd_mmplugin.engine.bev_hook.print_log', lambda *a, **k: told.append(a[0]))
    hook = HOOKS.build(dict(type=kind, frames=5))
    runner = SimpleNamespace(work_dir=str(tmp_path), epoch=0, val_dataloader=Loader())
    for index, batch in enumerate(Loader()):
        hook.after_val_iter(runner, index, batch, [result] * (2 if index < 2 else 1))
    assert len(told) == 1 and told[0].startswith(f'{kind} draws no picture: ')


def test_cameras_without_images_are_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr('mxd_mmplugin.engine.bev_hook.print_log', lambda *a, **k: told.append(a[0]))
    hook = HOOKS.build(dict(type='CameraPictureHook', frames=5))
    runner = SimpleNamespace(work_dir=str(tmp_path), epoch=0, val_dataloader=Loader())
    hook.after_val_iter(runner, 0, Loader()[0], [sample(), sample()])
    assert len(told) == 1 and 'no images (img)' in told[0]


@pytest.mark.parametrize(
    'arguments, message',
    [(dict(frames=0), 'frames is 0'), (dict(view_range=(5, 0, 5, 1)), 'view_range is')],
)
def test_hook_names_a_wrong_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='BEVPictureHook', **arguments))
