"""Rotated boxes, beside mmcv's compiled CPU code: overlaps of all pairs and of rows, and suppression."""

from collections.abc import Iterator
from typing import Callable

import torch
from torch import Tensor

from ..mmcv_boxes import mmcvs
from ..ops import box_iou_rotated, nms_rotated
from .case import Case

THRESHOLD = 0.2


def boxes_of(count: int, seed: int, metres: float) -> Tensor:
    """Cars on a square with sides of `metres`, [count, 5]."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([metres, metres, 4, 2, 6.3])
    return torch.rand(count, 5, generator=generator) * scale + torch.tensor([0, 0, 1, 1, -3.15])


def mmcv_iou(first: Tensor, second: Tensor, aligned: bool) -> Callable[[], Tensor]:
    """The function of mmcv, which is exchanged where this package is imported."""

    def run() -> Tensor:
        out = first.new_zeros(len(first) if aligned else len(first) * len(second))
        mmcvs('box_iou_rotated')(first, second, out, mode_flag=0, aligned=aligned)
        return out

    return run


def mmcv_nms(boxes: Tensor, scores: Tensor) -> Callable[[], Tensor]:
    """The same of its suppression."""
    nothing = scores.new_empty(0, dtype=torch.int)

    def run() -> Tensor:
        order = scores.sort(0, descending=True)[1]
        return mmcvs('nms_rotated')(boxes, scores, order, boxes[order], nothing, THRESHOLD, 0)

    return run


def _overlaps(rows: int, columns: int) -> Iterator[Case]:
    first, second = boxes_of(rows, 0, 50), boxes_of(columns, 1, 50)
    yield Case(
        f'IoU of all pairs, {rows} x {columns}',
        'forward',
        lambda: box_iou_rotated(first, second),
        {'mmcv': mmcv_iou(first, second, False)},
        size=rows * columns,
    )
    many, others = boxes_of(rows * 10, 0, 50), boxes_of(rows * 10, 0, 50)
    others[:, :2] += 1
    yield Case(
        f'IoU of rows, {rows * 10}',
        'forward',
        lambda: box_iou_rotated(many, others, aligned=True),
        {'mmcv': mmcv_iou(many, others, True)},
        size=rows * 10,
    )


def _suppression(count: int) -> Iterator[Case]:
    boxes = boxes_of(count, 0, 1.7 * count**0.5)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(2))
    yield Case(
        f'rotated NMS, {count} boxes',
        'forward',
        lambda: nms_rotated(boxes, scores, THRESHOLD),
        {'mmcv': mmcv_nms(boxes, scores)},
        size=count,
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other.
    """
    sizes = {
        'small': ((40, 20, 100),),
        'model': ((200, 60, 1000),),
        'large': ((100, 60, 500), (200, 120, 1000), (400, 240, 2000)),
    }
    for rows, columns, boxes in sizes[shapes]:
        yield from _overlaps(rows, columns)
        yield from _suppression(boxes)
