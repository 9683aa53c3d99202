"""Augmentation that tells the view transform what it did: img_aug_matrix and lidar_aug_matrix."""

from collections.abc import Callable, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import GlobalRotScaleTrans

from ...datasets.multi_view import transform_image
from ...ops.sizes import takes_whole_numbers


class ImageAug3D(BaseTransform):
    """Resize, crop, flip and rotate each image, and keep the map of its pixels.

    Args:
        final_dim (Sequence[int]): height and width of the result.
        resize_lim (Sequence[float]): least and greatest scale; the mean in testing.
        bot_pct_lim (Sequence[float]): share of the height to cut off below, least and greatest.
        rot_lim (Sequence[float]): least and greatest angle, degrees.
        rand_flip (bool): flip half of the images.
        is_train (bool): draw at random.
    """

    @takes_whole_numbers
    def __init__(
        self,
        final_dim: Sequence[int],
        resize_lim: Sequence[float],
        bot_pct_lim: Sequence[float],
        rot_lim: Sequence[float],
        rand_flip: bool,
        is_train: bool,
    ) -> None:
        self.final_dim = final_dim
        self.resize_lim = resize_lim
        self.bot_pct_lim = bot_pct_lim
        self.rot_lim = rot_lim
        self.rand_flip = rand_flip
        self.is_train = is_train

    def sample_augmentation(self, results: dict) -> tuple:
        """Scale, scaled width and height, crop (left, top, right, bottom), flip, and angle of an image."""
        # As earlier transforms left the images.
        shape = results['img'][0].shape if 'img' in results else results['ori_shape']
        height, width = shape[:2]
        rows, columns = self.final_dim
        draw: Callable[..., float] = (
            np.random.uniform if self.is_train else lambda *limits: np.mean(limits)
        )
        resize = draw(*self.resize_lim)
        size = int(width * resize), int(height * resize)
        top = int((1 - draw(*self.bot_pct_lim)) * size[1]) - rows
        left = int(draw(0, max(0, size[0] - columns)))
        flip = bool(self.is_train and self.rand_flip and np.random.choice([0, 1]))
        rotate = draw(*self.rot_lim) if self.is_train else 0
        return resize, size, (left, top, left + columns, top + rows), flip, rotate

    def transform(self, results: dict) -> dict:
        """Change `img` and img_shape, and add `img_aug_matrix`, a list of [4, 4], one for each image."""
        changed = [
            transform_image(img, *self.sample_augmentation(results)) for img in results['img']
        ]
        results['img'], results['img_aug_matrix'] = map(list, zip(*changed))
        results['img_shape'] = results['img'][0].shape[:2]
        return results


def _augment_lidar(results: dict, matrix: np.ndarray) -> None:
    """Put a map of the points [4, 4] after those in `lidar_aug_matrix`."""
    results['lidar_aug_matrix'] = matrix @ results.get('lidar_aug_matrix', np.eye(4))


class BEVFusionRandomFlip3D(BaseTransform):
    """Flip the points, the boxes and the map of masks along y and along x, each half of the time."""

    def transform(self, results: dict) -> dict:
        """Flip, and note it in `lidar_aug_matrix`."""
        horizontal, vertical = np.random.choice([0, 1]), np.random.choice([0, 1])
        for flip, direction, axis in ((horizontal, 'horizontal', 2), (vertical, 'vertical', 1)):
            if not flip:
                continue
            for name in {'points', 'gt_bboxes_3d'} & results.keys():
                results[name].flip(direction)
            if 'gt_masks_bev' in results:
                results['gt_masks_bev'] = np.flip(results['gt_masks_bev'], axis).copy()
        signs = [-1.0 if vertical else 1.0, -1.0 if horizontal else 1.0, 1.0, 1.0]
        _augment_lidar(results, np.diag(signs))
        return results


class BEVFusionGlobalRotScaleTrans(GlobalRotScaleTrans):
    """mmdet3d's, in the order rotation, translation, scaling; arguments: see `GlobalRotScaleTrans`."""

    def transform(self, input_dict: dict) -> dict:
        """Rotate, move and scale the points and the boxes, and note it in `lidar_aug_matrix`."""
        self._rot_bbox_points(input_dict)
        if 'pcd_scale_factor' not in input_dict:
            self._random_scale(input_dict)
        self._trans_bbox_points(input_dict)
        self._scale_bbox_points(input_dict)
        input_dict.setdefault('transformation_3d_flow', []).extend(['R', 'T', 'S'])
        matrix, scale = np.eye(4), input_dict['pcd_scale_factor']
        matrix[:3, :3] = np.asarray(input_dict['pcd_rotation']).T * scale
        matrix[:3, 3] = np.asarray(input_dict['pcd_trans']) * scale
        _augment_lidar(input_dict, matrix)
        return input_dict
