"""Masks of where vehicles can drive, one for each location."""

from pathlib import Path

import cv2
import numpy as np

from .layout import CROSS_REACH, DISTRICT_SIZE, MAIN_END, MAIN_START, Layout
from .scenery import Plot

PIXELS_PER_METRE = 10  # what the devkit expects
SHIFT = 4  # bits of a pixel's fraction that OpenCV keeps


def _drivable(layout: Layout, plots: list[Plot]) -> list[tuple[float, float, float, float]]:
    """Rectangles x0, x1, y0, y1 in the district frame, for traffic on the right."""
    half = layout.main_half
    areas = [(MAIN_START, MAIN_END, -half, half)]
    for crossing in layout.crossings:
        half = layout.cross_half
        areas.append((crossing - half, crossing + half, -CROSS_REACH, CROSS_REACH))
    for plot in plots:
        if plot.kind == 'lot':
            y0, y1 = sorted(plot.depth_to_y(layout, depth) for depth in (0.0, 24.0))
            areas.append((plot.x0, plot.x1, y0, y1))
    return areas


def write_mask(path: Path, districts: list[tuple[Layout, list[Plot]]]) -> None:
    """Writes a location's mask: 255 where vehicles can drive, 0 elsewhere.

    A pixel is a tenth of a metre; the image's last row is y=0 of the global frame, its first
    column x=0.
    """
    east = max(layout.origin[0] for layout, _ in districts) + DISTRICT_SIZE / 2
    north = max(layout.origin[1] for layout, _ in districts) + DISTRICT_SIZE / 2
    size = (int(north * PIXELS_PER_METRE), int(east * PIXELS_PER_METRE))
    mask = np.zeros(size, np.uint8)
    for layout, plots in districts:
        for x0, x1, y0, y1 in _drivable(layout, plots):
            corners = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)], float)
            corners = layout.to_global(corners * (1, layout.mirror, 1))[:, :2]
            pixels = corners * (PIXELS_PER_METRE, -PIXELS_PER_METRE) + (0, size[0])
            polygon = np.round(pixels * 2**SHIFT).astype(np.int32)
            cv2.fillPoly(mask, [polygon], (255,), shift=SHIFT)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
