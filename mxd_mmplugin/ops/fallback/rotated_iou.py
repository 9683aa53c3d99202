"""Rotated boxes in plain PyTorch, on any device: all pairs at once, and the greedy choice on the host."""

from typing import Optional

import torch
from torch import Tensor

from .plain import compute_dtype, plain_form

IOU, IOF, AREA = range(3)
LEAST_AREA = 1e-14


def _numbers(boxes: Tensor) -> list[Tensor]:
    """x, y, half width, half height, angle, area of boxes; zeros of those that overlap nothing."""
    boxes = boxes.to(compute_dtype(boxes.dtype))
    size = boxes[:, 2:4].clamp(min=0)
    area = size[:, 0] * size[:, 1]
    finite = ((boxes[:, 0] + boxes[:, 1] + boxes[:, 4] + area) * 0) == 0
    counts = finite & (area >= LEAST_AREA)
    columns = boxes[:, 0], boxes[:, 1], size[:, 0] / 2, size[:, 1] / 2, boxes[:, 4], area
    return [column.where(counts, torch.zeros_like(column)) for column in columns]


def _along_side(x: Tensor, y: Tensor, a: Tensor, b: Tensor, center: Tensor) -> Tensor:
    """The integral of (min(max(x, -a), a) - center) dy along sides from corners [0] to [1] where |y| < b."""
    tiny = torch.finfo(x.dtype).tiny
    inside = torch.minimum(torch.maximum(y, -b), b)
    rise = (y[1] - y[0]).abs().clamp(min=tiny)
    cut = ((inside - y).abs() / rise).clamp(max=1) * (x[1] - x[0])
    begin, end = x[0] + cut[0], x[1] - cut[1]
    low, high = torch.minimum(begin, end), torch.maximum(begin, end)
    above = torch.maximum(high, a) - torch.maximum(low, a)
    below = torch.minimum(high, -a) - torch.minimum(low, -a)
    mean = (
        torch.minimum(torch.maximum(low, -a), a) + torch.minimum(torch.maximum(high, -a), a)
    ) / 2
    beyond = (above * (a - mean) - below * (a + mean)) / (high - low).clamp(min=tiny)
    return (mean - center + beyond) * (inside[1] - inside[0])


@plain_form('rotated_iou')
def iou(boxes1: Tensor, boxes2: Tensor, mode: int, aligned: bool) -> Tensor:
    """See csrc/ops/rotated_iou.h; [N, M], or [N] if `aligned`."""
    first, second = _numbers(boxes1), _numbers(boxes2)
    if not aligned:
        first = [column[:, None] for column in first]
    x, y, a, b, angle, area = first
    dx, dy, turn = second[0] - x, second[1] - y, second[4] - angle
    cosine, sine = angle.cos(), angle.sin()
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    cosine, sine = turn.cos(), turn.sin()
    px, py = second[2] * cosine, second[2] * sine
    qx, qy = -second[3] * sine, second[3] * cosine
    signs = (-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)
    xs = torch.stack([u + i * px + j * qx for i, j in signs])
    ys = torch.stack([v + i * py + j * qy for i, j in signs])
    center = torch.minimum(torch.maximum(u, -a), a)
    shared = torch.zeros_like(u)
    for i in range(4):
        shared = shared + _along_side(xs[i : i + 2], ys[i : i + 2], a, b, center)
    shared = shared.clamp(min=0)
    if mode != AREA:
        whole = area if mode == IOF else area + second[5] - shared
        shared = shared / whole.clamp(min=LEAST_AREA)
    return shared.to(boxes1.dtype)


def _best_first(scores: Tensor) -> Tensor:
    return scores.sort(dim=0, descending=True, stable=True).indices


def _keep(
    order: Tensor, suppresses: Tensor, gone: Optional[Tensor] = None
) -> tuple[Tensor, Tensor]:
    """The boxes that no better one suppresses; bool [N, N]: whether row's box suppresses column's."""
    gone = torch.zeros(len(order), dtype=torch.bool) if gone is None else gone.cpu()
    kept = []
    for i, row in enumerate(suppresses.cpu()):
        if not gone[i]:
            kept.append(i)
            gone = gone | row
    places = torch.tensor(kept, dtype=torch.long)
    rest = torch.zeros(len(order) - len(kept), dtype=torch.long)
    keep = order[torch.cat([places, rest]).to(order.device)]
    return keep, torch.tensor([len(kept)]).to(order.device)


@plain_form('rotated_nms')
def nms(
    boxes: Tensor,
    scores: Optional[Tensor],
    labels: Optional[Tensor],
    threshold: float,
    inclusive: bool,
) -> tuple[Tensor, Tensor]:
    """See csrc/ops/rotated_iou.cpp; keep [N] and count [1]."""
    rows = torch.arange(len(boxes)).to(boxes.device)
    order = rows if scores is None else _best_first(scores)
    sorted_boxes = boxes[order].to(compute_dtype(boxes.dtype))
    overlaps = iou(sorted_boxes, sorted_boxes, IOU, False)
    suppresses = overlaps >= threshold if inclusive else overlaps > threshold
    if labels is not None:
        sorted_labels = labels[order]
        suppresses = suppresses & (sorted_labels[:, None] == sorted_labels)
    return _keep(order, suppresses)


def _near(centers: Tensor, threshold: float) -> Tensor:
    x, y = centers.to(compute_dtype(centers.dtype)).unbind(1)
    dx, dy = x[:, None] - x, y[:, None] - y
    return dx * dx + dy * dy <= threshold


@plain_form('circle_nms')
def circle_nms(centers: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """See csrc/ops/rotated_iou.cpp; keep [N] and count [1]."""
    order = _best_first(scores)
    return _keep(order, _near(centers[order], threshold))


@plain_form('grouped_nms')
def grouped_nms(
    boxes: Tensor, valid: Tensor, threshold: float, inclusive: bool
) -> tuple[Tensor, Tensor]:
    """See csrc/ops/rotated_iou.cpp; keep [groups, N] and count [groups]."""
    keep = torch.zeros(valid.shape, dtype=torch.long).to(boxes.device)
    count = torch.zeros(len(boxes), dtype=torch.long).to(boxes.device)
    order = torch.arange(boxes.shape[1]).to(boxes.device)
    for group, rows in enumerate(boxes):
        if boxes.shape[2] == 2:
            suppresses = _near(rows, threshold)
        else:
            wide = rows.to(compute_dtype(rows.dtype))
            overlaps = iou(wide, wide, IOU, False)
            suppresses = overlaps >= threshold if inclusive else overlaps > threshold
        kept, counted = _keep(order, suppresses, ~valid[group])
        places = order < counted
        keep[group] = kept.where(places, keep[group])
        count[group] = counted[0]
    return keep, count
