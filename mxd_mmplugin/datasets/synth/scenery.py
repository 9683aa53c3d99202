"""What stands still and is not annotated: ground, markings, buildings, trees and poles."""

from dataclasses import dataclass

import numpy as np

from .geometry import Material, Mesh, merge
from .layout import (
    CROSS_REACH,
    KERB_HEIGHT,
    LANE,
    MAIN_END,
    MAIN_START,
    MEDIAN,
    SIDEWALK,
    Layout,
)
from .shapes import DARK, GLASS, METAL, beam, box, circle, loft, quad

ASPHALT = Material((88, 89, 92), 0.07)
PAVING = Material((168, 163, 154), 0.17)
KERB = Material((190, 188, 182), 0.22)
GRASS = Material((98, 122, 66), 0.28)
DIRT = Material((140, 116, 86), 0.20)
MARKING = Material((226, 226, 220), 0.55)
TRUNK = Material((96, 74, 54), 0.20)
LEAVES = Material((62, 98, 50), 0.34)
SIGN = Material((30, 96, 60), 0.85)
RED_LIGHT = Material((226, 40, 34), 0.30)
GREEN_LIGHT = Material((48, 206, 104), 0.30)
WALLS = (
    Material((172, 142, 120), 0.26),
    Material((198, 190, 176), 0.36),
    Material((128, 132, 140), 0.24),
    Material((156, 96, 78), 0.22),
    Material((214, 206, 186), 0.40),
    Material((108, 116, 126), 0.20),
)


@dataclass(frozen=True)
class Plot:
    """A piece of ground beside the main street, behind its pavement.

    `kind` is 'building', 'lot' (cars parked across), 'site' (construction) or 'park'; it spans x0
    to x1 along the street and lies on the side of y with the sign `side`.
    """

    kind: str
    x0: float
    x1: float
    side: int

    def depth_to_y(self, layout: Layout, depth: float) -> float:
        """The y that lies `depth` metres behind the pavement."""
        return self.side * (layout.main_half + SIDEWALK + depth)


def make_plots(layout: Layout, rng: np.random.Generator) -> list[Plot]:
    """Divides the main street's two sides into plots; a site and a lot lie near the ego's start."""
    first = layout.crossings[1]  # the crossing ahead of the ego vehicle's start
    near = (layout.crossings[0], first)
    special = {}
    sides = [1, -1] if rng.random() < 0.5 else [-1, 1]
    special[near, sides[0]] = [('site', 34.0, 20.0), ('lot', 30.0, 60.0)]
    special[near, sides[1]] = [('lot', 30.0, 12.0), ('park', 26.0, 60.0)]
    beyond = (first, layout.crossings[2])
    special[beyond, sides[0]] = [('lot', 28.0, 60.0)]
    special[beyond, sides[1]] = [('site', 30.0, 18.0)]

    edges = (MAIN_START - 30, *layout.crossings, MAIN_END + 30)
    plots = []
    for span in zip(edges, edges[1:]):
        x0, x1 = span[0] + layout.cross_half + SIDEWALK, span[1] - layout.cross_half - SIDEWALK
        for side in (1, -1):
            # Special plots are placed from the crossing ahead backwards.
            cuts: list[Plot] = []
            end = x1
            for kind, width, before in special.get((span, side), []):
                end = min(end, x1 - before) if len(cuts) == 0 else end - 8
                if end - width > x0 + 4:
                    cuts.append(Plot(kind, end - width, end, side))
                    end -= width
            plots += cuts
            x = x0
            while x < x1 - 9:
                taken = [p for p in cuts if p.x0 - 4 < x + 9 and x < p.x1]
                if taken:
                    x = taken[0].x1 + float(rng.uniform(2, 5))
                    continue
                limit = min([p.x0 - 2 for p in cuts if p.x0 > x] + [x1])
                width = min(float(rng.uniform(11, 26)), limit - x)
                kind = 'building' if rng.random() < 0.88 else 'park'
                plots.append(Plot(kind, x, x + width, side))
                x += width + float(rng.choice([0.0, 3.0, 6.0]))
    return plots


def _building(
    x0: float, x1: float, y0: float, y1: float, height: float, rng: np.random.Generator
) -> Mesh:
    """A block of flats or offices with a band of windows on each floor."""
    wall = WALLS[rng.integers(len(WALLS))]
    parts = [box(x0, x1, y0, y1, 0, height, wall)]
    for z in np.arange(1.2, height - 2, 3.4):
        parts.append(box(x0 - 0.03, x1 + 0.03, y0 - 0.03, y1 + 0.03, z, z + 1.5, GLASS))
    if rng.random() < 0.6:
        middle = (x0 + x1) / 2
        parts.append(box(middle - 2, middle + 2, y0 + 3, y0 + 6, height, height + 2.2, METAL))
    # Piers interrupt the bands, which makes the walls look like walls with windows.
    for x in np.arange(x0 + 2.5, x1 - 1, 3.4):
        parts.append(box(x, x + 0.9, y0 - 0.08, y1 + 0.08, 0, height - 0.4, wall))
    return merge(parts)


