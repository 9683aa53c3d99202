"""mmdet3d's heads of monocular detection with labels that are float32 while they are written to at places.

CANN writes integers at places on its AI CPU.
"""

from typing import Any

from mmdet3d.models import dense_heads
from mmengine.structures import InstanceData
from torch import Tensor

_LABELS = 'labels', 'labels_3d', 'attr_labels'


class _LabelsAsFloats:
    """Replaces the part of a head that makes the targets of one picture: its labels are float32 for this time."""

    def _get_target_single(
        self, gt_instances_3d: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> tuple[Tensor, ...]:
        truth = (_with_float_labels(part) for part in (gt_instances_3d, gt_instances))
        targets = super()._get_target_single(*truth, **kwargs)  # type: ignore[misc]
        labels, boxes, labels_3d, boxes_3d, centerness, attributes = targets
        return labels.long(), boxes, labels_3d.long(), boxes_3d, centerness, attributes.long()


def _with_float_labels(truth: InstanceData) -> InstanceData:
    given = {name: value.float() if name in _LABELS else value for name, value in truth.items()}
    return InstanceData(**given)


class FCOSMono3DHead(_LabelsAsFloats, dense_heads.FCOSMono3DHead):
    """mmdet3d's `FCOSMono3DHead`; arguments: see there."""


class PGDHead(_LabelsAsFloats, dense_heads.PGDHead):
    """mmdet3d's `PGDHead`; arguments: see there."""
