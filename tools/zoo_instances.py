"""Small generated pictures with masks of their objects, for configs of mmdet's instance segmentation."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData

SIZE = HEIGHT, WIDTH = 128, 416
OBJECTS = 6


def make_instances(model: ConfigDict, training: bool = True) -> dict:
    """Normalized pictures of noise with bright ellipses, two for a training step, one for a prediction.

    Args:
        model (ConfigDict): of mmdet, with a `roi_head`.
        training (bool): whether there are two.

    Returns:
        dict: what a data loader hands to the model's `train_step` or `val_step`.
    """
    rng = np.random.default_rng(0)
    head = model.roi_head.bbox_head
    classes = (head[0] if isinstance(head, list) else head).num_classes
    semantic = model.roi_head.get('semantic_head')
    pairs = [_picture(rng, classes, semantic and semantic.num_classes) for _ in range(1 + training)]
    pictures, samples = zip(*pairs)
    return dict(inputs=torch.stack(pictures), data_samples=list(samples))


def _picture(
    rng: np.random.Generator, classes: int, semantic_classes: int
) -> tuple[torch.Tensor, DetDataSample]:
    half = rng.uniform(10, 30, (OBJECTS, 2))
    middle = rng.uniform(half, np.array([WIDTH, HEIGHT]) - half)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    offset = (np.stack([x, y], -1) - middle[:, None, None]) / half[:, None, None]
    masks = (np.square(offset).sum(-1) < 1).astype(np.uint8)
    labels = rng.integers(0, classes, OBJECTS)
    picture = rng.normal(size=(3, *SIZE)) + masks.any(0)

    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_path='generated.png',
            img_shape=SIZE,
            ori_shape=SIZE,
            pad_shape=SIZE,
            batch_input_shape=SIZE,
            scale_factor=(1.0, 1.0),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(np.concatenate([middle - half, middle + half], 1)).float(),
        labels=torch.tensor(labels),
        masks=BitmapMasks(masks, *SIZE),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    if semantic_classes:
        sem_seg = torch.tensor(rng.integers(0, semantic_classes, (1, *SIZE)))
        sample.gt_sem_seg = PixelData(sem_seg=sem_seg)
    return torch.tensor(picture).float(), sample
