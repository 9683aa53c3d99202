"""Assigners of mmdet and mmdet3d without their loop over the boxes, which waits for the device at each."""

from typing import Any

import torch
from mmdet.models.task_modules import AssignResult
from mmdet.models.task_modules import MaxIoUAssigner as _MaxIoUAssigner
from mmdet3d.models.task_modules.assigners import Max3DIoUAssigner as _Max3DIoUAssigner
from torch import Tensor


class _AllBoxesAtOnce:
    """Replaces the part of an assigner that comes after the overlaps."""

    neg_iou_thr: Any
    pos_iou_thr: float
    min_pos_iou: float
    match_low_quality: bool
    gt_max_assign_all: bool

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """Assign by the overlaps [k, n] of k boxes, with labels [k], and n priors; see mmdet."""
        boxes, priors = overlaps.shape
        if boxes == 0 or priors == 0:
            return super().assign_wrt_overlaps(overlaps, gt_labels)  # type: ignore[misc]
        highest, nearest = overlaps.max(dim=0)
        low, high = self._negative_range()
        negative = (highest >= low) & (highest < high)
        assigned = torch.where(negative, 0, -1)
        assigned = torch.where(highest >= self.pos_iou_thr, nearest + 1, assigned)
        if self.match_low_quality:
            last = self._last_nearest_to(overlaps)
            assigned = torch.where(last > 0, last, assigned)
        labels = torch.where(assigned > 0, gt_labels[(assigned - 1).clamp(min=0)], -1)
        return AssignResult(boxes, assigned, highest, labels=labels)

    def _negative_range(self) -> tuple[float, float]:
        if isinstance(self.neg_iou_thr, tuple):
            low, high = self.neg_iou_thr
            return low, high
        return 0.0, self.neg_iou_thr

    def _last_nearest_to(self, overlaps: Tensor) -> Tensor:
        """For each prior the number, from 1, of the last box that it is nearest to; 0 for none: int64 [n]."""
        highest, nearest = overlaps.max(dim=1)
        if self.gt_max_assign_all:
            matched = overlaps == highest[:, None]
        else:
            priors = torch.arange(overlaps.shape[1], device=overlaps.device)
            matched = priors == nearest[:, None]
        matched = matched & (highest >= self.min_pos_iou)[:, None]
        numbers = torch.arange(1, len(overlaps) + 1, dtype=torch.int32, device=overlaps.device)
        return torch.where(matched, numbers[:, None], 0).amax(0).long()


class MaxIoUAssigner(_AllBoxesAtOnce, _MaxIoUAssigner):
    """mmdet's `MaxIoUAssigner`; arguments: see there."""


class Max3DIoUAssigner(_AllBoxesAtOnce, _Max3DIoUAssigner):
    """mmdet3d's `Max3DIoUAssigner`; arguments: see there."""
