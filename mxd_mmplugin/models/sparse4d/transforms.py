"""Transforms of six images and the boxes in them; all keep `lidar2img`, the matrices of the cameras, right.

The first loads the images: `BEVLoadMultiViewImageFromFiles`, channels in the order R, G, B. The data preprocessor
normalises them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Optional

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData

from ...datasets.multi_view import transform_image
from ...ops.sizes import takes_whole_numbers, wholes

META_KEYS = (
    *('sample_idx', 'token', 'sequence', 'timestamp', 'lidar2global', 'lidar2img', 'img_path'),
    *('lidar_path', 'box_type_3d', 'box_mode_3d', 'ego2global'),
)
INSTANCE_KEYS = 'gt_bboxes_3d', 'gt_labels_3d', 'gt_instances_id'


def draw_augmentation(conf: Optional[dict], train: bool) -> Optional[dict]:
    """How the images and the scene are changed, the same for all frames of a sequence.

    Args:
        conf (dict, optional): H, W of the images; final_dim, height and width of the result; resize_lim, bot_pct_lim
            (share of the height cut off below), rot_lim (degrees), least and greatest; rand_flip; rot3d_range
            (radians by which the scene is turned).
        train (bool): draw at random; else the middle of everything.

    Returns:
        dict: size (H, W), resize, crop (left, top, right, bottom), flip, rotate, rotate_3d; None without conf.
    """
    if conf is None:
        return None
    height, width = wholes('H and W', (conf['H'], conf['W']), 1)
    rows, columns = wholes('final_dim', conf['final_dim'], 1)
    if train:
        resize, below = (np.random.uniform(*conf[name]) for name in ('resize_lim', 'bot_pct_lim'))
        side = np.random.uniform()
        flip = bool(conf['rand_flip'] and np.random.choice([0, 1]))
        rotate, rotate_3d = (
            np.random.uniform(*conf.get(name, (0.0, 0.0))) for name in ('rot_lim', 'rot3d_range')
        )
    else:
        resize, below = max(rows / height, columns / width), np.mean(conf['bot_pct_lim'])
        side, flip, rotate, rotate_3d = 0.5, False, 0.0, 0.0
    left = int(side * max(0, int(width * resize) - columns))
    top = int((1 - below) * int(height * resize)) - rows
    crop = left, top, left + columns, top + rows
    return dict(
        size=(height, width),
        resize=resize,
        crop=crop,
        flip=flip,
        rotate=rotate,
        rotate_3d=rotate_3d,
    )


def _change_pixels(results: dict, matrix: np.ndarray) -> None:
    """Put a map of x, y, 1 [3, 3] after the cameras' matrices."""
    full = np.eye(4)
    full[:3, :3] = matrix
    results['lidar2img'] = full @ np.asarray(results['lidar2img'], dtype=np.float64)


class ResizeCropFlipImage(BaseTransform):
    """Resize, crop, flip and rotate all images alike, as `aug_config` says."""

    def transform(self, results: dict) -> dict:
        """Change img, lidar2img, img_shape, and cam2img by the scale alone, which is that of the depth."""
        config = results.get('aug_config')
        if config is None:
            return results
        resize, crop = config['resize'], config['crop']
        height, width = results['img'][0].shape[:2]
        if config.get('size', (height, width)) != (height, width):
            raise ValueError(
                f'H and W of data_aug_conf must be the size of the images, {(height, width)}, was {config["size"]}'
            )
        size = int(width * resize), int(height * resize)
        changed = [
            transform_image(img, resize, size, crop, config['flip'], config['rotate'])
            for img in results['img']
        ]
        results['img'] = [img for img, _ in changed]
        move = changed[0][1]
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = move[:2, :2], move[:2, 3]
        _change_pixels(results, matrix)
        results['cam2img'] = (
            np.asarray(results['cam2img']) * np.array([resize, resize, 1, 1])[:, None]
        )
        results['img_shape'] = results['img'][0].shape[:2]
        return results


