"""Pictures of the boxes in the camera images, of plain arrays and by the hook."""

from types import SimpleNamespace

import matplotlib.image
import numpy as np
import torch
from mmdet3d.structures import (
    Box3DMode,
    CameraInstance3DBoxes,
    Det3DDataSample,
    LiDARInstance3DBoxes,
)
from mmengine.registry import HOOKS
from mmengine.structures import InstanceData

from mxd_mmplugin.engine.bev import PALETTE, TRUTH
from mxd_mmplugin.engine.bev_hook import image_matrices
from mxd_mmplugin.engine.cameras import ORDER, camera_name, draw_cameras
from tests.engine.test_bev_hook import rgb

# Looks along x: image x is to -y, image y to -z; 100 x 160 pixels.
LOOK = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
PIXELS = np.array([[80, 0, 80, 0], [0, 80, 50, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
# 2 m long, wide and high, its middle 8 m before the camera: its front face is 7 m away.
BOX = np.array([[8.0, 0, -1, 2, 2, 2, 0]])


def has_color(picture, color, x, y, reach=4):
    """Whether a colour is near pixel x, y of an image of 100 x 160."""
    row, column = int((y + 0.5) / 100 * picture.shape[0]), int((x + 0.5) / 160 * picture.shape[1])
    patch = picture[
        max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1, :3
    ]
    return bool((np.abs(patch - rgb(color)).max(axis=-1) < 0.1).any())


def test_edges_are_where_the_camera_sees_them(tmp_path):
    images = np.full((1, 100, 160, 3), 240.0)
    path = draw_cameras(
        tmp_path / 'new' / 'a.png', images, [PIXELS @ LOOK], gt_boxes=BOX, gt_labels=[0]
    )
    picture = matplotlib.image.imread(path)
    for distance in (7, 9):  # the near and the far face
        half = 80 / distance
        for x, y in ((80 - half, 50), (80 + half, 50), (80, 50 - half), (80, 50 + half)):
            assert has_color(picture, TRUTH, x, y)
    assert not has_color(picture, TRUTH, 20, 50) and not has_color(picture, TRUTH, 80, 80)


def test_tracks_have_colours_and_numbers(tmp_path):
    images = np.full((1, 100, 160, 3), 240.0)
    drawn = dict(boxes=BOX, labels=[0], scores=[0.9])
    pictures = []
    for tracks in ((), [5], [5 + len(PALETTE)]):
        draw_cameras(tmp_path / 'a.png', images, [PIXELS @ LOOK], **drawn, tracks=tracks)
        pictures.append(matplotlib.image.imread(tmp_path / 'a.png'))
    edge = 80 - 80 / 7, 50
    assert [has_color(x, PALETTE[0], *edge) for x in pictures] == [True, False, False]
    assert [has_color(x, PALETTE[5], *edge) for x in pictures] == [False, True, True]
    assert not np.array_equal(pictures[1], pictures[2])  # another number in the same colour


def test_boxes_behind_the_camera_and_low_scores_are_not_drawn(tmp_path):
    images = np.full((1, 100, 160, 3), 240.0)
    behind = BOX * [-1, 1, 1, 1, 1, 1, 1]
    around = BOX * [0, 1, 1, 3, 3, 3, 1]  # its edges go from behind the camera to before it
    draw_cameras(
        tmp_path / 'a.png',
        images,
        [PIXELS @ LOOK],
        gt_boxes=behind,
        gt_labels=[0],
        boxes=np.concatenate([BOX, behind]),
        labels=[0, 1],
        scores=[0.1, 0.9],
    )
    picture = matplotlib.image.imread(tmp_path / 'a.png')
    assert not any(
        (np.abs(picture[..., :3] - rgb(c)).max(-1) < 0.1).any() for c in (TRUTH, *PALETTE[:2])
    )
    arguments = dict(boxes=around, labels=[0], scores=[0.9])
    draw_cameras(tmp_path / 'b.png', images, [PIXELS @ LOOK], **arguments)
    picture = matplotlib.image.imread(tmp_path / 'b.png')
    assert (np.abs(picture[..., :3] - rgb(PALETTE[0])).max(-1) < 0.1).any()


def test_matrices_of_changed_images():
    move = np.eye(4)
    move[:2, :2], move[:2, 3] = [[0, 0.5], [-0.5, 0]], [7, -3]
    (matrix,) = image_matrices(dict(lidar2img=[PIXELS @ LOOK], img_aug_matrix=[move]))
    point = np.array([10, 2, -1, 1.0])
    x, y, depth, _ = PIXELS @ LOOK @ point
    u, v, same, _ = matrix @ point
    assert depth == same == 10
    assert np.allclose([u / depth, v / depth], move[:2, :2] @ [x / depth, y / depth] + move[:2, 3])
    assert np.array_equal(image_matrices(dict(lidar2img=[LOOK])), [LOOK])


def test_hook_draws_the_six_images(tmp_path):
    paths = [f'samples/CAM_{side}/n015__CAM_{side}__153.jpg' for side in sorted(ORDER)]
    assert [camera_name(path) for path in paths] == sorted(ORDER)
    assert camera_name('folder/left.png') == 'left'
    result = Det3DDataSample(metainfo=dict(lidar2img=np.stack([PIXELS @ LOOK] * 6), img_path=paths))
    result.pred_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.from_numpy(BOX)),
        labels_3d=torch.tensor([1]),
        scores_3d=torch.tensor([0.8]),
    )
    result.eval_ann_info = None
    batch = dict(inputs=dict(points=[torch.rand(9, 5)], img=[torch.full((6, 3, 100, 160), 200)]))

    class Loader(list):
        batch_size = 1

    loader = Loader([batch])
    loader.dataset = type('Frames', (list,), dict(metainfo=dict(classes=['car', 'bus'])))([0])
    hook = HOOKS.build(dict(type='CameraPictureHook', frames=1))
    runner = SimpleNamespace(work_dir=str(tmp_path), epoch=2, val_dataloader=loader)
    hook.after_val_iter(runner, 0, batch, [result])
    picture = matplotlib.image.imread(
        tmp_path / 'pictures' / 'val_epoch_2' / 'frame_0000_cameras.png'
    )
    assert abs(picture.shape[1] / picture.shape[0] - 3 * 160 / (2 * 100)) < 0.02
    assert (np.abs(picture[..., :3] - rgb(PALETTE[1])).max(-1) < 0.1).any()


def test_a_model_of_one_camera(tmp_path):
    """[3, H, W] images, and boxes of the camera: where the same box of the LiDAR is."""
    meta = dict(cam2img=PIXELS[:3, :3].tolist(), img_path='CAM_FRONT/0.jpg')
    boxes = LiDARInstance3DBoxes(torch.from_numpy(BOX)).convert_to(Box3DMode.CAM, correct_yaw=True)
    assert isinstance(boxes, CameraInstance3DBoxes)
    result = Det3DDataSample(metainfo=meta)
    result.pred_instances_3d = InstanceData(
        bboxes_3d=boxes, labels_3d=torch.tensor([1]), scores_3d=torch.tensor([0.8])
    )
    batch = dict(inputs=dict(img=[torch.full((3, 100, 160), 200)]))

    class Loader(list):
        batch_size = 1

    loader = Loader([batch])
    loader.dataset = type('Frames', (list,), dict(metainfo=dict(classes=['car', 'bus'])))([0])
    hook = HOOKS.build(dict(type='CameraPictureHook', frames=1))
    runner = SimpleNamespace(work_dir=str(tmp_path), epoch=2, val_dataloader=loader)
    hook.after_val_iter(runner, 0, batch, [result])
    picture = matplotlib.image.imread(
        tmp_path / 'pictures' / 'val_epoch_2' / 'frame_0000_cameras.png'
    )
    half = 80 / 7
    assert has_color(picture, PALETTE[1], 80 - half, 50)
    assert has_color(picture, PALETTE[1], 80, 50 + half)
