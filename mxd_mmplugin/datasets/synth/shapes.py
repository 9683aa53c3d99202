"""Meshes of the things a street holds, each in its own frame: x forward, z up, z=0 its ground.

Each builder takes the length, width and height of the box to fill (metres) and a random
generator for its variety; `build` returns the mesh stretched to that box and centred on it, so
that an annotated box is the tight box of its mesh. Bodies stay a few centimetres inside the box,
which mirrors, bumpers or skirts touch, so that range noise seldom lifts a point out of it.
"""

from typing import Callable, Optional

import numpy as np
from numpy.typing import ArrayLike

from .geometry import Material, Mesh, merge, rotate

GLASS = Material((45, 58, 70), 0.04)
TYRE = Material((28, 28, 30), 0.06)
METAL = Material((120, 124, 128), 0.25)
DARK = Material((52, 52, 56), 0.10)
HEADLIGHT = Material((250, 246, 225), 0.60)
TAILLIGHT = Material((190, 24, 24), 0.70)
PLATE = Material((232, 232, 226), 0.95)
SKIN = Material((205, 160, 130), 0.30)
ORANGE = Material((240, 106, 28), 0.40)
WHITE_BAND = Material((245, 245, 245), 0.90)
CONCRETE = Material((186, 184, 178), 0.32)
YELLOW = Material((235, 178, 36), 0.38)
HIGH_VISIBILITY = Material((206, 232, 44), 0.75)

CAR_PAINTS = (
    Material((222, 224, 226), 0.32),
    Material((36, 38, 44), 0.09),
    Material((150, 156, 162), 0.24),
    Material((92, 98, 106), 0.17),
    Material((150, 28, 32), 0.21),
    Material((34, 62, 122), 0.15),
    Material((44, 94, 70), 0.16),
    Material((196, 176, 132), 0.27),
)
TRUCK_PAINTS = (
    Material((230, 230, 228), 0.34),
    Material((52, 84, 150), 0.19),
    Material((196, 60, 44), 0.24),
    Material((232, 190, 60), 0.33),
    Material((70, 120, 80), 0.20),
)
CLOTHES = (
    Material((40, 44, 58), 0.12),
    Material((128, 42, 48), 0.22),
    Material((60, 96, 140), 0.20),
    Material((200, 196, 186), 0.36),
    Material((84, 104, 62), 0.20),
    Material((226, 188, 70), 0.33),
    Material((150, 110, 150), 0.26),
)


def loft(
    bottom: ArrayLike,
    top: ArrayLike,
    z0: float,
    z1: float,
    side: Material,
    cap: Optional[Material] = None,
) -> Mesh:
    """The solid between two rings (N, 2) of x, y, both counter-clockwise, at z0 and z1."""
    bottom, top = np.asarray(bottom, float), np.asarray(top, float)
    n = len(bottom)
    vertices = np.concatenate(
        [np.column_stack([bottom, np.full(n, z0)]), np.column_stack([top, np.full(n, z1)])]
    )
    sides = [(i, (i + 1) % n, (i + 1) % n + n, i + n) for i in range(n)]
    lid = [(0, i, i + 1, min(i + 2, n - 1)) for i in range(1, n - 1, 2)]
    faces = np.array(
        sides + [tuple(n + i for i in quad) for quad in lid] + [tuple(quad[::-1]) for quad in lid]
    )
    materials = [side] * n + [cap or side] * (2 * len(lid))
    return Mesh(
        vertices,
        faces,
        np.array([material.rgb for material in materials], np.uint8),
        np.array([material.reflectance for material in materials], np.float32),
    )


