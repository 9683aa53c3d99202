"""The operators of mmcv for rotated boxes run on ours for CPU tensors, those too for which mmcv has GPU code alone.

mmcv's Python takes its compiled functions from `mmcv._ext` at each call: those of the table below are exchanged there.
Tensors of other devices go on to what was there before: npu tensors to mmcv's C++ registry (csrc/mmcv_registry).
"""

import functools
from typing import Any, Callable

import torch
from torch import Tensor

from .ops.rotated_iou import AREA, from_above
from .packages import is_installed


def _box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    found = torch.ops.mxd.rotated_iou(boxes1, boxes2, int(mode_flag), bool(aligned))
    ious.copy_(found.view(ious.shape))


def _nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    classes = labels if multi_label else None
    keep, count = torch.ops.mxd.rotated_nms(dets[:, :5], scores, classes, iou_threshold, True)
    return keep[: int(count)]


def _boxes_overlap_bev(boxes_a: Tensor, boxes_b: Tensor, ans_overlap: Tensor) -> None:
    first, second = from_above('boxes_a', boxes_a), from_above('boxes_b', boxes_b)
    ans_overlap.copy_(torch.ops.mxd.rotated_iou(first, second, AREA, False))


def _nms3d(
    boxes: Tensor, keep: Tensor, keep_num: Tensor, nms_overlap_thresh: float, rotated: bool = True
) -> None:
    seen = from_above('boxes', boxes, rotated)
    kept, count = torch.ops.mxd.rotated_nms(seen, None, None, nms_overlap_thresh, False)
    keep.copy_(kept)
    keep_num.fill_(int(count))


FUNCTIONS: dict[str, Callable] = {
    'box_iou_rotated': _box_iou_rotated,
    'nms_rotated': _nms_rotated,
    'iou3d_boxes_overlap_bev_forward': _boxes_overlap_bev,
    'iou3d_nms3d_forward': _nms3d,
    'iou3d_nms3d_normal_forward': functools.partial(_nms3d, rotated=False),
}


_MMCVS: dict[str, Callable] = {}


def mmcvs(name: str) -> Callable:
    """The function of mmcv itself, one of `FUNCTIONS`."""
    return _MMCVS[name]


def _on_cpu(name: str) -> Callable:
    @torch.no_grad()
    def function(boxes: Tensor, *args: Any, **kwargs: Any) -> Any:
        table = FUNCTIONS if boxes.device.type == 'cpu' else _MMCVS
        return table[name](boxes, *args, **kwargs)

    return function


def serve_boxes() -> bool:
    """Exchange the functions.

    Returns:
        bool: whether mmcv is installed with its operators.
    """
    if not is_installed('mmcv._ext'):
        return False
    import mmcv._ext as extension

    for name in FUNCTIONS.keys() - _MMCVS.keys():
        _MMCVS[name] = getattr(extension, name)
        setattr(extension, name, _on_cpu(name))
    return True
