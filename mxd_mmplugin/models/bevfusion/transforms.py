"""Loading and augmentation that tell the view transform what they did: img_aug_matrix and lidar_aug_matrix."""

from collections.abc import Sequence

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import GlobalRotScaleTrans, LoadMultiViewImageFromFiles
from mmengine.fileio import get
from PIL import Image


class BEVLoadMultiViewImageFromFiles(LoadMultiViewImageFromFiles):
    """Load the images of a frame, the channels in the order R, G, B, with the matrices of the view transform.

    Args:
        to_float32, color_type, backend_args, num_views, set_default_scale: see `LoadMultiViewImageFromFiles`.
        num_ref_frames (int): frames to load besides; -1, as the info files have one.
        test_mode (bool): not used.
    """

    def __init__(self, num_ref_frames: int = -1, **kwargs):
        if num_ref_frames > 0:
            raise ValueError(
                f'num_ref_frames must be -1: one frame is loaded, was {num_ref_frames}'
            )
        super().__init__(num_ref_frames=num_ref_frames, **kwargs)

    def _load(self, path: str) -> np.ndarray:
        data = get(path, backend_args=self.backend_args)
        img = mmcv.imfrombytes(data, flag=self.color_type, backend='pillow', channel_order='rgb')
        return img.astype(np.float32) if self.to_float32 else img

    def transform(self, results: dict) -> dict:
        """Load the images.

        Args:
            results (dict): `images`: camera -> img_path, lidar2cam, cam2img.

        Returns:
            dict: with img, a list of N arrays [H, W, 3] of one size (smaller ones padded with zeros);
            cam2img, ori_cam2img, lidar2cam, cam2lidar, lidar2img, [N, 4, 4]; img_path, img_shape, ori_shape,
            pad_shape, scale_factor, img_norm_cfg, num_views, num_ref_frames, filename.
        """
        cameras = list(results['images'].values())
        paths = [camera['img_path'] for camera in cameras]
        imgs = [self._load(path) for path in paths]
        shape = tuple(np.max([img.shape[:2] for img in imgs], axis=0).tolist())
        imgs = [img if img.shape[:2] == shape else mmcv.impad(img, shape=shape) for img in imgs]

        lidar2cam = np.array([camera['lidar2cam'] for camera in cameras], dtype=np.float32)
        cam2img = np.tile(np.eye(4, dtype=np.float32), (len(cameras), 1, 1))
        cam2img[:, :3, :3] = [np.asarray(camera['cam2img'])[:3, :3] for camera in cameras]
        # A rotation's inverse is its transpose.
        cam2lidar = np.tile(np.eye(4), (len(cameras), 1, 1))
        cam2lidar[:, :3, :3] = lidar2cam[:, :3, :3].transpose(0, 2, 1)
        cam2lidar[:, :3, 3:] = -cam2lidar[:, :3, :3] @ lidar2cam[:, :3, 3:]

        channels = imgs[0].shape[2] if imgs[0].ndim == 3 else 1
        norm = dict(mean=np.zeros(channels, np.float32), std=np.ones(channels, np.float32))
        results.update(
            img=imgs,
            img_path=paths,
            filename=paths,
            img_shape=shape,
            ori_shape=shape,
            pad_shape=shape,
            img_norm_cfg=dict(norm, to_rgb=False),
            cam2img=cam2img,
            ori_cam2img=cam2img.copy(),
            lidar2cam=lidar2cam,
            cam2lidar=cam2lidar,
            lidar2img=cam2img @ lidar2cam,
            num_views=self.num_views,
            num_ref_frames=self.num_ref_frames,
        )
        if self.set_default_scale:
            results['scale_factor'] = 1.0
        return results


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

    def __init__(
        self,
        final_dim: Sequence[int],
        resize_lim: Sequence[float],
        bot_pct_lim: Sequence[float],
        rot_lim: Sequence[float],
        rand_flip: bool,
        is_train: bool,
    ):
        self.final_dim = final_dim
        self.resize_lim = resize_lim
        self.bot_pct_lim = bot_pct_lim
        self.rot_lim = rot_lim
        self.rand_flip = rand_flip
        self.is_train = is_train

    def sample_augmentation(self, results: dict) -> tuple:
        """Scale, scaled width and height, crop (left, top, right, bottom), flip, and angle of an image."""
        height, width = results['ori_shape']
        rows, columns = self.final_dim
        draw = np.random.uniform if self.is_train else lambda *limits: np.mean(limits)
        resize = draw(*self.resize_lim)
        size = int(width * resize), int(height * resize)
        top = int((1 - draw(*self.bot_pct_lim)) * size[1]) - rows
        left = int(draw(0, max(0, size[0] - columns)))
        flip = bool(self.is_train and self.rand_flip and np.random.choice([0, 1]))
        rotate = draw(*self.rot_lim) if self.is_train else 0
        return resize, size, (left, top, left + columns, top + rows), flip, rotate

    def img_transform(self, img: np.ndarray, resize, size, crop, flip, rotate) -> tuple:
        """Change an image.

        Args:
            img (array): [H, W, 3], 0 to 255.
            resize, size, crop, flip, rotate: see `sample_augmentation`.

        Returns:
            tuple[array, array]: float32 [h, w, 3], and float32 [4, 4] that takes x, y, depth of the
            image before to x, y, depth of the result.
        """
        picture = Image.fromarray(img.astype(np.uint8)).resize(size).crop(crop)
        matrix = np.eye(3)
        matrix[:2, :2] *= resize
        matrix[:2, 2] = -np.array(crop[:2])
        width, height = crop[2] - crop[0], crop[3] - crop[1]
        if flip:
            picture = picture.transpose(method=Image.FLIP_LEFT_RIGHT)
            matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
        picture = picture.rotate(rotate)
        cos, sin = np.cos(np.deg2rad(rotate)), np.sin(np.deg2rad(rotate))
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        middle = np.array([width / 2, height / 2])
        turn[:2, 2] = middle - turn[:2, :2] @ middle
        matrix = turn @ matrix
        full = np.eye(4, dtype=np.float32)
        full[:2, :2], full[:2, 3] = matrix[:2, :2], matrix[:2, 2]
        return np.array(picture).astype(np.float32), full

    def transform(self, results: dict) -> dict:
        """Change `img` and add `img_aug_matrix`, a list of [4, 4], one for each image."""
        changed = [
            self.img_transform(img, *self.sample_augmentation(results)) for img in results['img']
        ]
        results['img'], results['img_aug_matrix'] = map(list, zip(*changed))
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


