"""Rotated boxes: overlaps, and non-maximum suppression by overlap or by distance.

A box is x, y, width, height and angle (radians). In coordinates with y upward, a positive angle turns
counterclockwise; in an image, whose y goes downward, clockwise. The functions have the arguments and the
conventions of mmcv's of the same name. The geometry is told in csrc/ops/rotated_iou.h. Nothing has a gradient.
"""

from typing import Optional

import torch
from torch import Tensor

MODES = {'iou': 0, 'iof': 1}
AREA = 2


def _turned(boxes: Tensor, clockwise: bool) -> Tensor:
    if clockwise or boxes.dim() != 2 or boxes.shape[1] != 5:  # the operator refuses other shapes
        return boxes
    return torch.cat([boxes[:, :4], -boxes[:, 4:]], dim=1)


def from_above(name: str, boxes: Tensor, rotated: bool = True) -> Tensor:
    """x, y, sizes and yaw of boxes [N, 7]."""
    if boxes.dim() != 2 or boxes.shape[1] != 7:
        raise ValueError(
            f'{name} must have shape [boxes, 7] (x, y, z, sizes, yaw), was {list(boxes.shape)}'
        )
    yaw = boxes[:, 6:] if rotated else torch.zeros_like(boxes[:, 6:])
    return torch.cat([boxes[:, :2], boxes[:, 3:5], yaw], dim=1)


@torch.no_grad()
def box_iou_rotated(
    bboxes1: Tensor,
    bboxes2: Tensor,
    mode: str = 'iou',
    aligned: bool = False,
    clockwise: bool = True,
) -> Tensor:
    """Overlaps of rotated boxes.

    Args:
        bboxes1, bboxes2 (Tensor): [N, 5] and [M, 5], one floating dtype. A box that is not finite, or
            whose area is below 1e-14, overlaps nothing.
        mode (str): the shared area divided by the union's ('iou') or by the first box's ('iof').
        aligned (bool): each box with the one of the same row, all pairs otherwise.
        clockwise (bool): the sense of a positive angle, in an image.

    Returns:
        Tensor: [N, M], or [N] if `aligned`, in the dtype of the boxes; computed in float64 on a CPU, in
        float32 on an NPU.

    Raises:
        ValueError: another mode, shape or device; TypeError: another dtype.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be 'iou' or 'iof', was {mode!r}")
    first, second = _turned(bboxes1, clockwise), _turned(bboxes2, clockwise)
    return torch.ops.mxd.rotated_iou(first, second, MODES[mode], aligned)


@torch.no_grad()
def boxes_overlap_bev(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """The areas that boxes share, seen from above.

    Args:
        boxes_a, boxes_b (Tensor): [N, 7] and [M, 7], x, y, z, sizes along x, y and z, yaw; metres and radians.

    Returns:
        Tensor: [N, M], square metres.
    """
    first, second = from_above('boxes_a', boxes_a), from_above('boxes_b', boxes_b)
    return torch.ops.mxd.rotated_iou(first, second, AREA, False)


def _first(keep: Tensor, count: Tensor) -> Tensor:
    return keep[: int(count)]


@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Optional[Tensor] = None,
    clockwise: bool = True,
) -> tuple[Tensor, Tensor]:
    """Choose boxes: one stays unless a better one that stays overlaps it by the threshold or more.

    The only wait for the device is that for how many are left. Of equal scores the first is the better one.

    Args:
        dets (Tensor): [N, 5].
        scores (Tensor): [N].
        iou_threshold (float): of the shared area divided by the area of the union.
        labels (Tensor, optional): [N], whole numbers below 2**24; boxes of different labels do not
            suppress each other. (mmcv ignores them on a CPU.)
        clockwise (bool): the sense of a positive angle, in an image.

    Returns:
        tuple[Tensor, Tensor]: what is left, the best first: boxes and scores [K, 6], and rows, int64 [K].

    Raises:
        ValueError: another shape or device; TypeError: another dtype.
    """
    boxes = _turned(dets, clockwise)
    kept = _first(*torch.ops.mxd.rotated_nms(boxes, scores, labels, iou_threshold, True))
    return torch.cat([dets[kept], scores[kept].reshape(-1, 1)], dim=1), kept


@torch.no_grad()
def nms3d(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Choose boxes: one stays unless a better one that stays overlaps it, seen from above, by more than the threshold.

    Args:
        boxes (Tensor): [N, 7], x, y, z, sizes, yaw.
        scores (Tensor): [N].
        iou_threshold (float): of the shared area divided by the area of the union.

    Returns:
        Tensor: rows, int64 [K], the best first.
    """
    seen = from_above('boxes', boxes)
    return _first(*torch.ops.mxd.rotated_nms(seen, scores, None, iou_threshold, False))


@torch.no_grad()
def nms3d_normal(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`nms3d` of boxes whose yaw counts as 0."""
    seen = from_above('boxes', boxes, rotated=False)
    return _first(*torch.ops.mxd.rotated_nms(seen, scores, None, iou_threshold, False))


@torch.no_grad()
def circle_nms(
    centers: Tensor, scores: Tensor, threshold: float, post_max_size: Optional[int] = 83
) -> Tensor:
    """Choose boxes as mmdet3d's `circle_nms`: one stays unless the center of a better one that stays is near.

    Args:
        centers (Tensor): [N, 2], x and y.
        scores (Tensor): [N].
        threshold (float): the greatest SQUARED distance that counts as near.
        post_max_size (int, optional): how many are returned at most.

    Returns:
        Tensor: rows, int64 [K], the best first.
    """
    return _first(*torch.ops.mxd.circle_nms(centers, scores, threshold))[:post_max_size]


@torch.no_grad()
def grouped_nms(
    boxes: Tensor, valid: Tensor, threshold: float, inclusive: bool = True
) -> tuple[Tensor, Tensor]:
    """Choose boxes in each of many groups at once, such as the samples and tasks of a prediction.

    It waits for nothing: how many are left stays on the device.

    Args:
        boxes (Tensor): [groups, N, 5], the best first in each group, chosen by overlap as in `nms_rotated`, or
            centers [groups, N, 2], chosen by squared distance as in `circle_nms`. N is at most 4096.
        valid (Tensor): bool [groups, N]; others are left out, and suppress nothing.
        threshold (float): of the overlap, or of the squared distance.
        inclusive (bool): whether an overlap of just the threshold suppresses. Default: True.

    Returns:
        tuple[Tensor, Tensor]: places of the boxes that are left, int64 [groups, N], in order, and zeros behind
            them; how many are left, int64 [groups].

    Raises:
        ValueError: another shape or device; TypeError: another dtype.
    """
    return torch.ops.mxd.grouped_nms(boxes, valid, threshold, inclusive)
