"""Hooks that leave pictures of validated and tested frames in the work folder, from above and in the camera images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

if TYPE_CHECKING:  # the hooks are registered where mmdet3d is not installed too
    from mmdet3d.structures import BaseInstance3DBoxes

# A collated batch; several of them with test-time augmentation.
Batch = Union[dict, Sequence[dict]]


class BEVPictureHook(Hook):
    """Draw a few frames of each validation and test with their ground truth and predictions.

    The frames are spread evenly over the data set and are the same ones every time. The pictures
    go to `<work_dir>/pictures/val_epoch_<N>/`, with training by iterations `val_iter_<N>/`, and to
    `<work_dir>/pictures/test/`. Boxes of a camera are taken into the LiDAR frame; the ground truth is
    drawn where the data set gives it, the numbers of tracks where the predictions have them. What
    cannot be drawn is told in one warning, and the run goes on.

    Args:
        frames (int): pictures for each run over the data set. Default: 4.
        score_thr (float): predictions below this score are left out. Default: 0.3.
        view_range (sequence of float): x_min, y_min, x_max, y_max of the picture, in metres of
            the LiDAR frame. Default: 51.2 to each side.
    """

    def __init__(
        self,
        frames: int = 4,
        score_thr: float = 0.3,
        view_range: Sequence[float] = (-51.2, -51.2, 51.2, 51.2),
    ) -> None:
        if frames < 1:
            raise ValueError(f'frames is {frames}; it has to be 1 or more')
        if len(view_range) != 4 or view_range[0] >= view_range[2] or view_range[1] >= view_range[3]:
            raise ValueError(
                f'view_range is {view_range}; it has to be x_min, y_min, x_max, y_max with '
                'x_min < x_max and y_min < y_max'
            )
        self.frames = frames
        self.score_thr = score_thr
        self.view_range = view_range
        self._warned = False

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        """Draw the chosen frames of a batch of the validation."""
        by_iter = isinstance(getattr(runner, '_train_loop', None), IterBasedTrainLoop)
        name = f'val_iter_{runner.iter}' if by_iter else f'val_epoch_{runner.epoch}'
        self._draw(runner, runner.val_dataloader, name, batch_idx, data_batch, outputs)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        """Draw the chosen frames of a batch of the test."""
        self._draw(runner, runner.test_dataloader, 'test', batch_idx, data_batch, outputs)

    @master_only
    def _draw(self, *args: Any) -> None:
        """A decoration: whatever it meets, the run goes on."""
        try:
            self._draw_chosen(*args)
        except Exception as error:
            if not self._warned:
                self._warned = True
                print_log(
                    f'{type(self).__name__} draws no picture: {type(error).__name__}: {error}',
                    logger='current',
                    level=logging.WARNING,
                )

    def _draw_chosen(
        self,
        runner: Runner,
        dataloader: DataLoader,
        name: str,
        batch_idx: int,
        data_batch: Batch,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        dataset = cast(BaseDataset, dataloader.dataset)
        size = dataloader.batch_size or cast(BatchSampler, dataloader.batch_sampler).batch_size
        total = min(len(dataset), len(dataloader) * size)  # this process's share
        chosen = {i * total // self.frames for i in range(self.frames)}
        for i, sample in enumerate(outputs):
            frame = batch_idx * size + i
            if frame not in chosen:
                continue
            predicted = sample.get('pred_instances_3d')
            if predicted is None or 'bboxes_3d' not in predicted:
                raise ValueError('the results have no 3-D boxes (pred_instances_3d.bboxes_3d)')
            truth = sample.get('eval_ann_info') or {}
            truth = truth if 'gt_bboxes_3d' in truth else {}
            tracks = predicted.instances_id.cpu() if 'instances_id' in predicted else ()
            # With test-time augmentation the batch has versions: the first one is drawn.
            version = data_batch if isinstance(data_batch, dict) else data_batch[0]
            self._picture(
                Path(runner.work_dir) / 'pictures' / name,
                f'frame_{frame:04d}',
                {key: values[i] for key, values in version['inputs'].items()},
                sample.metainfo,
                dataset.metainfo['classes'],
                gt_boxes=lidar_boxes(truth['gt_bboxes_3d'], sample.metainfo) if truth else (),
                gt_labels=truth['gt_labels_3d'] if truth else (),
                boxes=lidar_boxes(predicted.bboxes_3d, sample.metainfo),
                labels=predicted.labels_3d.cpu(),
                scores=predicted.scores_3d.cpu(),
                tracks=tracks,
                score_thr=self.score_thr,
                title=f'{name.replace("_", " ")}, frame {frame + 1} of {total}',
            )

    def _picture(
        self,
        folder: Path,
        name: str,
        inputs: dict[str, Tensor],
        metainfo: dict,
        classes: Sequence[str],
        **drawn: Any,
    ) -> None:
        path = folder / f'{name}.png'
        points = inputs['points'].cpu() if 'points' in inputs else np.zeros((0, 2))
        from .bev import draw_bev  # with matplotlib, which takes half a second to import

        draw_bev(path, points, classes, view_range=self.view_range, **drawn)


class CameraPictureHook(BEVPictureHook):
    """Draw the boxes of a few frames of each validation and test in their camera images.

    The pictures go beside those of `BEVPictureHook`, as `frame_<N>_cameras.png`. The pipeline has to give img in
    RGB, lidar2img, and what `ImageAug3D` adds where it changes the images.

    Args:
        frames (int): pictures for each run over the data set. Default: 4.
        score_thr (float): predictions below this score are left out. Default: 0.3.
    """

    def __init__(self, frames: int = 4, score_thr: float = 0.3) -> None:
        super().__init__(frames, score_thr)

    def _picture(
        self,
        folder: Path,
        name: str,
        inputs: dict[str, Tensor],
        metainfo: dict,
        classes: Sequence[str],
        **drawn: Any,
    ) -> None:
        if 'img' not in inputs:
            raise ValueError('there are no images (img) in the inputs')
        images = inputs['img']  # of a model of one camera [3, H, W], else [N, 3, H, W]
        paths = metainfo['img_path']
        from .cameras import camera_name, draw_cameras  # with matplotlib

        draw_cameras(
            folder / f'{name}_cameras.png',
            images.reshape(-1, *images.shape[-3:]).permute(0, 2, 3, 1).cpu().numpy(),
            image_matrices(metainfo),
            names=[camera_name(path) for path in ([paths] if isinstance(paths, str) else paths)],
            **drawn,
        )


def image_matrices(metainfo: dict) -> np.ndarray:
    """From the LiDAR frame to the images as the model sees them, (N, 4, 4): x * depth, y * depth, depth.

    Args:
        metainfo (dict): lidar2img, or cam2img of one camera, and img_aug_matrix where the images were changed.

    Returns:
        array: float64.
    """
    if 'lidar2img' in metainfo:
        matrices = np.asarray(metainfo['lidar2img'], dtype=float).reshape(-1, 4, 4)
    else:
        matrices = (_square(metainfo['cam2img']) @ _lidar_to_camera(metainfo))[None]
    if 'img_aug_matrix' not in metainfo:
        return matrices
    # It moves pixels: in x * depth, y * depth, depth a shift grows with the depth.
    moves = np.asarray(metainfo['img_aug_matrix'], dtype=float)
    pixels = np.tile(np.eye(4), (len(moves), 1, 1))
    pixels[:, :2, :2], pixels[:, :2, 2] = moves[:, :2, :2], moves[:, :2, 3]
    return pixels @ matrices


def lidar_boxes(boxes: 'BaseInstance3DBoxes', metainfo: dict) -> Tensor:
    """Boxes in the LiDAR frame, on the CPU.

    Args:
        boxes (BaseInstance3DBoxes): of the LiDAR, of a camera, or of a depth sensor.
        metainfo (dict): lidar2cam, or lidar2img and cam2img, for boxes of a camera; without them the LiDAR is taken
            to be where the camera is.

    Returns:
        Tensor: (N, 7 or more).
    """
    from mmdet3d.structures import Box3DMode, CameraInstance3DBoxes, DepthInstance3DBoxes

    boxes = boxes.to('cpu')
    if isinstance(boxes, CameraInstance3DBoxes):
        back = torch.from_numpy(np.linalg.inv(_lidar_to_camera(metainfo))).to(boxes.tensor)
        boxes = boxes.convert_to(Box3DMode.LIDAR, back, correct_yaw=True)
    elif isinstance(boxes, DepthInstance3DBoxes):
        boxes = boxes.convert_to(Box3DMode.LIDAR)
    return boxes.tensor


def _square(matrix: ArrayLike) -> np.ndarray:
    """A matrix of one camera, (3 or 4, 3 or 4), as (4, 4)."""
    matrix = np.asarray(matrix, dtype=float)
    matrix = matrix[0] if matrix.ndim == 3 and len(matrix) == 1 else matrix
    if matrix.ndim != 2:
        raise ValueError(f'boxes of a camera belong to one camera, not to {len(matrix)}')
    full = np.eye(4)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full


def _lidar_to_camera(metainfo: dict) -> np.ndarray:
    """From the LiDAR frame (x ahead, z up) to that of a model's one camera (z ahead, y down), (4, 4)."""
    if 'lidar2cam' in metainfo:
        return _square(metainfo['lidar2cam'])
    if 'lidar2img' in metainfo:
        return np.linalg.inv(_square(metainfo['cam2img'])) @ _square(metainfo['lidar2img'])
    return _square([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