def _tree(rng: np.random.Generator) -> Mesh:
    height, spread = float(rng.uniform(5, 8.5)), float(rng.uniform(1.3, 2.2))
    crown = 0.34 * height
    return merge(
        [
            loft(circle(0.16, 6), circle(0.12, 6), 0, crown + 0.5, TRUNK),
            loft(circle(0.5 * spread, 6), circle(spread, 6), crown, 0.62 * height, LEAVES),
            loft(circle(spread, 6), circle(0.35 * spread, 6), 0.62 * height, height, LEAVES),
        ]
    )


def _lamp() -> Mesh:
    """A street lamp whose arm reaches along -y."""
    return merge(
        [
            loft(circle(0.1, 6), circle(0.06, 6), 0, 7.2, METAL),
            beam((0, 0, 7.1), (0, -2.2, 7.3), 0.08, 0.08, METAL),
            box(-0.15, 0.15, -2.5, -1.9, 7.22, 7.36, DARK),
        ]
    )


def _traffic_light(lamp: Material) -> Mesh:
    """A traffic light that faces -x."""
    return merge(
        [
            loft(circle(0.08, 6), circle(0.08, 6), 0, 3.4, METAL),
            box(-0.2, 0.1, -0.2, 0.2, 2.4, 3.4, DARK),
            box(
                -0.22,
                -0.2,
                -0.1,
                0.1,
                2.55 if lamp is GREEN_LIGHT else 3.05,
                2.75 if lamp is GREEN_LIGHT else 3.25,
                lamp,
            ),
        ]
    )


def _sign() -> Mesh:
    return merge(
        [
            loft(circle(0.05, 6), circle(0.05, 6), 0, 2.9, METAL),
            box(-0.03, 0.03, -0.4, 0.4, 2.1, 2.9, SIGN),
        ]
    )


def _markings(layout: Layout) -> list[Mesh]:
    """Centre lines, lane lines, stop lines and zebra crossings, five millimetres thick."""
    z, half = 0.005, layout.main_half
    parts = []
    lane_lines = [MEDIAN + LANE * i for i in range(1, layout.lanes_per_direction + 1)]
    edges = (MAIN_START, *layout.crossings, MAIN_END)
    margin = layout.cross_half + SIDEWALK
    for a, b in zip(edges, edges[1:]):
        x0, x1 = a + margin, b - margin
        for side in (1, -1):
            centre = side * MEDIAN / 2
            parts.append(quad(x0, x1, centre - 0.07, centre + 0.07, z, MARKING))
            for line in lane_lines[:-1]:
                parts += [
                    quad(x, x + 3, side * line - 0.07, side * line + 0.07, z, MARKING)
                    for x in np.arange(x0, x1 - 3, 9)
                ]
            edge = side * lane_lines[-1]
            parts.append(quad(x0, x1, edge - 0.08, edge + 0.08, z, MARKING))
    for crossing in layout.crossings:
        for side in (1, -1):
            # Across the main street.
            x = crossing + side * (layout.cross_half + SIDEWALK / 2)
            parts += [
                quad(x - 1.4, x + 1.4, y, y + 0.5, z, MARKING)
                for y in np.arange(-half + 0.6, half - 0.6, 1.1)
            ]
            # Across the crossing street.
            y = side * (half + SIDEWALK / 2)
            parts += [
                quad(x, x + 0.5, y - 1.4, y + 1.4, z, MARKING)
                for x in np.arange(
                    crossing - layout.cross_half + 0.6, crossing + layout.cross_half - 0.6, 1.1
                )
            ]
            # Stop lines, on the half of each street that leads to the crossing.
            x = crossing - side * (margin + 0.7)
            low, high = sorted((-side * MEDIAN, -side * lane_lines[-1]))
            parts.append(quad(x - 0.2, x + 0.2, low, high, z, MARKING))
            y = side * (half + SIDEWALK + 0.7)
            low, high = sorted((crossing - side * MEDIAN, crossing - side * (MEDIAN + LANE)))
            parts.append(quad(low, high, y - 0.2, y + 0.2, z, MARKING))
            reach0, reach1 = sorted((side * (half + SIDEWALK), side * CROSS_REACH))
            parts.append(quad(crossing - 0.07, crossing + 0.07, reach0, reach1, z, MARKING))
    return parts


