"""BEVFusion's loading and augmentation: the matrices say what happened to the pixels and the points."""

import numpy as np
import pytest
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints
from PIL import Image

from mxd_mmplugin.models.bevfusion import GridMask, ImageAug3D


def picture(dots, shape=(180, 320)):
    """Black, with white dots of 5 x 5 pixels at (x, y)."""
    img = np.zeros((*shape, 3), np.float32)
    for x, y in dots:
        img[y - 2 : y + 3, x - 2 : x + 3] = 255
    return img


@pytest.mark.parametrize('seed', range(6))
def test_image_matrix_follows_the_pixels(seed):
    np.random.seed(seed)
    augment = ImageAug3D([96, 176], [0.6, 0.9], [0.0, 0.1], [-8, 8], rand_flip=True, is_train=True)
    dots = [(120, 120), (160, 100), (200, 140), (150, 135)]
    results = dict(img=[picture([dot]) for dot in dots], ori_shape=(180, 320))
    augment(results)
    assert len(results['img']) == len(results['img_aug_matrix']) == 4
    found = 0
    for (x, y), img, matrix in zip(dots, results['img'], results['img_aug_matrix']):
        assert img.shape == (96, 176, 3) and img.dtype == matrix.dtype == np.float32
        u, v, depth, one = matrix @ [x + 0.5, y + 0.5, 7, 1]
        assert (depth, one) == (7, 1)
        if not (4 < u < 172 and 4 < v < 92):
            continue  # cropped
        found += 1
        rows, columns = np.nonzero(img[..., 0] > 100)
        # The scaled size is a whole number, which moves a pixel by up to one; the turn has no half pixels.
        assert abs(columns.mean() + 0.5 - u) < 1.5 and abs(rows.mean() + 0.5 - v) < 1.5
    assert found >= 2
    # Each image is drawn anew.
    assert not np.array_equal(*results['img_aug_matrix'][:2])


def test_image_augmentation_in_testing_is_the_mean():
    augment = ImageAug3D([96, 176], [0.5, 0.7], [0, 0], [-5, 5], rand_flip=True, is_train=False)
    resize, size, crop, flip, rotate = augment.sample_augmentation(dict(ori_shape=(180, 320)))
    assert (resize, size, flip, rotate) == (0.6, (192, 108), False, 0)
    assert crop == (8, 12, 184, 108)


@pytest.mark.parametrize('seed', range(4))
def test_lidar_matrix_follows_the_points(seed):
    np.random.seed(seed)
    points, boxes = torch.randn(50, 5) * 10, torch.rand(6, 9) * 5 + 0.5
    results = dict(
        points=LiDARPoints(points.clone(), points_dim=5),
        gt_bboxes_3d=LiDARInstance3DBoxes(boxes.clone(), box_dim=9),
        gt_masks_bev=np.arange(24).reshape(1, 4, 6),
    )
    spread = dict(rot_range=[-0.8, 0.8], scale_ratio_range=[0.9, 1.1], translation_std=[0.5] * 3)
    for transform in (
        dict(type='BEVFusionGlobalRotScaleTrans', **spread),
        dict(type='BEVFusionRandomFlip3D'),
        dict(type='BEVFusionGlobalRotScaleTrans', **spread),
    ):
        results = TRANSFORMS.build(transform)(results)
        results.pop('pcd_scale_factor', None)  # or the second one would scale as the first
    matrix = torch.from_numpy(results['lidar_aug_matrix']).float()
    moved = points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    assert torch.allclose(results['points'].tensor[:, :3], moved, atol=1e-4)
    assert torch.equal(results['points'].tensor[:, 3:], points[:, 3:])
    centers = LiDARInstance3DBoxes(boxes, box_dim=9).gravity_center
    moved = centers @ matrix[:3, :3].T + matrix[:3, 3]
    assert torch.allclose(results['gt_bboxes_3d'].gravity_center, moved, atol=1e-4)
    assert sorted(results['gt_masks_bev'].flatten()) == list(range(24))
    assert results['transformation_3d_flow'] == ['R', 'T', 'S'] * 2


