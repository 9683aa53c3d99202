"""Hooks that leave pictures of validated and tested frames in the work folder, from above and in the camera images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, cast

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from .bev import draw_bev
from .cameras import camera_name, draw_cameras

# A collated batch; several of them with test-time augmentation.
Batch = Union[dict, Sequence[dict]]


class BEVPictureHook(Hook):
    """Draw a few frames of each validation and test with their ground truth and predictions.

    The frames are spread evenly over the data set and are the same ones every time. The pictures
    go to `<work_dir>/pictures/val_epoch_<N>/` and `<work_dir>/pictures/test/`. Boxes have to be in
    the LiDAR frame; the ground truth is drawn where the data set gives it, the numbers of tracks
    where the predictions have them.

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

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        """Draw the chosen frames of a batch of the validation."""
        name = f'val_epoch_{runner.epoch}'
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
    def _draw(
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
            truth = sample.get('eval_ann_info')
            predicted = sample.pred_instances_3d
            tracks = predicted.instances_id.cpu() if 'instances_id' in predicted else ()
            # With test-time augmentation the batch has versions: the first one is drawn.
            version = data_batch if isinstance(data_batch, dict) else data_batch[0]
            self._picture(
                Path(runner.work_dir) / 'pictures' / name,
                f'frame_{frame:04d}',
                {key: values[i] for key, values in version['inputs'].items()},
                sample.metainfo,
                dataset.metainfo['classes'],
                gt_boxes=truth['gt_bboxes_3d'].tensor.cpu() if truth else (),
                gt_labels=truth['gt_labels_3d'] if truth else (),
                boxes=predicted.bboxes_3d.tensor.cpu(),
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
        draw_cameras(
            folder / f'{name}_cameras.png',
            inputs['img'].permute(0, 2, 3, 1).cpu().numpy(),
            image_matrices(metainfo),
            names=[camera_name(path) for path in metainfo['img_path']],
            **drawn,
        )


def image_matrices(metainfo: dict) -> np.ndarray:
    """From the LiDAR frame to the images as the model sees them, (N, 4, 4): x * depth, y * depth, depth.

    Args:
        metainfo (dict): lidar2img, and img_aug_matrix where the images were changed.

    Returns:
        array: float64.
    """
    matrices = np.asarray(metainfo['lidar2img'], dtype=float)
    if 'img_aug_matrix' not in metainfo:
        return matrices
    # It moves pixels: in x * depth, y * depth, depth a shift grows with the depth.
    moves = np.asarray(metainfo['img_aug_matrix'], dtype=float)
    pixels = np.tile(np.eye(4), (len(moves), 1, 1))
    pixels[:, :2, :2], pixels[:, :2, 2] = moves[:, :2, :2], moves[:, :2, 3]
    return pixels @ matrices