class CropMultiViewImage(BaseTransform):
    """Cut all images alike.

    Args:
        crop_range (Sequence[int]): top, bottom, left, right, pixels.
    """

    @takes_whole_numbers
    def __init__(self, crop_range: Sequence[int]) -> None:
        self.crop_range = crop_range

    def transform(self, results: dict) -> dict:
        """Change img, lidar2img and img_shape."""
        top, bottom, left, right = self.crop_range
        results['img'] = [img[top:bottom, left:right] for img in results['img']]
        _change_pixels(results, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]))
        results['img_shape'] = results['img'][0].shape[:2]
        return results


class BBoxRotation(BaseTransform):
    """Turn the scene around the LiDAR's z axis by `rotate_3d` of `aug_config`."""

    def transform(self, results: dict) -> dict:
        """Change gt_bboxes_3d, lidar2img and lidar2global."""
        angle = results['aug_config']['rotate_3d']
        cos, sin = np.cos(angle), np.sin(angle)
        back = np.eye(4)
        back[:2, :2] = [[cos, sin], [-sin, cos]]
        for name in ('lidar2img', 'lidar2global'):
            results[name] = np.asarray(results[name], dtype=np.float64) @ back
        if 'gt_bboxes_3d' in results:
            results['gt_bboxes_3d'].rotate(angle)
        return results


class PhotoMetricDistortionMultiViewImage(BaseTransform):
    """Change brightness, contrast, saturation, hue and the order of the channels, each half of the time.

    Each image is changed in its own way. The contrast comes before the colours or after them.

    Args:
        brightness_delta (float): greatest change of the brightness, of 255.
        contrast_range, saturation_range (Sequence[float]): least and greatest factor.
        hue_delta (float): greatest change of the hue, degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def _distort(self, img: np.ndarray) -> np.ndarray:
        """An image, float32 [H, W, 3], R, G, B from 0 to 255, where the result may leave this range."""
        draw: Callable[..., float] = np.random.uniform
        coin = functools.partial(np.random.randint, 2)
        if coin():
            img = img + np.float32(draw(-self.brightness_delta, self.brightness_delta))
        contrast_first = coin()
        contrast = np.float32(draw(*self.contrast_range)) if coin() else np.float32(1)
        if contrast_first:
            img = img * contrast
        hsv = mmcv.bgr2hsv(np.ascontiguousarray(img[..., ::-1]))
        if coin():
            hsv[..., 1] *= draw(*self.saturation_range)
        if coin():
            hsv[..., 0] = (hsv[..., 0] + draw(-self.hue_delta, self.hue_delta)) % 360
        img = mmcv.hsv2bgr(hsv)[..., ::-1]
        if not contrast_first:
            img = img * contrast
        if coin():
            img = img[..., np.random.permutation(3)]
        return np.ascontiguousarray(img)

    def transform(self, results: dict) -> dict:
        """Change img."""
        results['img'] = [self._distort(img.astype(np.float32)) for img in results['img']]
        return results


class MultiScaleDepthMapGenerator(BaseTransform):
    """Depth that the LiDAR measured, for each pixel of the feature maps; what changes the images comes before it.

    Args:
        downsample (Sequence[int]): of each map, the finest first.
        max_depth (float): greatest depth, metres; what is further gets it.
    """

    @takes_whole_numbers
    def __init__(self, downsample: Sequence[int], max_depth: float = 60) -> None:
        self.downsample = downsample
        self.max_depth = max_depth

    def transform(self, results: dict) -> dict:
        """Add gt_depth, float32 [N, pixels of all maps]; -1 where no point is."""
        points = np.asarray(results['points'].tensor[:, :3], dtype=np.float64)
        height, width = (results['img'][0].shape if 'img' in results else results['img_shape'])[:2]
        maps = []
        for matrix in np.asarray(results['lidar2img'], dtype=np.float64):
            seen = points @ matrix[:3, :3].T + matrix[:3, 3]
            seen = seen[seen[:, 2] >= 0.1]
            pixels, depth = np.round(seen[:, :2] / seen[:, 2:]), seen[:, 2]
            inside = ((pixels >= 0) & (pixels < [width, height])).all(1)
            order = np.argsort(-depth[inside])  # the nearest one comes last, and stays
            x, y = pixels[inside][order].astype(int).T
            depth = np.minimum(depth[inside][order], self.max_depth)
            row = []
            for factor in self.downsample:
                # Convolutions round up.
                measured = np.full((-(-height // factor), -(-width // factor)), -1, np.float32)
                measured[y // factor, x // factor] = depth
                row.append(measured.ravel())
            maps.append(np.concatenate(row))
        results['gt_depth'] = np.stack(maps)
        return results


def _keep_instances(results: dict, keep: np.ndarray) -> dict:
    """Leave out the objects that `keep` is False for."""
    for name in INSTANCE_KEYS:
        if name in results:
            results[name] = results[name][keep]
    return results


class CircleObjectRangeFilter(BaseTransform):
    """Leave out objects that are too far away.

    Args:
        class_dist_thred (Sequence[float]): greatest distance of each class, metres.
    """

    def __init__(self, class_dist_thred: Sequence[float]) -> None:
        self.class_dist_thred = np.asarray(class_dist_thred, dtype=np.float32)

    def transform(self, results: dict) -> dict:
        """Filter; objects of no class are left out too."""
        labels = results['gt_labels_3d']
        distance = results['gt_bboxes_3d'].tensor[:, :2].norm(dim=1).numpy()
        known = (labels >= 0) & (labels < len(self.class_dist_thred))
        return _keep_instances(
            results, known & (distance <= self.class_dist_thred[np.where(known, labels, 0)])
        )


class InstanceNameFilter(BaseTransform):
    """Leave out objects of other classes.

    Args:
        classes (Sequence[str]): the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def transform(self, results: dict) -> dict:
        """Filter."""
        labels = results['gt_labels_3d']
        return _keep_instances(results, (labels >= 0) & (labels < len(self.classes)))


