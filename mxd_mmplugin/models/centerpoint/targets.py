"""What CenterPoint's head should predict, for all boxes of a batch at once (Yin et al. 2021, section 4)."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ...constants import constant
from ...ops import draw_gaussians
from ...ops.sizes import whole, wholes
from ..heatmap import gaussian_radii


class Targets(NamedTuple):
    """Of T tasks and B samples, with M slots for objects of a sample and a task.

    Attributes:
        heatmaps (list[Tensor]): for each task float32 [B, classes, H, W].
        boxes (Tensor): float32 [T, B, M, 10 or 8], zeros where a slot is empty: x and y in the cell, z of
            the middle, sizes, sine and cosine of the yaw, velocity.
        cells (Tensor): int64 [T, B, M], row * W + column of the boxes' cells, 0 where a slot is empty.
        masks (Tensor): uint8 [T, B, M], whether a slot has a box.
    """

    heatmaps: list
    boxes: Tensor
    cells: Tensor
    masks: Tensor


class Objects(NamedTuple):
    """The G boxes of a batch.

    Attributes:
        boxes (Tensor): float32 [G, 7 or 9]: x, y, z of the middle, sizes, yaw, velocity in x and y.
        labels (Tensor): int64 [G].
        samples (Tensor): int64 [G], which sample a box is of.
    """

    boxes: Tensor
    labels: Tensor
    samples: Tensor


def collect(batch: Sequence[InstanceData], columns: int) -> Objects:
    """The objects of a batch one after the other, on the device of their labels.

    Args:
        batch (Sequence[InstanceData]): bboxes_3d and labels_3d of each sample.
        columns (int): of a box, 7 or 9; those of samples that have a box may be more.

    Raises:
        ValueError: boxes of fewer columns.
    """
    labels = torch.cat([truth.labels_3d for truth in batch]).long()
    samples = torch.cat(
        [labels.new_full((len(truth.labels_3d),), i) for i, truth in enumerate(batch)]
    )
    # A sample that has no box may have another number of columns.
    instances = [truth.bboxes_3d for truth in batch if len(truth.bboxes_3d)]
    if not instances:
        return Objects(labels.new_zeros(0, columns, dtype=torch.float32), labels, samples)
    least = min(boxes.tensor.shape[1] for boxes in instances)
    if least < columns:
        raise ValueError(
            f'bboxes_3d must have {columns} columns or more, had {least}: velocities come with with_velocity=True of '
            "the data set, and without 'vel' in common_heads none are needed"
        )
    joined = type(instances[0]).cat(instances)
    boxes = torch.cat([joined.gravity_center, joined.tensor[:, 3:columns]], dim=1)
    return Objects(boxes.to(labels.device), labels, samples)


def slot_numbers(objects: Objects, first_label: Tensor, classes: int) -> Tensor:
    """The slot of each box among those of its sample and task: by class, then in the order they have.

    Args:
        objects (Objects): of G boxes.
        first_label (Tensor): [G], that of each box's task.
        classes (int): of all tasks.

    Returns:
        Tensor: int64 [G]; what is of no class has any.
    """
    count = len(objects.labels)
    known = (objects.labels >= 0) & (objects.labels < classes)
    order = torch.arange(count, device=objects.labels.device)
    place = (objects.samples * classes + objects.labels) * count + order
    begin = (objects.samples * classes + first_label) * count  # where its task's begin
    place = place.where(known, -1)
    before = (place < place[:, None]) & (place >= begin[:, None])
    return before.sum(1)


def make_targets(
    batch: Sequence[InstanceData],
    num_classes: Sequence[int],
    cfg: Mapping,
    norm_bbox: bool,
    velocity: bool,
) -> Targets:
    """The targets of a batch; how many objects it has changes no number of operators.

    Args:
        batch (Sequence[InstanceData]): bboxes_3d and labels_3d of each sample.
        num_classes (Sequence[int]): classes of each task.
        cfg (Mapping): grid_size, point_cloud_range, voxel_size, out_size_factor, max_objs, dense_reg,
            gaussian_overlap, min_radius of the head's train_cfg.
        norm_bbox (bool): whether the logarithm of the sizes is learned.
        velocity (bool): whether the velocity is.

    Returns:
        Targets: see there.
    """
    objects = collect(batch, 9 if velocity else 7)
    boxes, labels = objects.boxes, objects.labels
    device, samples = labels.device, len(batch)
    factor = whole('out_size_factor', cfg['out_size_factor'], 1)
    slots = cfg['max_objs'] * cfg['dense_reg']
    width, height = (size // factor for size in wholes('grid_size', cfg['grid_size'][:2], 1))
    tasks, classes = len(num_classes), sum(num_classes)

    # Of each class: its task, the first class of that, and how many that has.
    begins = [0, *accumulate(num_classes)][:-1]
    table = [
        (task, begin, size)
        for task, (begin, size) in enumerate(zip(begins, num_classes))
        for _ in range(size)
    ]
    known = (labels >= 0) & (labels < classes)
    label = labels.clamp(0, classes - 1)
    task, begin, size = (constant(column, device, torch.int64)[label] for column in zip(*table))

    slot = slot_numbers(objects, begin, classes)
    low = constant(cfg['point_cloud_range'][:2], device)
    voxel = constant(cfg['voxel_size'][:2], device)
    sizes = boxes[:, 3:5] / voxel / factor
    centers = (boxes[:, :2] - low) / voxel / factor
    cells = centers.int()
    limit = constant((width, height), device, torch.int32)
    inside = ((cells >= 0) & (cells < limit) & (sizes > 0)).all(1)
    there = inside & known & (slot < slots)

    radii = gaussian_radii(sizes, cfg['gaussian_overlap']).int().clamp(min=cfg['min_radius'])
    # The maps lie task by task, in each sample by sample, so that a task's are in one piece.
    channel = samples * begin + objects.samples * size + label - begin
    channel = channel.where(there, -1).int()
    maps = draw_gaussians(channel, cells.flip(1), radii, (samples * classes, height, width))
    heatmaps = [
        part.view(samples, count, height, width)
        for part, count in zip(maps.split([samples * n for n in num_classes]), num_classes)
    ]

    dims, yaw = boxes[:, 3:6], boxes[:, 6:7]
    parts = [
        centers - cells,
        boxes[:, 2:3],
        dims.log() if norm_bbox else dims,
        yaw.sin(),
        yaw.cos(),
        boxes[:, 7:],
    ]
    # One row more, for the boxes that have no slot.
    rows = tasks * samples * slots
    row = ((task * samples + objects.samples) * slots + slot).where(there, rows)
    codes = torch.cat(parts, dim=1)
    targets = codes.new_zeros(rows + 1, codes.shape[1]).index_put((row,), codes)
    place = cells[:, 1] * width + cells[:, 0] + 1
    places = place.new_zeros(rows + 1).index_put((row,), place)[:rows]
    masks = places > 0
    shape = tasks, samples, slots
    return Targets(
        heatmaps,
        targets[:rows].view(*shape, -1),
        (places - masks.int()).long().view(shape),
        masks.to(torch.uint8).view(shape),
    )
