"""A picture of a frame's camera images with the boxes of ground truth and predictions in them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .bev import INK, PALETTE, PAPER, TRUTH

WIDTH, DPI = 18.0, 100  # inches of the picture, dots an inch
PATCH = dict(facecolor=PAPER, edgecolor='none', alpha=0.8, pad=2)  # behind a text
NEAR = 0.2  # metres before the camera, where edges are cut off
# Where nuScenes' cameras are in the picture, row by row.
ORDER = ('FRONT_LEFT', 'FRONT', 'FRONT_RIGHT', 'BACK_LEFT', 'BACK', 'BACK_RIGHT')
# The edges of a box between its corners: four below, four above, four upright; the front ones are 0-1 and 4-5.
EDGES = np.array(
    [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]]
)


def draw_cameras(
    path: Union[str, Path],
    images: np.ndarray,
    lidar2pixel: np.ndarray,
    names: Sequence[str] = (),
    gt_boxes: ArrayLike = (),
    gt_labels: ArrayLike = (),
    boxes: ArrayLike = (),
    labels: ArrayLike = (),
    scores: ArrayLike = (),
    score_thr: float = 0.3,
    title: str = '',
    tracks: ArrayLike = (),
) -> Path:
    """Draw the images of one frame, three in a row, and write them as a PNG file.

    Boxes are rows of x, y, z of the bottom, dx, dy, dz, yaw and whatever follows, metres and radians in the
    LiDAR frame. The front of a box is crossed.

    Args:
        path (str or Path): the file to write; its folder is made when it is not there.
        images (array): (N, H, W, 3), RGB from 0 to 255.
        lidar2pixel (array): (N, 4, 4), to x * depth, y * depth, depth of an image.
        names (sequence of str): of the cameras; with nuScenes' names the pictures are where the
            cameras look.
        gt_boxes (array): ground-truth boxes, (G, 7 or more).
        gt_labels (array): their labels, (G,); those below 0 are left out.
        boxes, labels, scores (array): predicted boxes (P, 7 or more), their labels and scores.
        score_thr (float): predictions below it are left out.
        title (str): the line above the picture.
        tracks (array): numbers of the predictions' tracks, (P,), or nothing. Boxes then have the
            colours of their tracks, and the numbers on them.

    Returns:
        Path: the file written.
    """
    keep = np.asarray(scores) >= score_thr
    tracks = np.asarray(tracks, dtype=int)
    tracks = tracks[keep] if len(tracks) else tracks
    numbers = np.asarray(labels, dtype=int)[keep] if len(tracks) == 0 else tracks
    kept = _corners(boxes)[keep]
    colors = [PALETTE[number % len(PALETTE)] for number in numbers]
    truth = _corners(gt_boxes)[np.asarray(gt_labels, dtype=int) >= 0]
    count, height, width = np.shape(images)[:3]
    columns = min(3, count)
    rows = -(-count // columns)
    size = WIDTH, WIDTH * rows * height / (columns * width)
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER)
    for place, index in enumerate(_places(names, count)):
        row, column = divmod(place, columns)
        area = column / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows
        axes = figure.add_axes(area)
        axes.imshow(np.clip(images[index], 0, 255).astype(np.uint8))
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.set_axis_off()
        _draw(axes, truth, lidar2pixel[index], [TRUTH] * len(truth), 1.4)
        _draw(axes, kept, lidar2pixel[index], colors, 1.0)
        if len(tracks):
            _write(axes, kept, lidar2pixel[index], colors, tracks)
        name = names[index] if len(names) else f'camera {index}'
        axes.text(0.01, 0.03, name, transform=axes.transAxes, color=INK, bbox=PATCH)
    if title:
        figure.text(0.004, 0.99, title, va='top', weight='bold', color=INK, bbox=PATCH)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def camera_name(path: Union[str, Path]) -> str:
    """The name of nuScenes' camera in the path of an image, else the name of the file."""
    found = re.search(r'CAM_([A-Z]+(?:_[A-Z]+)*)', str(path))
    return found.group(1) if found else Path(path).stem


def _places(names: Sequence[str], count: int) -> Sequence[int]:
    """The cameras in the order of the places of the picture."""
    if set(names) == set(ORDER):
        return [list(names).index(name) for name in ORDER]
    return range(count)


def _corners(boxes: ArrayLike) -> np.ndarray:
    """(N, 8, 3): below, then above, each front left, front right, back right, back left."""
    boxes = np.asarray(boxes, dtype=float)
    boxes = boxes if len(boxes) else boxes.reshape(0, 7)
    unit = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
    offsets = unit * boxes[:, None, 3:5]
    cos, sin = np.cos(boxes[:, None, 6]), np.sin(boxes[:, None, 6])
    x = boxes[:, None, 0] + offsets[..., 0] * cos - offsets[..., 1] * sin
    y = boxes[:, None, 1] + offsets[..., 0] * sin + offsets[..., 1] * cos
    below = np.stack([x, y, np.broadcast_to(boxes[:, None, 2], x.shape)], axis=-1)
    above = below + np.array([0, 0, 1]) * boxes[:, None, None, 5]
    return np.concatenate([below, above], axis=1)


def _draw(
    axes: Axes, corners: np.ndarray, matrix: np.ndarray, colors: Sequence[str], width: float
) -> None:
    """Draw the edges before the camera, and the diagonals of the front."""
    edges = np.concatenate([EDGES, [[0, 5], [1, 4]]])
    matrix = np.asarray(matrix, dtype=float)
    seen = corners @ matrix[:3, :3].T + matrix[:3, 3]
    lines = seen[:, edges].reshape(-1, 2, 3)
    shades = np.repeat(np.array(colors, dtype=object), len(edges))
    depth = lines[..., 2]
    before = (depth > NEAR).any(axis=1)
    lines, shades, depth = lines[before], shades[before], depth[before]
    # An end behind the camera moves along its edge to the near plane.
    share = np.clip((NEAR - depth) / (depth[:, ::-1] - depth + 1e-9), 0, 1) * (depth < NEAR)
    lines = lines + share[..., None] * (lines[:, ::-1] - lines)
    pixels = lines[..., :2] / lines[..., 2:]
    axes.add_collection(LineCollection(pixels, colors=list(shades), lw=width))


def _write(
    axes: Axes, corners: np.ndarray, matrix: np.ndarray, colors: Sequence[str], texts: np.ndarray
) -> None:
    """Write a text above each box whose middle is in the image."""
    matrix = np.asarray(matrix, dtype=float)
    above = corners[:, 4:].mean(axis=1) @ matrix[:3, :3].T + matrix[:3, 3]
    style: dict[str, Any] = dict(
        fontsize=7, ha='center', va='bottom', clip_on=True, bbox=dict(PATCH, pad=0.6)
    )
    for (x, y, depth), text, color in zip(above, texts, colors):
        if depth > NEAR:
            axes.text(x / depth, y / depth, str(text), color=color, **style)