class NuScenesSparse4DAdaptor(BaseTransform):
    """Pack a frame for the model."""

    def transform(self, results: dict) -> dict:
        """Pack.

        Returns:
            dict: inputs: img, float32 or uint8 [N, 3, H, W]; data_samples with projection_mat [N, 4, 4],
            image_wh [N, 2], focal [N], and gt_instances_3d (bboxes_3d, labels_3d, instances_id), gt_depth and
            eval_ann_info where they are known.
        """
        images = np.ascontiguousarray(np.stack(results['img']).transpose(0, 3, 1, 2))
        sample = Det3DDataSample(
            metainfo={name: results[name] for name in META_KEYS if name in results}
        )
        matrices = np.asarray(results['lidar2img'])
        height, width = images.shape[-2:]
        sample.set_metainfo(
            dict(
                projection_mat=matrices.astype(np.float32),
                image_wh=np.tile(np.array([width, height], np.float32), (len(images), 1)),
                focal=np.array([matrix[0][0] for matrix in results['cam2img']], np.float32),
            )
        )
        if 'gt_bboxes_3d' in results:
            boxes = results['gt_bboxes_3d'].clone()
            boxes.limit_yaw(offset=0.5, period=2 * np.pi)
            truth = InstanceData(
                bboxes_3d=boxes,
                labels_3d=torch.from_numpy(np.asarray(results['gt_labels_3d'], np.int64)),
            )
            if 'gt_instances_id' in results:
                truth.instances_id = torch.from_numpy(
                    np.asarray(results['gt_instances_id'], np.int64)
                )
            sample.gt_instances_3d = truth
        if 'gt_depth' in results:
            sample.gt_depth = torch.from_numpy(results['gt_depth'])
        if 'eval_ann_info' in results:
            sample.eval_ann_info = results['eval_ann_info']
        return dict(inputs=dict(img=torch.from_numpy(images)), data_samples=sample)