class GridMask(BaseTransform):
    """Cover the images with a grid of stripes (Chen et al., "GridMask Data Augmentation", arXiv 2001.04086).

    Args:
        use_h, use_w (bool): stripes along the rows, along the columns.
        max_epoch (int): the epoch from which on `prob` is reached, see `set_epoch`.
        rotate (int): the grid is turned by less than as many degrees.
        offset (bool): fill what is covered with noise from -1 to 1.
        ratio (float): share of a stripe in its period; 1 for any.
        mode (int): 1 keeps the stripes and covers what is between.
        prob (float): how often.
        fixed_prob (bool): `set_epoch` leaves prob as it is.
    """

    def __init__(
        self,
        use_h,
        use_w,
        max_epoch,
        rotate=1,
        offset=False,
        ratio=0.5,
        mode=0,
        prob=1.0,
        fixed_prob=False,
    ):
        self.use_h, self.use_w = use_h, use_w
        self.max_epoch = max_epoch
        self.rotate = rotate
        self.offset = offset
        self.ratio = ratio
        self.mode = mode
        self.full_prob = self.prob = prob
        self.fixed_prob = fixed_prob

    def set_epoch(self, epoch: int) -> None:
        """Let the probability grow with the epochs."""
        if not self.fixed_prob:
            self.prob = self.full_prob * epoch / self.max_epoch

    def draw(self, height: int, width: int) -> np.ndarray:
        """1 where the image is kept, float32 [height, width, 1]."""
        period = np.random.randint(2, min(height, width))
        if self.ratio == 1:
            length = np.random.randint(1, period)
        else:
            length = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        # Larger than the image, so that no corner is bare after the turn.
        size = int(1.5 * height), int(1.5 * width)
        stripes = []
        for used, start, total in zip(
            (self.use_h, self.use_w), np.random.randint(period, size=2), size
        ):
            place = np.arange(total) - start
            in_period = (place >= 0) & (place < total // period * period)
            stripes.append(used & in_period & (place % period < length))
        mask = ~(stripes[0][:, None] | stripes[1][None, :])
        turned = Image.fromarray(mask.astype(np.uint8)).rotate(np.random.randint(self.rotate))
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        mask = np.asarray(turned)[top : top + height, left : left + width, None]
        return mask.astype(np.float32) if self.mode != 1 else 1.0 - mask.astype(np.float32)

    def transform(self, results: dict) -> dict:
        """Cover `img`, all images of a frame alike."""
        if np.random.rand() > self.prob:
            return results
        height, width = results['img'][0].shape[:2]
        mask = self.draw(height, width)
        noise = 0.0
        if self.offset:
            noise = (1 - mask) * np.random.uniform(-1, 1, (height, width, 1)).astype(np.float32)
        results['img'] = [img * mask + noise for img in results['img']]
        return results