def rectangle(x0: float, x1: float, y0: float, y1: float) -> list[tuple[float, float]]:
    """The ring of an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def circle(radius: float, corners: int, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """The ring (corners, 2) of a regular polygon about (x, y)."""
    angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    return np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])


def box(
    x0: float,
    x1: float,
    y0: float,
    y1: float,
    z0: float,
    z1: float,
    side: Material,
    cap: Optional[Material] = None,
) -> Mesh:
    """An upright box."""
    ring = rectangle(x0, x1, y0, y1)
    return loft(ring, ring, z0, z1, side, cap)


def quad(x0: float, x1: float, y0: float, y1: float, z: float, material: Material) -> Mesh:
    """One horizontal rectangle seen from above."""
    return Mesh(
        np.array([(x, y, z) for x, y in rectangle(x0, x1, y0, y1)], float),
        np.array([[0, 1, 2, 3]]),
        np.array([material.rgb], np.uint8),
        np.array([material.reflectance], np.float32),
    )


def wheel(x: float, y: float, radius: float, width: float, corners: int = 6) -> Mesh:
    """A wheel that stands on z=0, its axle along y, centred on (x, y).

    Let it stand out of a body by a few centimetres: faces in one plane would hide each other in
    turns.
    """
    disc = loft(circle(radius, corners), circle(radius, corners), -width / 2, width / 2, TYRE, DARK)
    turned = disc.vertices[:, [0, 2, 1]] * (1, -1, 1)  # a quarter turn about x
    # A polygon's flat side is nearer than its radius: stand on that side, not on a corner.
    turned[:, 2] -= turned[:, 2].min()
    return Mesh(turned + (x, y, 0), disc.faces, disc.rgb, disc.reflectance)


def beam(
    start: ArrayLike, end: ArrayLike, width: float, thickness: float, material: Material
) -> Mesh:
    """A bar from `start` to `end` (x, y, z); `width` across, `thickness` in its upright plane."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = end - start
    length = float(np.linalg.norm(along))
    along = along / length
    across = np.cross((0, 0, 1.0), along)
    across = np.array((0, 1.0, 0)) if np.linalg.norm(across) < 1e-6 else across
    across = across / np.linalg.norm(across)
    axes = np.stack([along, across, np.cross(along, across)])
    bar = box(0, length, -width / 2, width / 2, -thickness / 2, thickness / 2, material)
    return Mesh(rotate(bar.vertices, axes.T) + start, bar.faces, bar.rgb, bar.reflectance)


def _mirrors(x: float, z: float, body_width: float, width: float) -> list[Mesh]:
    """A mirror at each side, from the body out to the full `width`."""
    half, edge = body_width / 2 - 0.02, width / 2
    return [
        box(x - 0.08, x + 0.08, half, edge, z, z + 0.16, DARK),
        box(x - 0.08, x + 0.08, -edge, -half, z, z + 0.16, DARK),
    ]


def _lights(front: float, back: float, half_width: float, z: float) -> list[Mesh]:
    """Head and tail lights and the two plates, as thin plates on the body's ends."""
    span = half_width * 0.32
    parts = []
    for x, material in ((front, HEADLIGHT), (back, TAILLIGHT)):
        for y in (half_width - span, -half_width):
            parts.append(box(x - 0.02, x + 0.02, y, y + span, z, z + 0.14, material))
        parts.append(box(x - 0.02, x + 0.02, -0.26, 0.26, z - 0.22, z - 0.10, PLATE))
    return parts


