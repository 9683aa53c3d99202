"""Loading and changing the images of several cameras, for the models that look through them."""

from typing import Any, Union

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import LoadMultiViewImageFromFiles
from mmengine.fileio import get
from PIL import Image


class BEVLoadMultiViewImageFromFiles(LoadMultiViewImageFromFiles):
    """Load the images of a frame, the channels in the order R, G, B, with the matrices of the view transform.

    Args:
        to_float32, color_type, backend_args, num_views, set_default_scale: see `LoadMultiViewImageFromFiles`.
        num_ref_frames (int): frames to load besides; -1, as the info files have one.
        test_mode (bool): not used.
    """

    def __init__(self, num_ref_frames: int = -1, **kwargs: Any) -> None:
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


def transform_image(
    img: np.ndarray, resize: float, size: tuple, crop: tuple, flip: bool, rotate: float
) -> tuple:
    """Resize an image, crop it, flip it and turn it.

    Args:
        img (array): [H, W, 3], 0 to 255.
        resize (float): scale from the image to the resized one.
        size (tuple[int]): width and height of the resized image, pixels.
        crop (tuple[int]): left, top, right and bottom of the part that is kept, pixels of the
            resized image; what lies outside of it is black.
        flip (bool): exchange left and right.
        rotate (float): angle, degrees, counterclockwise as seen.

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
        picture = picture.transpose(method=Image.Transpose.FLIP_LEFT_RIGHT)
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
        use_h: bool,
        use_w: bool,
        max_epoch: int,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: int = 0,
        prob: float = 1.0,
        fixed_prob: bool = False,
    ) -> None:
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
        noise: Union[float, np.ndarray] = 0.0
        if self.offset:
            noise = (1 - mask) * np.random.uniform(-1, 1, (height, width, 1)).astype(np.float32)
        results['img'] = [img * mask + noise for img in results['img']]
        return results
