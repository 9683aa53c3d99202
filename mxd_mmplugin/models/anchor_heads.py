"""mmdet3d's heads on anchors, with the targets of all anchors found at once.

mmdet3d collects the numbers of the positive and the negative anchors, which waits for the device and sorts integers,
and writes into tensors of integers at these places; CANN does both on its AI CPU.
"""

from typing import Any, Optional

import torch
from mmdet.models import task_modules
from mmdet3d.models import dense_heads
from mmdet3d.models.dense_heads.train_mixins import get_direction_target
from mmdet3d.models.task_modules import samplers
from mmengine.structures import InstanceData
from torch import Tensor

# Those that choose nothing: all positive and all negative anchors count.
_TAKING_ALL = task_modules.PseudoSampler, samplers.PseudoSampler


class _TargetsOfAllAnchors:
    """Replaces the part of a head that makes the targets of the anchors of one assigner."""

    bbox_sampler: Any
    bbox_coder: Any
    train_cfg: Any
    dir_offset: float
    dir_limit_offset: float

    def anchor_target_single_assigner(
        self,
        bbox_assigner: Any,
        anchors: Tensor,
        gt_instance_3d: InstanceData,
        gt_instance_ignore: Optional[InstanceData],
        input_meta: dict,
        num_classes: int = 1,
        sampling: bool = True,
    ) -> tuple[Tensor, ...]:
        """Targets of anchors [..., code]; see mmdet3d. A head whose sampler chooses is served by mmdet3d's code."""
        boxes, labels = gt_instance_3d.bboxes_3d, gt_instance_3d.labels_3d
        if not isinstance(self.bbox_sampler, _TAKING_ALL) or labels is None:
            return super().anchor_target_single_assigner(  # type: ignore[misc]
                bbox_assigner,
                anchors,
                gt_instance_3d,
                gt_instance_ignore,
                input_meta,
                num_classes,
                sampling,
            )
        anchors = anchors.reshape(-1, anchors.shape[-1])
        if not isinstance(boxes, Tensor):
            boxes = boxes.tensor.to(anchors.device)
        if len(boxes):
            truth = InstanceData(bboxes_3d=boxes, labels_3d=labels)
            priors = InstanceData(priors=anchors)
            assigned = bbox_assigner.assign(priors, truth, gt_instance_ignore).gt_inds
            own = (assigned - 1).clamp(min=0)
            targets = self.bbox_coder.encode(anchors, boxes[own])
            directions = get_direction_target(
                anchors, targets, self.dir_offset, self.dir_limit_offset, one_hot=False
            )
            classes = labels[own]
        else:
            assigned = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
            targets, directions, classes = torch.zeros_like(anchors), assigned, assigned
        positive, negative = assigned > 0, assigned == 0
        ones = positive.to(anchors.dtype)
        weight = self.train_cfg.pos_weight if self.train_cfg.pos_weight > 0 else 1.0
        return (
            torch.where(positive, classes, num_classes),
            ones * weight + negative.to(anchors.dtype),
            torch.where(positive[:, None], targets, 0.0),
            ones[:, None].repeat(1, anchors.shape[1]),
            torch.where(positive, directions, 0),
            ones,
            positive.nonzero().squeeze(1),
            negative.nonzero().squeeze(1),
        )


class Anchor3DHead(_TargetsOfAllAnchors, dense_heads.Anchor3DHead):
    """mmdet3d's `Anchor3DHead`; arguments: see there."""


class PartA2RPNHead(_TargetsOfAllAnchors, dense_heads.PartA2RPNHead):
    """mmdet3d's `PartA2RPNHead`; arguments: see there."""


class ShapeAwareHead(_TargetsOfAllAnchors, dense_heads.ShapeAwareHead):
    """mmdet3d's `ShapeAwareHead`; arguments: see there."""
