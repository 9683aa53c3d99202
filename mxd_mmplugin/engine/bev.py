"""A bird's-eye picture of a frame: points, ground truth and predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

PAPER, INK, POINT, TRUTH = '#fbfaf7', '#222222', '#3a3a44', '#1a9e3f'
# One colour a class, repeated after ten; no green, which is the ground truth's.
PALETTE = (
    '#d7301f',
    '#1f65c8',
    '#8e44ad',
    '#f08c00',
    '#00a3b8',
    '#6d4c41',
    '#d81b7a',
    '#1a237e',
    '#b08900',
    '#757575',
)
INCHES, DPI = 9.0, 120


def draw_bev(
    path: Union[str, Path],
    points: ArrayLike,
    class_names: Sequence[str],
    gt_boxes: ArrayLike = (),
    gt_labels: ArrayLike = (),
    boxes: ArrayLike = (),
    labels: ArrayLike = (),
    scores: ArrayLike = (),
    score_thr: float = 0.3,
    view_range: Sequence[float] = (-51.2, -51.2, 51.2, 51.2),
    title: str = '',
    tracks: ArrayLike = (),
) -> Path:
    """Draw one frame from above and write it as a PNG file.

    Lengths are metres and angles radians in the LiDAR frame: x to the right of the picture, y to
    its top. Boxes are rows of x, y, z, dx, dy, dz, yaw and whatever follows; the tick that leaves
    a box shows where it heads.

    Args:
        path (str or Path): the file to write; its folder is made when it is not there.
        points (array): (N, 2 or more), x and y first.
        class_names (sequence of str): the names that the labels count.
        gt_boxes (array): ground-truth boxes, (G, 7 or more).
        gt_labels (array): their labels, (G,); those below 0, classes outside `class_names`,
            are left out.
        boxes (array): predicted boxes, (P, 7 or more).
        labels (array): their labels, (P,).
        scores (array): their scores, (P,), from 0 to 1.
        score_thr (float): predictions below it are left out.
        view_range (sequence of float): x_min, y_min, x_max, y_max of the picture.
        title (str): the line above the picture.
        tracks (array): numbers of the predictions' tracks, (P,), or nothing. Boxes then have the
            colours of their tracks, and the numbers beside them in place of the scores.

    Returns:
        Path: the file written.
    """
    x_min, y_min, x_max, y_max = view_range
    points, tracks = np.asarray(points), np.asarray(tracks, dtype=int)
    gt_boxes, gt_labels = _as_boxes(gt_boxes), np.asarray(gt_labels, dtype=int)
    gt_boxes, gt_labels = gt_boxes[gt_labels >= 0], gt_labels[gt_labels >= 0]
    boxes, labels, scores = _as_boxes(boxes), np.asarray(labels, dtype=int), np.asarray(scores)
    keep = scores >= score_thr
    boxes, labels, scores = boxes[keep], labels[keep], scores[keep]
    tracks = tracks[keep] if len(tracks) else tracks

    figure = Figure(figsize=(INCHES, INCHES * (y_max - y_min) / (x_max - x_min)), dpi=DPI)
    figure.set_facecolor(PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(x_min, x_max), ylim=(y_min, y_max))
    axes.set_axis_off()

    axes.plot(points[:, 0], points[:, 1], ',', color=POINT, alpha=0.55)
    _draw_rings(axes, view_range)
    _draw_boxes(axes, gt_boxes, [TRUTH] * len(gt_boxes), fill=0.12, width=2.2)
    numbers = labels if len(tracks) == 0 else tracks
    colors = [PALETTE[number % len(PALETTE)] for number in numbers]
    texts = [f'{score:.2f}' for score in scores] if len(tracks) == 0 else map(str, tracks)
    _draw_boxes(axes, boxes, colors, fill=0.0, width=1.3)
    for box, text, color in zip(boxes, texts, colors):
        right, top = _corners(box[None])[0].max(axis=0)
        axes.annotate(
            text,
            (right, top),
            textcoords='offset points',
            xytext=(1, 1),
            fontsize=6.5,
            color=color,
            annotation_clip=True,
        )
    _draw_ego(axes)
    _draw_scale(axes, view_range)
    _draw_legend(axes, class_names, gt_labels, labels, PALETTE if len(tracks) == 0 else [INK])
    _label(axes, 0.015, 0.985, title, va='top', fontsize=11, weight='bold')

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _as_boxes(boxes: ArrayLike) -> np.ndarray:
    """Give boxes as a float array (N, 7 or more), also when there are none."""
    boxes = np.asarray(boxes, dtype=float)
    return boxes if len(boxes) else boxes.reshape(0, 7)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Corners in the x-y plane, (N, 4, 2), starting at the front left and going clockwise."""
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    forward = np.stack([cos, sin], axis=-1) * boxes[:, 3:4] / 2
    left = np.stack([-sin, cos], axis=-1) * boxes[:, 4:5] / 2
    offsets = np.stack([forward + left, forward - left, -forward - left, left - forward], axis=1)
    return boxes[:, None, :2] + offsets


