"""Small generated input for any stock config of mmdet3d: a few boxes, points on them and on the ground, and an image.

What a sample holds is read from the config's own training pipeline, whose last transform packs it. The input is small,
the model is the config's: what is generated is enough for a step, not for a training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import get_box_type
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate

BOXES = 8
POINTS = 5_000
HEIGHT, WIDTH = 128, 416
VIEWS = 5  # of a Waymo car
# x, y, z from, x, y, z to, in metres, where a config names no range.
RANGES = {
    'LiDAR': (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
    'Depth': (-1.5, -1.5, 0.0, 1.5, 1.5, 2.5),
    'Camera': (-8.0, -3.0, 8.0, 8.0, 1.0, 30.0),
}
# From the axes of points (x right, y forward, z up; LiDAR: x forward, y left, z up) to a camera's (x right, y down).
AXES = {
    'Depth': np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64),
    'LiDAR': np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float64),
    'Camera': np.eye(3),
}


def innermost(dataset: ConfigDict) -> ConfigDict:
    """The data set inside of those that repeat, join or balance others."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset.dataset if 'dataset' in dataset else dataset.datasets[0]
    return dataset


def class_names(config: Config) -> Sequence[str]:
    """The names of the classes of a config of mmdet3d: its dataset has them, or they stand by themselves.

    Raises:
        AttributeError: there is no `train_dataloader`, or there are no names.
    """
    dataset = innermost(config.train_dataloader.dataset)
    return (dataset.get('metainfo') or {}).get('classes') or config.class_names


def make_batch(config: Config, training: bool = True) -> dict:
    """A batch for a config.

    Args:
        config (Config): of mmdet3d, with a `train_dataloader`.
        training (bool): for a training step, or for a prediction, where there is one sample, as in the configs, and a
            model of indoor segmentation cuts a whole room into the patches that it is trained with.

    Returns:
        dict: what a data loader hands to the model's `train_step` or `val_step`.

    Raises:
        AttributeError: there is no `train_dataloader`. KeyError: the pipeline has a transform that does not exist.
    """
    dataset = innermost(config.train_dataloader.dataset)
    pipeline = dataset.get('pipeline') or config.train_pipeline
    steps = {step.type.split('.')[-1]: step for step in pipeline}
    if not training:
        steps.pop('IndoorPatchPointSample', None)
    pack = TRANSFORMS.build(pipeline[-1])
    box_type = (dataset.get('box_type_3d') or _coordinates(steps)).replace('Lidar', 'LiDAR')
    classes = len(class_names(config))
    rng = np.random.default_rng(0)
    samples = []
    # Models of rooms have norms over the samples of a batch, which need two.
    for index in range(2 if training and box_type == 'Depth' else 1):
        sample = _scene(rng, box_type, classes, dataset, steps, pack.keys, config)
        sample.update(_images(rng, box_type, sample, 'LoadMultiViewImageFromFiles' in steps))
        sample.update(sample_idx=index, lidar_path='generated.bin')
        packed = pack(sample)
        packed['data_samples'].set_metainfo(dict(box_type_3d=get_box_type(box_type)[0]))
        packed['data_samples'].eval_ann_info = {}
        samples.append(packed)
    return pseudo_collate(samples)


def _coordinates(steps: dict[str, ConfigDict]) -> str:
    """The coordinates of a segmentation's points, by the name of their boxes."""
    return 'LiDAR' if steps['LoadPointsFromFile'].coord_type == 'LIDAR' else 'Depth'


def _channels(steps: dict[str, ConfigDict]) -> int:
    """How many numbers a point has when the pipeline is done with it."""
    use = steps['LoadPointsFromFile'].use_dim
    if 'LoadPointsFromMultiSweeps' in steps:
        use = steps['LoadPointsFromMultiSweeps'].get('use_dim', [0, 1, 2, 4])
    count = use if isinstance(use, int) else len(use)
    count += bool(steps['LoadPointsFromFile'].get('shift_height'))
    patch = steps.get('IndoorPatchPointSample', {})
    return count + 3 * bool(patch.get('use_normalized_coord'))


def _range(box_type: str, steps: dict[str, ConfigDict], config: Config) -> np.ndarray:
    named = steps.get('PointsRangeFilter', steps.get('ObjectRangeFilter', {}))
    limits = named.get('point_cloud_range') or config.get('point_cloud_range')
    return np.array(RANGES[box_type] if limits is None else limits, np.float64)


