"""Which query predicts which box: TransFusion's costs and assigners."""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmdet.models.task_modules import AssignResult, BaseAssigner
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from ...constants import constant
from ..matching import match


class BBoxBEVL1Cost:
    """Distance of centres from above, |x| + |y|, as a share of the point cloud's range.

    Args:
        weight (float): factor of the cost.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, bboxes: Tensor, gt_bboxes: Tensor, train_cfg: dict) -> Tensor:
        """[P, 2 or more] and [G, 2 or more], x and y first, metres -> [P, G]."""
        area = constant(train_cfg['point_cloud_range'], bboxes.device, bboxes.dtype)
        low, high = area.view(2, 3)[:, :2]
        centers, gt_centers = ((x[:, :2] - low) / (high - low) for x in (bboxes, gt_bboxes))
        return torch.cdist(centers, gt_centers, p=1) * self.weight


class IoU3DCost:
    """The negative overlap.

    Args:
        weight (float): factor of the cost.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, iou: Tensor) -> Tensor:
        """[P, G] -> [P, G]."""
        return -iou * self.weight


def result(gt_of_box: Tensor, gt_labels: Tensor, iou: Tensor) -> AssignResult:
    """An `AssignResult` from the ground truth of each box [P], -1 for none, and overlaps [P, G]."""
    positive = gt_of_box >= 0
    gt_of_box = gt_of_box.clamp(min=0)
    if len(gt_labels) == 0:
        overlaps, labels = iou.new_zeros(len(iou)), torch.full_like(gt_of_box, -1)
    else:
        overlaps = iou.gather(1, gt_of_box[:, None]).squeeze(1).where(positive, 0.0)
        labels = gt_labels[gt_of_box].where(positive, -1)
    gt_inds = (gt_of_box + 1).where(positive, 0)
    return AssignResult(len(gt_labels), gt_inds, overlaps, labels=labels)


def matched(costs: Sequence[Tensor]) -> Tensor:
    """The ground truth of each box by the cheapest matchings, which wait for the device once.

    Args:
        costs (Sequence[Tensor]): [P, G_i] each, one P for all.

    Returns:
        Tensor: int64 [len(costs), P], -1 for none.
    """
    gt_of_box = np.full((len(costs), len(costs[0])), -1)
    for i, (rows, columns) in enumerate(match(costs)):
        gt_of_box[i, rows] = columns
    return torch.from_numpy(gt_of_box).to(costs[0].device, non_blocking=True)


class HungarianAssigner3D(BaseAssigner):
    """One box for each ground truth, such that the sum of the costs is least (Bai et al. 2022, section 3.3).

    Args:
        cls_cost (dict): cost of the scores, one of mmdet's.
        reg_cost (dict): cost of the places.
        iou_cost (dict): cost of the overlaps.
        iou_calculator (dict): how overlaps are computed.
    """

    def __init__(
        self,
        cls_cost: dict = dict(type='mmdet.ClassificationCost', weight=1.0),
        reg_cost: dict = dict(type='BBoxBEVL1Cost', weight=1.0),
        iou_cost: dict = dict(type='IoU3DCost', weight=1.0),
        iou_calculator: dict = dict(type='BboxOverlaps3D', coordinate='lidar'),
    ) -> None:
        self.cls_cost = TASK_UTILS.build(cls_cost)
        self.reg_cost = TASK_UTILS.build(reg_cost)
        self.iou_cost = TASK_UTILS.build(iou_cost)
        self.iou_calculator = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def cost(
        self,
        bboxes: Tensor,
        gt_bboxes: Tensor,
        gt_labels: Tensor,
        cls_pred: Tensor,
        train_cfg: dict,
    ) -> tuple[Tensor, Tensor]:
        """What `assign` decides by; arguments: see there.

        Returns:
            tuple[Tensor, Tensor]: costs and overlaps, [P, G] both.
        """
        iou = self.iou_calculator(bboxes, gt_bboxes)
        if not len(gt_bboxes) or not len(bboxes):
            return iou, iou
        scores, truth = InstanceData(scores=cls_pred[0].T), InstanceData(labels=gt_labels)
        cost = self.cls_cost(scores, truth)
        return cost + self.reg_cost(bboxes, gt_bboxes, train_cfg) + self.iou_cost(iou), iou

    def assign(
        self,
        bboxes: Tensor,
        gt_bboxes: Tensor,
        gt_labels: Tensor,
        cls_pred: Tensor,
        train_cfg: dict,
    ) -> AssignResult:
        """Match the boxes of a sample.

        Args:
            bboxes, gt_bboxes (Tensor): [P, 7 or more] and [G, 7 or more].
            gt_labels (Tensor): [G].
            cls_pred (Tensor): logits [1, classes, P].
            train_cfg (dict): with `point_cloud_range`.

        Returns:
            AssignResult: of P boxes.
        """
        cost, iou = self.cost(bboxes, gt_bboxes, gt_labels, cls_pred, train_cfg)
        return result(matched([cost])[0], gt_labels, iou)


class HeuristicAssigner3D(BaseAssigner):
    """Each ground truth goes to the box that is nearest from above; a box takes the nearest of several.

    Args:
        dist_thre (float): greatest distance, metres; a box of another class counts as this much
            farther away.
        iou_calculator (dict): how overlaps are computed.
    """

    def __init__(
        self,
        dist_thre: float = 100,
        iou_calculator: dict = dict(type='BboxOverlaps3D', coordinate='lidar'),
    ) -> None:
        self.dist_thre = dist_thre
        self.iou_calculator = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def assign(
        self,
        bboxes: Tensor,
        gt_bboxes: Tensor,
        gt_bboxes_ignore: object = None,
        gt_labels: Optional[Tensor] = None,
        query_labels: Optional[Tensor] = None,
    ) -> AssignResult:
        """Match the boxes of a sample.

        Args:
            bboxes, gt_bboxes (Tensor): [P, 7 or more] and [G, 7 or more].
            gt_bboxes_ignore: not used.
            gt_labels (Tensor): [G].
            query_labels (Tensor, optional): [P], the classes of the boxes.

        Returns:
            AssignResult: of P boxes.
        """
        if gt_labels is None:
            raise ValueError('gt_labels must be given')
        iou = self.iou_calculator(bboxes, gt_bboxes)
        gt_of_box = torch.full((len(bboxes),), -1, device=bboxes.device)
        if len(gt_bboxes) and len(bboxes):
            distance = torch.cdist(gt_bboxes[:, :2], bboxes[:, :2])
            if query_labels is not None:
                distance = distance + self.dist_thre * (query_labels != gt_labels[:, None])
            nearest = distance.min(dim=1, keepdim=True)
            matched = torch.zeros_like(distance, dtype=torch.bool)
            matched.scatter_(1, nearest.indices, nearest.values <= self.dist_thre)
            least = distance.where(matched, torch.inf).argmin(dim=0)  # the first of equal ones
            gt_of_box = least.where(matched.any(dim=0), -1)
        return result(gt_of_box, gt_labels, iou)