def test_flips_of_both_kinds_are_drawn():
    seen = set()
    for seed in range(20):
        np.random.seed(seed)
        masks = np.arange(6).reshape(1, 2, 3)
        results = TRANSFORMS.build(dict(type='BEVFusionRandomFlip3D'))(dict(gt_masks_bev=masks))
        x, y, z, _ = np.diag(results['lidar_aug_matrix'])
        expected = masks[:, :: int(x), :: int(y)]
        assert z == 1 and np.array_equal(results['gt_masks_bev'], expected)
        seen.add((x, y))
    assert len(seen) == 4


def test_grid_mask():
    def apply(**options):
        np.random.seed(4)
        mask = GridMask(**dict(dict(use_h=True, use_w=True, max_epoch=6), **options))
        return mask(dict(img=[np.full((40, 60, 3), 9.0, np.float32)] * 2))['img']

    holes, stripes = apply(mode=0), apply(mode=1)
    assert np.array_equal(holes[0], holes[1]) and {*np.unique(holes[0])} == {0, 9}
    assert np.array_equal(holes[0] + stripes[0], np.full((40, 60, 3), 9.0))
    rows = apply(mode=1, use_w=False)[0]
    assert (rows == rows[:, :1]).all() and not (rows == rows[:1]).all()
    assert (apply(prob=0.0)[0] == 9).all()
    assert len(np.unique(apply(offset=True)[0])) > 100
    assert apply(rotate=90, ratio=1)[0].shape == (40, 60, 3)
    mask = GridMask(True, True, max_epoch=6, prob=0.6)
    mask.set_epoch(3)
    assert mask.prob == pytest.approx(0.3)
    fixed = GridMask(True, True, max_epoch=6, prob=0.6, fixed_prob=True)
    fixed.set_epoch(3)
    assert fixed.prob == 0.6


def test_loading_gives_rgb_and_consistent_matrices(tmp_path):
    angle, shift = 0.7, np.array([0.3, -1.0, 2.0])
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [0, 0, -1],
        [np.sin(angle), np.cos(angle), 0],
    ]
    lidar2cam[:3, 3] = shift
    cameras = {}
    for name, width, color in (('CAM_FRONT', 8, (200, 100, 0)), ('CAM_BACK', 6, (0, 50, 250))):
        Image.new('RGB', (width, 4), color).save(tmp_path / f'{name}.png')
        cameras[name] = dict(
            img_path=str(tmp_path / f'{name}.png'),
            lidar2cam=lidar2cam.tolist(),
            cam2img=[[100, 0, 4], [0, 100, 2], [0, 0, 1]],
        )
    load = TRANSFORMS.build(
        dict(type='BEVLoadMultiViewImageFromFiles', to_float32=True, color_type='color')
    )
    results = load(dict(images=cameras))
    front, back = results['img']
    assert front.dtype == np.float32 and (front == [200, 100, 0]).all()
    assert (back[:, :6] == [0, 50, 250]).all() and not back[:, 6:].any()
    assert results['ori_shape'] == (4, 8) and results['scale_factor'] == 1.0
    for name in ('cam2img', 'ori_cam2img', 'lidar2cam', 'cam2lidar', 'lidar2img'):
        assert results[name].shape == (2, 4, 4)
    assert np.allclose(results['cam2lidar'] @ results['lidar2cam'], np.eye(4), atol=1e-6)
    assert np.allclose(results['cam2img'] @ results['lidar2cam'], results['lidar2img'])
    assert results['img_path'] == [camera['img_path'] for camera in cameras.values()]
    with pytest.raises(ValueError, match='num_ref_frames must be -1'):
        TRANSFORMS.build(dict(type='BEVLoadMultiViewImageFromFiles', num_ref_frames=2))