def _scene(
    rng: np.random.Generator,
    box_type: str,
    classes: int,
    dataset: ConfigDict,
    steps: dict[str, ConfigDict],
    keys: Sequence[str],
    config: Config,
) -> dict[str, Any]:
    """Boxes on the ground, and points: half of them on the ground, the others in the boxes."""
    limits = _range(box_type, steps, config)
    low, high = limits[:3], limits[3:]
    indoors = box_type == 'Depth'
    size = rng.uniform(0.8, 1.2, (BOXES, 3)) * ([0.6, 0.6, 0.8] if indoors else [3.9, 1.6, 1.6])
    if box_type == 'Camera':
        size = size[:, [0, 2, 1]]
    centre = rng.uniform(low + 0.15 * (high - low), high - 0.15 * (high - low), (BOXES, 3))
    up = 1 if box_type == 'Camera' else 2
    ground = 1.7 if box_type == 'Camera' else low[2] if indoors else max(low[2] + 0.2, -1.7)
    centre[:, up] = ground + (-0.5 if box_type == 'Camera' else 0.5) * size[:, up]
    yaw = rng.uniform(-np.pi, np.pi, (BOXES, 1))
    labels = rng.integers(0, classes, BOXES)
    labels[0] = 0

    upright = indoors and dataset.type in ('ScanNetDataset', 'S3DISDataset')
    parts = [centre, size] if upright else [centre, size, yaw]
    if dataset.type == 'NuScenesDataset':
        parts.append(rng.normal(size=(BOXES, 2)))  # velocity
    boxes = torch.tensor(np.concatenate(parts, 1), dtype=torch.float32)
    cls, mode = get_box_type(box_type)
    scene: dict[str, Any] = dict(
        box_type_3d=cls,
        box_mode_3d=mode,
        gt_bboxes_3d=cls(
            boxes, box_dim=boxes.shape[1], with_yaw=not upright, origin=(0.5, 0.5, 0.5)
        ),
        gt_labels_3d=labels,
        gt_bboxes_labels=labels,
        attr_labels=rng.integers(0, 8, BOXES),
    )
    if 'LoadPointsFromFile' not in steps:
        return scene
    owner = rng.integers(0, BOXES, POINTS // 2)
    inside = centre[owner] + rng.uniform(-0.5, 0.5, (len(owner), 3)) * size[owner]
    floor = rng.uniform(low, high, (POINTS - len(owner), 3))
    floor[:, 2] = ground + rng.normal(scale=0.02, size=len(floor))
    xyz = np.clip(np.concatenate([inside, floor]), low + 1e-3, high - 1e-3)
    rest = rng.uniform(0, 1, (POINTS, _channels(steps) - 3))
    # Beside boxes the ground is none of the classes, in a segmentation it is the first.
    ground_label = classes if 'gt_bboxes_3d' in keys else 0
    scene.update(
        points=torch.tensor(np.concatenate([xyz, rest], 1), dtype=torch.float32),
        pts_instance_mask=np.concatenate([owner, np.full(len(floor), BOXES)]),
        pts_semantic_mask=np.concatenate([labels[owner], np.full(len(floor), ground_label)]),
    )
    return scene


def _images(
    rng: np.random.Generator, box_type: str, scene: dict[str, Any], several: bool
) -> dict[str, Any]:
    """A picture, or several of different directions, its camera, and the boxes in it."""
    camera = np.eye(4)
    camera[:3, :3] = [[WIDTH * 0.6, 0, WIDTH / 2], [0, WIDTH * 0.6, HEIGHT / 2], [0, 0, 1]]
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = AXES[box_type]
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    shape = HEIGHT, WIDTH
    corners = scene['gt_bboxes_3d'].corners.numpy() @ extrinsic[:3, :3].T
    centres = scene['gt_bboxes_3d'].gravity_center.numpy() @ extrinsic[:3, :3].T
    box, (middle, depth) = _project(corners, camera)[0], _project(centres, camera)
    limit = np.array([WIDTH - 1, HEIGHT - 1])
    first = box.min(1).clip(0, limit - 8)
    return dict(
        img=[picture] * VIEWS if several else picture,
        img_path='generated.png',
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        scale_factor=[np.ones(2)] * VIEWS if several else np.ones(2),
        flip=[False] * VIEWS if several else False,
        img_crop_offset=[np.zeros(2)] * VIEWS if several else np.zeros(2),
        cam2img=camera,
        ori_cam2img=[camera] * VIEWS if several else camera,
        lidar2cam=_views(extrinsic) if several else extrinsic,
        lidar2img=camera @ extrinsic,
        depth2img=(camera @ extrinsic)[:3, :3],
        num_views=VIEWS,
        num_ref_frames=0,
        trans_mat=np.diag([0.25, 0.25, 1.0]).astype(np.float32),
        affine_aug=False,
        gt_bboxes=np.concatenate(
            [first, np.maximum(box.max(1).clip(0, limit), first + 8)], 1
        ).astype(np.float32),
        centers_2d=middle.clip(0, limit).astype(np.float32),
        depths=depth.astype(np.float32),
    )


def _project(points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depths (at least 1 m) of points [..., 3] in a camera's axes."""
    depth = points[..., 2].clip(1.0)
    pixels = points @ camera[:3, :3].T
    return pixels[..., :2] / depth[..., None], depth


def _views(extrinsic: np.ndarray) -> list[np.ndarray]:
    """The extrinsics of cameras that look around from one place."""
    views = []
    for angle in np.linspace(0, 2 * np.pi, VIEWS, endpoint=False):
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        views.append(extrinsic @ turn)
    return views