def car(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A saloon, an estate or a van: lower body, cabin with windows, wheels, lights, mirrors."""
    paint = CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
    # Cabin ends as fractions of the length, at the waist and at the roof.
    waist0, waist1, roof0, roof1 = (
        (-0.40, 0.22, -0.24, 0.06),
        (-0.48, 0.20, -0.42, 0.04),
        (-0.485, 0.36, -0.46, 0.22),
    )[rng.integers(3)]
    half, waist = w * 0.465, h * 0.56
    radius = min(0.34, h * 0.21)
    bumper = l / 2 - 0.06
    parts = [
        loft(
            rectangle(-bumper, bumper, -half, half),
            rectangle(-bumper + 0.05, bumper - 0.14, -half + 0.04, half - 0.04),
            0.2,
            waist,
            paint,
        ),
        loft(
            rectangle(waist0 * l, waist1 * l, -half + 0.06, half - 0.06),
            rectangle(roof0 * l, roof1 * l, -half * 0.80, half * 0.80),
            waist,
            h,
            GLASS,
            paint,
        ),
        box(bumper - 0.1, l / 2, -half * 0.9, half * 0.9, 0.24, 0.42, paint),
        box(-l / 2, -bumper + 0.1, -half * 0.9, half * 0.9, 0.24, 0.42, paint),
        *_lights(bumper, -bumper, half * 0.92, waist * 0.72),
        *_mirrors(waist1 * l - 0.25, waist, 2 * half, w),
    ]
    for x in (-0.30 * l, 0.31 * l):
        parts += [wheel(x, y, radius, 0.2) for y in (half - 0.07, 0.07 - half)]
    return merge(parts)


def _cab(front: float, back: float, half: float, top: float, paint: Material) -> list[Mesh]:
    """A lorry's cab with a windscreen and side windows."""
    waist = 0.52 * top
    return [
        box(back, front, -half, half, 0.45, waist, paint),
        loft(
            rectangle(back, front, -half, half),
            rectangle(back, front - 0.18, -half + 0.06, half - 0.06),
            waist,
            0.86 * top,
            GLASS,
        ),
        box(back, front - 0.15, -half + 0.05, half - 0.05, 0.86 * top, top, paint),
    ]


def truck(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A pick-up when it is low, otherwise a box lorry, a tipper or a tractor."""
    paint = TRUCK_PAINTS[rng.integers(len(TRUCK_PAINTS))]
    half = w * 0.46
    front, back = l / 2 - 0.05, -l / 2 + 0.05
    radius = 0.36 if h < 2.2 else 0.48
    parts = [box(-l / 2, l / 2, -half * 0.8, half * 0.8, 0.48, 0.66, DARK)]
    if h < 2.2:
        cab_back = -0.08 * l
        parts += [
            box(back, front, -half, half, 0.34, 0.56 * h, paint),
            loft(
                rectangle(cab_back, 0.26 * l, -half + 0.06, half - 0.06),
                rectangle(cab_back + 0.1, 0.12 * l, -half * 0.8, half * 0.8),
                0.56 * h,
                h,
                GLASS,
                paint,
            ),
        ]
    else:
        cab_back = front - min(2.1, 0.34 * l)
        parts += _cab(front, cab_back, half, h * (0.86 if rng.random() < 0.7 else 1.0), paint)
        load = TRUCK_PAINTS[rng.integers(len(TRUCK_PAINTS))]
        if rng.random() < 0.7:
            parts.append(box(back, cab_back - 0.2, -half - 0.03, half + 0.03, 0.8, h, load))
        else:
            parts += [
                box(back, cab_back - 0.2, -half, half, 0.8, 0.56 * h, load),
                box(cab_back - 0.4, cab_back - 0.2, -half, half, 0.8, h, load),
            ]
    parts += _lights(front, back, half, 0.62)
    parts += _mirrors(front - 0.35, 0.58 * h, 2 * half, w)
    for x in (front - 0.9, back + 0.9, *((back + 2.0,) if l > 8 else ())):
        parts += [wheel(x, y, radius, 0.28) for y in (half - 0.09, 0.09 - half)]
    return merge(parts)


def bus(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A city bus: a long box with bands of windows."""
    paint = TRUCK_PAINTS[rng.integers(len(TRUCK_PAINTS))]
    half, front, back = w * 0.465, l / 2 - 0.04, -l / 2 + 0.04
    parts = [
        box(back, front, -half, half, 0.36, 0.36 * h, paint),
        box(back + 0.02, front - 0.02, -half + 0.02, half - 0.02, 0.36 * h, 0.74 * h, GLASS),
        box(back, front - 0.05, -half, half, 0.74 * h, h - 0.18, paint),
        box(back + 1.5, 0.1 * l, -half * 0.7, half * 0.7, h - 0.18, h, METAL),
        box(l / 2 - 0.2, l / 2, -half * 0.9, half * 0.9, 0.36, 0.5, DARK),
        box(-l / 2, -l / 2 + 0.2, -half * 0.9, half * 0.9, 0.36, 0.5, DARK),
    ]
    pillars = np.linspace(back + 0.1, front - 0.9, max(3, int(l / 1.8)))
    for x in pillars:
        parts.append(box(x, x + 0.14, -half, half, 0.36 * h, 0.74 * h, paint))
    parts += _lights(front, back, half, 0.66)
    parts += _mirrors(front - 0.2, 0.62 * h, 2 * half, w)
    for x in (front - 2.4, back + 2.8):
        parts += [wheel(x, y, 0.48, 0.28) for y in (half - 0.11, 0.11 - half)]
    return merge(parts)


def trailer(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A semi-trailer: a high box or an open load bed, axles at the back, legs in front."""
    load = TRUCK_PAINTS[rng.integers(len(TRUCK_PAINTS))]
    half = w / 2 - 0.05
    if rng.random() < 0.7:
        body = [box(-l / 2 + 0.05, l / 2 - 0.05, -half, half, 1.15, h, load)]
    else:
        bed = 0.42 * h
        body = [
            box(-l / 2 + 0.05, l / 2 - 0.05, -half, half, 1.0, bed, load),
            box(l / 2 - 0.3, l / 2 - 0.05, -half, half, bed, h, METAL),
            box(-0.3 * l, 0.3 * l, -half * 0.8, half * 0.8, bed, 0.8 * h, CONCRETE),
        ]
    parts = [
        *body,
        box(-l / 2, l / 2, -w / 2, w / 2, 1.0, 1.14, METAL),
        *[box(0.3 * l, 0.3 * l + 0.2, y - 0.1, y + 0.1, 0, 1.1, METAL) for y in (-0.8, 0.8)],
        box(-l / 2 + 0.02, -l / 2 + 0.1, -half, half, 0.45, 0.6, TAILLIGHT),
    ]
    for x in (-l / 2 + 1.2, -l / 2 + 2.4):
        parts += [wheel(x, y, 0.5, 0.4) for y in (half - 0.22, -half + 0.22)]
    return merge(parts)


def construction_vehicle(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """An excavator on tracks or a wheel loader, both with a raised arm."""
    half = w / 2
    if rng.random() < 0.6:
        parts = [
            *[
                box(-0.46 * l, 0.12 * l, y - 0.28, y + 0.28, 0, 0.75, DARK)
                for y in (half - 0.28, -half + 0.28)
            ],
            box(-0.46 * l, 0.08 * l, -half * 0.8, half * 0.8, 0.8, 0.58 * h, YELLOW),
            box(-0.22 * l, 0.08 * l, 0.05, half * 0.8, 0.58 * h, 0.95 * h, GLASS, YELLOW),
            beam((0.04 * l, -0.2, 0.5 * h), (0.27 * l, -0.2, 0.97 * h), 0.35, 0.4, YELLOW),
            beam((0.27 * l, -0.2, 0.95 * h), (0.43 * l, -0.2, 0.32 * h), 0.3, 0.32, YELLOW),
            box(0.36 * l, 0.5 * l, -0.65, 0.25, 0.05, 0.34 * h, DARK),
        ]
    else:
        parts = [
            box(-0.5 * l, -0.06 * l, -half * 0.7, half * 0.7, 0.7, 0.55 * h, YELLOW),
            box(-0.24 * l, -0.04 * l, -half * 0.55, half * 0.55, 0.55 * h, h, GLASS, YELLOW),
            box(-0.06 * l, 0.2 * l, -half * 0.35, half * 0.35, 0.6, 0.42 * h, YELLOW),
            beam((0.05 * l, 0.5, 0.42 * h), (0.4 * l, 0.5, 0.2 * h), 0.22, 0.3, YELLOW),
            beam((0.05 * l, -0.5, 0.42 * h), (0.4 * l, -0.5, 0.2 * h), 0.22, 0.3, YELLOW),
            box(0.36 * l, 0.5 * l, -half, half, 0.05, 0.36 * h, METAL),
        ]
        for x in (-0.32 * l, 0.17 * l):
            parts += [wheel(x, y, 0.7, 0.5, 8) for y in (half * 0.68, -half * 0.68)]
    return merge(parts)


def pedestrian(
    l: float, w: float, h: float, rng: np.random.Generator, coat: Optional[Material] = None
) -> Mesh:
    """A person in mid-step: legs apart along x, arms at the sides, a head."""
    coat = coat or CLOTHES[rng.integers(len(CLOTHES))]
    trousers = CLOTHES[rng.integers(len(CLOTHES))]
    hip, shoulder, reach = 0.48 * h, 0.82 * h, l / 2
    side = 0.22 * w
    torso_low, torso_high = circle(0.30 * w, 6), circle(0.36 * w, 6)
    torso_low[:, 0] *= 0.7
    torso_high[:, 0] *= 0.7
    return merge(
        [
            beam((0, side, hip), (reach - 0.12, side, 0.06), 0.16, 0.16, trousers),
            beam((0, -side, hip), (-reach + 0.16, -side, 0.06), 0.16, 0.16, trousers),
            box(reach - 0.24, reach, side - 0.06, side + 0.06, 0, 0.1, DARK),
            box(-reach, -reach + 0.24, -side - 0.06, -side + 0.06, 0, 0.1, DARK),
            loft(torso_low, torso_high, 0.94 * hip, shoulder, coat),
            beam((0, 0.42 * w, shoulder - 0.04), (-0.1, 0.44 * w, hip), 0.12 * w, 0.1, coat),
            beam((0, -0.42 * w, shoulder - 0.04), (0.14, -0.44 * w, hip), 0.12 * w, 0.1, coat),
            loft(circle(0.08, 6), circle(0.1, 6), shoulder, 0.92 * h, SKIN),
            loft(circle(0.1, 6), circle(0.05, 6), 0.92 * h, h, DARK),
        ]
    )


def construction_worker(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A person in a high-visibility coat."""
    return pedestrian(l, w, h, rng, HIGH_VISIBILITY)


def _rider(saddle: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    """A person on a saddle at x=-0.15, leaning to a handlebar in front."""
    coat, trousers = CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))]
    shoulder = h - 0.30
    parts = [
        beam((-0.2, 0, saddle), (0.08, 0, shoulder), 0.36, 0.22, coat),
        loft(circle(0.1, 6, 0.14), circle(0.09, 6, 0.14), shoulder, h, SKIN, DARK),
    ]
    for y in (0.14, -0.14):
        parts += [
            beam((-0.15, y, saddle), (0.2, y, 0.35), 0.14, 0.15, trousers),
            beam((0.06, y * 1.5, shoulder - 0.05), (0.42, y * 1.7, saddle + 0.2), 0.09, 0.09, coat),
        ]
    return parts


def _frame(
    l: float, w: float, handlebar: float, radius: float, width: float, colour: Material
) -> list[Mesh]:
    """Two wheels, a frame and a handlebar as wide as `w`."""
    axle = l / 2 - radius
    bar = axle - 0.28
    return [
        wheel(axle, 0, radius, width, 8),
        wheel(-axle, 0, radius, width, 8),
        beam((-axle, 0, radius), (bar, 0, handlebar - 0.18), width + 0.02, 0.1, colour),
        beam((bar, 0, handlebar), (axle, 0, radius), width, 0.07, METAL),
        beam((bar, -w / 2, handlebar), (bar, w / 2, handlebar), 0.06, 0.06, DARK),
    ]


def bicycle(l: float, w: float, h: float, rng: np.random.Generator, rider: bool = False) -> Mesh:
    """A bicycle, alone or with its rider."""
    colour = CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
    handlebar = 1.02 if rider else h - 0.03
    parts = _frame(l, w, handlebar, 0.34, 0.06, colour)
    parts.append(box(-0.36, -0.1, -0.08, 0.08, 0.86, 0.94, DARK))
    return merge(parts + (_rider(0.94, h, rng) if rider else []))


def motorcycle(l: float, w: float, h: float, rng: np.random.Generator, rider: bool = False) -> Mesh:
    """A motorcycle or scooter, alone or with its rider."""
    colour = CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
    handlebar = 1.08 if rider else h - 0.03
    parts = _frame(l, w, handlebar, 0.30, 0.16, DARK)
    parts += [
        box(-0.62, 0.34, -0.17, 0.17, 0.32, 0.74, colour),
        box(-0.80, 0.05, -0.14, 0.14, 0.74, 0.86, DARK),
        box(0.4, 0.52, -0.2, 0.2, 0.6, handlebar, colour),
    ]
    return merge(parts + (_rider(0.86, h, rng) if rider else []))


def traffic_cone(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A cone on a square foot, with a reflecting band."""

    def ring(z: float) -> np.ndarray:
        return circle(0.42 * l * (1 - 0.86 * z / h), 8)

    levels, bands = (0.04, 0.42 * h, 0.68 * h, h), (ORANGE, WHITE_BAND, ORANGE)
    parts = [box(-l / 2, l / 2, -w / 2, w / 2, 0, 0.05, DARK)]
    for z0, z1, material in zip(levels, levels[1:], bands):
        parts.append(loft(ring(z0), ring(z1), z0, z1, material))
    return merge(parts)


def barrier(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A concrete barrier, or a striped board on two feet; wide along y."""
    if rng.random() < 0.5:
        return merge(
            [
                loft(
                    rectangle(-l / 2, l / 2, -w / 2, w / 2),
                    rectangle(-0.14, 0.14, -w / 2, w / 2),
                    0,
                    0.34 * h,
                    CONCRETE,
                ),
                box(-0.14, 0.14, -w / 2, w / 2, 0.34 * h, h, CONCRETE),
            ]
        )
    stripes = np.linspace(-w / 2, w / 2, 6)
    parts = [box(-l / 2, l / 2, y - 0.08, y + 0.08, 0, 0.12, DARK) for y in (-w / 3, w / 3)]
    parts += [box(-0.04, 0.04, y - 0.04, y + 0.04, 0.12, h, METAL) for y in (-w / 3, w / 3)]
    for index, (y0, y1) in enumerate(zip(stripes, stripes[1:])):
        material = (ORANGE, WHITE_BAND)[index % 2]
        parts.append(box(-0.06, 0.06, y0, y1, 0.55 * h, h, material))
        parts.append(box(-0.05, 0.05, y0, y1, 0.2 * h, 0.42 * h, material))
    return merge(parts)


def build(
    shape: Callable[..., Mesh],
    size: tuple[float, float, float],
    rng: np.random.Generator,
    **options: bool,
) -> Mesh:
    """The mesh of `shape` (a builder above) that fills the box `size` = (l, w, h) centred on 0."""
    return shape(*size, rng, **options).fitted(size)