def _ground(layout: Layout, plots: list[Plot]) -> list[Mesh]:
    far = 420
    middle = (MAIN_START + MAIN_END) / 2
    parts = [quad(middle - far, middle + far, -far, far, 0, ASPHALT)]
    for x0, x1, y0, y1 in layout.blocks():
        parts.append(box(x0, x1, y0, y1, -0.01, KERB_HEIGHT, KERB, PAVING))
        inner = quad(
            x0 + SIDEWALK, x1 - SIDEWALK, y0 + SIDEWALK, y1 - SIDEWALK, KERB_HEIGHT + 0.01, GRASS
        )
        parts.append(inner)
    surface = {'lot': ASPHALT, 'site': DIRT}
    for plot in plots:
        if plot.kind in surface:
            y0, y1 = sorted(plot.depth_to_y(layout, depth) for depth in (0.0, 24.0))
            parts.append(quad(plot.x0, plot.x1, y0, y1, KERB_HEIGHT + 0.03, surface[plot.kind]))
    return parts


def _buildings(layout: Layout, plots: list[Plot], rng: np.random.Generator) -> list[Mesh]:
    parts = []
    for plot in plots:
        setback = {'building': rng.uniform(0.0, 3.0), 'park': 30.0}.get(plot.kind, 25.0)
        depth = rng.uniform(11, 17)
        y0, y1 = sorted(plot.depth_to_y(layout, d) for d in (setback, setback + depth))
        parts.append(_building(plot.x0, plot.x1, y0, y1, float(rng.uniform(6, 26)), rng))
        if plot.kind == 'park':
            for _ in range(4):
                x = rng.uniform(plot.x0 + 2, plot.x1 - 2)
                y = plot.depth_to_y(layout, rng.uniform(3, 24))
                parts.append(_tree(rng).placed(x, y, KERB_HEIGHT))
    # Buildings along the crossing streets, behind those of the main street.
    start = layout.main_half + SIDEWALK + 46
    for crossing in layout.crossings:
        for side_x in (1, -1):
            for side_y in (1, -1):
                y = start
                while y < CROSS_REACH - 20:
                    width, depth = rng.uniform(12, 24), rng.uniform(10, 16)
                    near = layout.cross_half + SIDEWALK + rng.uniform(0, 3)
                    x0, x1 = sorted(crossing + side_x * d for d in (near, near + depth))
                    y0, y1 = sorted(side_y * d for d in (y, y + width))
                    parts.append(_building(x0, x1, y0, y1, float(rng.uniform(6, 22)), rng))
                    y += width + rng.choice([1.0, 4.0, 9.0])
    return parts


def _street_furniture(layout: Layout, rng: np.random.Generator) -> list[Mesh]:
    """Lamps, trees and signs along the kerbs, traffic lights at the corners."""
    parts = []
    edges = (MAIN_START, *layout.crossings, MAIN_END)
    for a, b in zip(edges, edges[1:]):
        x0, x1 = a + layout.cross_half + 7, b - layout.cross_half - 7
        for side in (1, -1):
            yaw = 0.0 if side > 0 else np.pi
            for index, x in enumerate(np.arange(x0, x1, 9.0)):
                y = side * (layout.main_half + 0.45)
                if index % 3 == 0:
                    parts.append(_lamp().placed(x, y, KERB_HEIGHT, yaw))
                elif rng.random() < 0.45:
                    parts.append(_tree(rng).placed(x, y + side * 0.2, KERB_HEIGHT))
                elif rng.random() < 0.4:
                    parts.append(_sign().placed(x, y, KERB_HEIGHT))
    main_lamp, cross_lamp = (
        (RED_LIGHT, GREEN_LIGHT) if layout.red == 'main' else (GREEN_LIGHT, RED_LIGHT)
    )
    out_x, out_y = layout.cross_half + 0.5, layout.main_half + 0.5
    for crossing in layout.crossings:
        for turn, x, y, lamp in (
            (0.0, crossing - out_x, -out_y, main_lamp),
            (np.pi, crossing + out_x, out_y, main_lamp),
            (np.pi / 2, crossing + out_x, -out_y, cross_lamp),
            (-np.pi / 2, crossing - out_x, out_y, cross_lamp),
        ):
            parts.append(_traffic_light(lamp).placed(x, y, KERB_HEIGHT, turn))
    return parts


def make_scenery(layout: Layout, plots: list[Plot], rng: np.random.Generator) -> Mesh:
    """All that stands still and is not annotated, in the district frame."""
    mesh = merge(
        [
            *_ground(layout, plots),
            *_markings(layout),
            *_buildings(layout, plots, rng),
            *_street_furniture(layout, rng),
        ]
    )
    return mesh.mirrored() if layout.mirror < 0 else mesh