def _draw_boxes(
    axes: Axes, boxes: np.ndarray, colors: Sequence[str], fill: float, width: float
) -> None:
    """Draw outlines with a heading tick beyond the front: one metre long, half as long as a short box."""
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=-1)
    fronts = boxes[:, :2] + heading * boxes[:, 3:4] / 2
    ticks = np.stack([fronts, fronts + heading * np.minimum(1, boxes[:, 3:4] / 2)], axis=1)
    corners = _corners(boxes)
    if fill:
        axes.add_collection(PolyCollection(list(corners), facecolors=colors, alpha=fill))
    axes.add_collection(
        PolyCollection(list(corners), facecolors='none', edgecolors=colors, lw=width)
    )
    axes.add_collection(LineCollection(ticks, colors=colors, lw=width))


def _draw_rings(axes: Axes, view_range: Sequence[float]) -> None:
    """Draw thin circles around the origin, ten metres apart."""
    angle = np.linspace(0, 2 * np.pi, 181)
    radii = np.arange(10, np.abs(view_range).max() * 1.42, 10)
    circles = radii[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    axes.add_collection(LineCollection(circles, colors='#c9c5bb', lw=0.5, zorder=0))


def _draw_ego(axes: Axes) -> None:
    """Mark the sensor with its axes, x red and y blue, three metres long."""
    for direction, color in (((3, 0), '#c62828'), ((0, 3), '#1565c0')):
        arrow = dict(arrowstyle='-|>', color=color, lw=1.6, shrinkA=0, shrinkB=0)
        axes.annotate('', direction, (0, 0), arrowprops=arrow)
    axes.plot(0, 0, 'o', color=INK, ms=6, mec='white', mew=1)


def _draw_scale(axes: Axes, view_range: Sequence[float]) -> None:
    """Draw a bar in the lower left corner, about a tenth of the picture long."""
    x_min, y_min, x_max, y_max = view_range
    length = max(x for x in (1, 2, 5, 10, 20, 50, 100) if x == 1 or x <= (x_max - x_min) / 8)
    x, y = x_min + 0.02 * (x_max - x_min), y_min + 0.025 * (y_max - y_min)
    axes.plot([x, x + length], [y, y], color=INK, lw=3, solid_capstyle='butt')
    axes.annotate(
        f'{length} m',
        (x + length / 2, y),
        textcoords='offset points',
        xytext=(0, 4),
        ha='center',
        fontsize=9,
        color=INK,
    )


def _draw_legend(
    axes: Axes,
    class_names: Sequence[str],
    gt_labels: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[str],
) -> None:
    """Name the colours, and count what was predicted and what is there."""
    handles = [Line2D([], [], color=TRUTH, lw=2.2, label='ground truth')]
    for label in np.union1d(gt_labels, labels).astype(int):
        text = f'{class_names[label]} {(labels == label).sum()} / {(gt_labels == label).sum()}'
        handles.append(Line2D([], [], color=palette[label % len(palette)], lw=1.3, label=text))
    legend = axes.legend(
        handles=handles,
        loc='lower right',
        title='predicted / true',
        alignment='left',
        fontsize=8.5,
        title_fontsize=8.5,
        facecolor=PAPER,
        edgecolor='#c9c5bb',
        framealpha=0.9,
    )
    legend.set_zorder(5)


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write text at a fraction of the picture, on a patch of paper."""
    patch = dict(facecolor=PAPER, edgecolor='none', alpha=0.85, pad=3)
    axes.text(x, y, text, transform=axes.transAxes, color=INK, bbox=patch, **style)
