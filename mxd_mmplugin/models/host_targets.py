"""What mmdet and mmdet3d do box by box or patch by patch, done on the host where the model is on an NPU.

Their code waits for the device at each box, and it sorts integers and writes them to places, which CANN does on its AI
CPU. What it reads are a few thousand numbers: one copy to the host and one back take the place of all that. The code
itself is theirs, and so are the results.
"""

import copy
from collections.abc import Iterator
from typing import Any, Callable

import torch
from mmdet.models import dense_heads as mmdet_heads
from mmdet.models.roi_heads import bbox_heads
from mmdet.models.task_modules import AssignResult, samplers
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet3d.models import dense_heads, layers, roi_heads, segmentors
from mmdet3d.models.roi_heads import mask_heads
from mmdet3d.models.task_modules.samplers import IoUNegPiecewiseSampler as _IoUNegPiecewiseSampler
from torch import Tensor

_RECORDS = AssignResult, SamplingResult  # their tensors are attributes


def _to(value: Any, device: torch.device) -> Any:
    """A copy on the device of whatever has tensors in it."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_to(item, device) for item in value)
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    if isinstance(value, _RECORDS):
        moved = copy.copy(value)
        for name, item in vars(value).items():
            setattr(moved, name, _to(item, device))
        return moved
    # A sample's record names the class of its boxes.
    return value.to(device) if hasattr(value, 'to') and not isinstance(value, type) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those in it, also in a record or an `InstanceData`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif hasattr(value, '__dict__'):
        yield from _tensors(list(vars(value).values()))


def _on_host(method: Callable, *args: Any, **kwargs: Any) -> Any:
    device = next(_tensors(args)).device
    if device.type in ('cpu', 'cuda'):
        return method(*args, **kwargs)
    host = torch.device('cpu')
    moved = {name: _to(value, host) for name, value in kwargs.items()}
    return _to(method(*_to(args, host), **moved), device)


class _TargetsOnHost:
    """Replaces the parts of a head that make the targets and choose the boxes of one sample."""

    def _get_targets_single(self, *args: Any, **kwargs: Any) -> Any:
        return _on_host(super()._get_targets_single, *args, **kwargs)  # type: ignore[misc]

    def get_targets_single(self, *args: Any, **kwargs: Any) -> Any:
        """See mmdet3d, some of whose heads name it so."""
        return _on_host(super().get_targets_single, *args, **kwargs)  # type: ignore[misc]

    def multiclass_nms_single(self, *args: Any, **kwargs: Any) -> Any:
        """See mmdet3d."""
        return _on_host(super().multiclass_nms_single, *args, **kwargs)  # type: ignore[misc]


class _LossOnHost(_TargetsOnHost):
    """Replaces the loss, too: one of a few hundred boxes, which writes integers to places on its way."""

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """See mmdet3d."""
        return _on_host(super().loss_by_feat, *args, **kwargs)  # type: ignore[misc]


class VoteHead(_TargetsOnHost, dense_heads.VoteHead):
    """mmdet3d's `VoteHead`; arguments: see there."""


class GroupFree3DHead(_LossOnHost, dense_heads.GroupFree3DHead):
    """mmdet3d's `GroupFree3DHead`; arguments: see there."""


class SSD3DHead(_LossOnHost, dense_heads.SSD3DHead):
    """mmdet3d's `SSD3DHead`; arguments: see there."""


class PointRPNHead(_LossOnHost, dense_heads.PointRPNHead):
    """mmdet3d's `PointRPNHead`; arguments: see there."""


class RPNHead(_TargetsOnHost, mmdet_heads.RPNHead):
    """mmdet's `RPNHead`; arguments: see there."""


class Shared2FCBBoxHead(bbox_heads.Shared2FCBBoxHead):
    """mmdet's `Shared2FCBBoxHead`; arguments: see there."""

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> dict:
        """See mmdet. The box of each region's own class is gathered, not found by a mask and labels together."""
        if self.reg_class_agnostic or self.reg_decoded_bbox or bbox_pred is None:  # type: ignore[has-type]
            return super().loss(cls_score, bbox_pred, rois, labels, *args, **kwargs)
        boxes = bbox_pred.view(len(bbox_pred), self.num_classes, -1)
        own = labels.clamp(0, self.num_classes - 1).view(-1, 1, 1).expand(-1, 1, boxes.shape[2])
        boxes = boxes.gather(1, own).squeeze(1)
        self.reg_class_agnostic = True
        try:
            return super().loss(cls_score, boxes, rois, labels, *args, **kwargs)
        finally:
            self.reg_class_agnostic = False

    def refine_bboxes(
        self, sampling_results: list[SamplingResult], bbox_results: dict, batch_img_metas: list
    ) -> Any:
        """See mmdet."""
        names = 'bbox_targets', 'cls_score', 'rois', 'bbox_pred'
        read = {name: bbox_results[name] for name in names}
        return _on_host(super().refine_bboxes, sampling_results, read, batch_img_metas)


class PointwiseSemanticHead(_TargetsOnHost, roi_heads.PointwiseSemanticHead):
    """mmdet3d's `PointwiseSemanticHead`; arguments: see there."""


class ForegroundSegmentationHead(_TargetsOnHost, mask_heads.ForegroundSegmentationHead):
    """mmdet3d's `ForegroundSegmentationHead`; arguments: see there."""


class _SamplesOnHost:
    """Replaces the sampling of positive and negative boxes."""

    def sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        """See mmdet."""
        return _on_host(super().sample, *args, **kwargs)  # type: ignore[misc]


class RandomSampler(_SamplesOnHost, samplers.RandomSampler):
    """mmdet's `RandomSampler`; arguments: see there."""


class IoUNegPiecewiseSampler(_SamplesOnHost, _IoUNegPiecewiseSampler):
    """mmdet3d's `IoUNegPiecewiseSampler`; arguments: see there."""


class _AssignsOnHost:
    """Replaces the part of a second stage that takes its boxes from the first one's."""

    def _assign_and_sample(self, *args: Any) -> list[SamplingResult]:
        return _on_host(super()._assign_and_sample, *args)  # type: ignore[misc]


class PartAggregationROIHead(_AssignsOnHost, roi_heads.PartAggregationROIHead):
    """mmdet3d's `PartAggregationROIHead`; arguments: see there."""


class PVRCNNRoiHead(_AssignsOnHost, roi_heads.PVRCNNRoiHead):
    """mmdet3d's `PVRCNNRoiHead`; arguments: see there."""


class PointRCNNRoIHead(_AssignsOnHost, roi_heads.PointRCNNRoIHead):
    """mmdet3d's `PointRCNNRoIHead`; arguments: see there."""


class EncoderDecoder3D(segmentors.EncoderDecoder3D):
    """mmdet3d's `EncoderDecoder3D`; arguments: see there. A room is cut into patches, and put together, on the host."""

    def slide_inference(self, point: Tensor, input_meta: dict, rescale: bool) -> Tensor:
        """Logits [classes, N] of the points [N, 3 + C] of a room."""
        return _on_host(super().slide_inference, point, input_meta, rescale)

    def encode_decode(self, points: Tensor, batch_input_metas: list[dict]) -> Tensor:
        """Logits of patches, on the device of the points, found on that of the model."""
        device = next(self.parameters()).device
        return super().encode_decode(points.to(device), batch_input_metas).to(points.device)


class VoteFusion(layers.VoteFusion):
    """mmdet3d's `VoteFusion`, without weights: what each seed sees in each 2-D box; arguments: see there."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See mmdet3d."""
        return _on_host(super().forward, *args, **kwargs)
