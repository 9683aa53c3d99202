"""What TransFusion's head should predict: the objects that its queries are assigned to, and the heatmap."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ...constants import constant
from ...ops import draw_gaussians
from ..heatmap import gaussian_radii
from ..matching import labels_below
from .assigner import HeuristicAssigner3D, HungarianAssigner3D, matched, result


class Targets(NamedTuple):
    """What the predictions should be, for P queries of each decoder layer.

    Attributes:
        labels (Tensor): [B, L * P], `num_classes` where there is no object.
        label_weights (Tensor): [B, L * P].
        boxes (Tensor): [B, L * P, code_size], encoded.
        box_weights (Tensor): [B, L * P, code_size], 0 where there is no object.
        num_pos (Tensor): queries with an object, float32.
        matched_iou (Tensor): the mean overlap of those with it, the mean over samples.
        heatmap (Tensor): [B, num_classes, X, Y].
    """

    labels: Tensor
    label_weights: Tensor
    boxes: Tensor
    box_weights: Tensor
    num_pos: Tensor
    matched_iou: Tensor
    heatmap: Tensor


def assign(
    assigner: Any,
    decoded: Sequence[dict],
    batch_gt_instances_3d: Sequence[InstanceData],
    predicted: dict[str, Tensor],
    train_cfg: dict,
) -> list:
    """Find the ground truth that each query predicts.

    Args:
        assigner: an assigner of this package or of mmdet3d.
        decoded (Sequence[dict]): the boxes of each sample, those of all layers one after the other.
        batch_gt_instances_3d (Sequence[InstanceData]): bboxes_3d and labels_3d of each sample.
        predicted (dict[str, Tensor]): see `TransFusionHead.forward`.
        train_cfg (dict): that of the head.

    Returns:
        list[AssignResult]: of each sample and, in it, each layer.
    """
    proposals = predicted['query_labels'].shape[1]
    results, problems = [], []
    for i, truth in enumerate(batch_gt_instances_3d):
        gt_boxes = truth.bboxes_3d.tensor.to(predicted['heatmap'].device)
        gt_labels = truth.labels_3d.to(gt_boxes.device)
        boxes = decoded[i]['bboxes'].split(proposals)
        scores = predicted['heatmap'][i : i + 1].split(proposals, dim=2)
        for box, score in zip(boxes, scores):
            given = box, gt_boxes, gt_labels, score, train_cfg
            if type(assigner) is HungarianAssigner3D:
                with labels_below(score.shape[1], 'num_classes'):
                    problems.append((gt_labels, *assigner.cost(*given)))
            elif isinstance(assigner, HeuristicAssigner3D):
                labels = predicted['query_labels'][i]
                results.append(
                    assigner.assign(box, gt_boxes, gt_labels=gt_labels, query_labels=labels)
                )
            else:
                results.append(assigner.assign(*given))
    if problems:  # all at once: each look at costs waits for the device
        gt_of_box = matched([cost for _, cost, _ in problems])
        results = [result(gt, labels, iou) for gt, (labels, _, iou) in zip(gt_of_box, problems)]
    return results


def draw_heatmap(
    batch_gt_instances_3d: Sequence[InstanceData],
    num_classes: int,
    map_size: Sequence[int],
    cfg: dict,
    device: torch.device,
) -> Tensor:
    """Draw a bump for each box of a batch.

    Args:
        batch_gt_instances_3d (Sequence[InstanceData]): bboxes_3d and labels_3d of each sample.
        num_classes (int): classes; boxes of other labels are left out.
        map_size (Sequence[int]): X and Y of the map, in cells.
        cfg (dict): the head's train_cfg: point_cloud_range, voxel_size, out_size_factor, gaussian_overlap,
            min_radius.
        device (torch.device): where to draw.

    Returns:
        Tensor: float32 [B, num_classes, X, Y].
    """
    boxes = torch.cat([truth.bboxes_3d.tensor for truth in batch_gt_instances_3d]).to(device)
    labels = torch.cat([truth.labels_3d for truth in batch_gt_instances_3d]).to(device)
    counts = [len(truth.labels_3d) for truth in batch_gt_instances_3d]
    samples = torch.cat([labels.new_full((n,), i) for i, n in enumerate(counts)])
    low = constant(cfg['point_cloud_range'][:2], device)
    cell = cfg['out_size_factor'] * constant(cfg['voxel_size'][:2], device)
    sizes = boxes[:, 3:5] / cell
    solid = (sizes > 0).all(dim=1) & (labels >= 0) & (labels < num_classes)
    radii = gaussian_radii(sizes, cfg['gaussian_overlap']).int().clamp(min=cfg['min_radius'])
    centers = ((boxes[:, :2] - low) / cell).int()
    channels = (samples * num_classes + labels).where(solid, -1).int()
    maps = len(counts) * num_classes
    drawn = draw_gaussians(channels, centers, radii, (maps, *map_size))
    return drawn.view(len(counts), num_classes, *map_size)
