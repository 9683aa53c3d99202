"""The streets of one district: where lanes, kerbs, blocks and crossings lie.

The district frame has x along the main street in the ego vehicle's direction and y to its left;
z=0 is the road. Everything is laid out for traffic on the right; a district with traffic on the
left is the same with y negated (see `Layout.mirror`). A district is then turned by `heading` and
moved to `origin` in the global frame of its map.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .scenes import SceneSpec

MEDIAN = 0.6  # metres from the centre line to the first lane
LANE = 3.5
BIKE = 1.6
PARKING = 2.6
SIDEWALK = 4.2
KERB_HEIGHT = 0.15
MAIN_START, MAIN_END = -150.0, 330.0
CROSS_REACH = 180.0
DISTRICT_SIZE = 560.0  # metres of map a district has, in each direction


@dataclass(frozen=True)
class Lane:
    """A straight lane: `start` (x, y), `yaw`, and `stops`, the places along it to stop at red."""

    start: tuple[float, float]
    yaw: float
    stops: tuple[float, ...]
    street: str

    def pose(self, s: ArrayLike) -> np.ndarray:
        """Poses (..., 3) of x, y, yaw at the lengths `s` (...) along the lane."""
        s = np.asarray(s, dtype=np.float64)
        x = self.start[0] + s * np.cos(self.yaw)
        y = self.start[1] + s * np.sin(self.yaw)
        return np.stack([x, y, np.full_like(s, self.yaw)], axis=-1)


@dataclass(frozen=True)
class Layout:
    """The streets of one district.

    Attributes:
        lanes_per_direction: of the main street; crossing streets have one.
        crossings: x of the centre lines of the crossing streets, ascending.
        red: the street whose lights are red all through the scene, 'main' or 'cross'.
        mirror: -1 where traffic keeps to the left, else 1.
        heading: the district's x axis in the global frame, radians.
        origin: the middle of the main street in the global frame, metres.
    """

    lanes_per_direction: int
    crossings: tuple[float, ...]
    red: str
    mirror: int
    heading: float
    origin: tuple[float, float]

    @property
    def main_half(self) -> float:
        """Half the width of the main street between its kerbs."""
        return MEDIAN + LANE * self.lanes_per_direction + BIKE + PARKING

    @property
    def cross_half(self) -> float:
        """Half the width of a crossing street between its kerbs."""
        return MEDIAN + LANE + PARKING

    @property
    def bike_offset(self) -> float:
        """The bicycle lane's distance from the main street's centre line."""
        return MEDIAN + LANE * self.lanes_per_direction + BIKE / 2

    def lane_offset(self, index: int) -> float:
        """Lane `index`'s distance from its street's centre line, counted from the centre."""
        return MEDIAN + LANE * (index + 0.5)

    def main_lanes(self, direction: int) -> list[Lane]:
        """The main street's lanes along +x (direction 1) or -x (-1), the one at the kerb last."""
        return [
            self._main_lane(direction, self.lane_offset(index))
            for index in range(self.lanes_per_direction)
        ]

    def bike_lane(self, direction: int) -> Lane:
        """The main street's bicycle lane along +x (direction 1) or -x (-1)."""
        return self._main_lane(direction, self.bike_offset)

    def cross_lane(self, crossing: float, direction: int) -> Lane:
        """A crossing street's lane along +y (direction 1) or -y (-1)."""
        start = (crossing + direction * self.lane_offset(0), -direction * CROSS_REACH)
        stop = CROSS_REACH - self.main_half - SIDEWALK - 1.5
        return Lane(start, direction * np.pi / 2, (stop,) if self.red == 'cross' else (), 'cross')

    def _main_lane(self, direction: int, offset: float) -> Lane:
        start = MAIN_START if direction > 0 else MAIN_END
        margin = self.cross_half + SIDEWALK + 1.5
        stops = sorted((c - start) * direction - margin for c in self.crossings)
        yaw = 0.0 if direction > 0 else np.pi
        red = self.red == 'main'
        return Lane((start, -direction * offset), yaw, tuple(stops) if red else (), 'main')

    def blocks(self) -> list[tuple[float, float, float, float]]:
        """The ground between the streets: rectangles x0, x1, y0, y1 from kerb to kerb."""
        edges = [MAIN_START - 200]
        for crossing in self.crossings:
            edges += [crossing - self.cross_half, crossing + self.cross_half]
        edges.append(MAIN_END + 200)
        far = CROSS_REACH + 200
        return [
            (x0, x1, y0, y1)
            for x0, x1 in zip(edges[::2], edges[1::2])
            for y0, y1 in ((self.main_half, far), (-far, -self.main_half))
        ]

    def ground_height(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Height (...) of the ground at x, y (...): 0 on a road, the kerb's height on a block.

        Kerbs are ramps half a metre wide, so that a walker's height changes gradually.
        """
        x, y = np.asarray(x), np.asarray(y)
        to_main = np.abs(y) - self.main_half
        to_cross = np.min([np.abs(x - c) - self.cross_half for c in self.crossings], axis=0)
        return KERB_HEIGHT * np.clip(np.minimum(to_main, to_cross) / 0.5 + 0.5, 0, 1)

    def to_global(self, poses: ArrayLike) -> np.ndarray:
        """Poses (..., 3) of x, y, yaw in the district frame, given in the global frame."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        x, y, yaw = np.moveaxis(np.asarray(poses, dtype=np.float64), -1, 0)
        x = x - (MAIN_START + MAIN_END) / 2
        return np.stack(
            [
                self.origin[0] + cos * x - sin * y,
                self.origin[1] + sin * x + cos * y,
                (yaw + self.heading + np.pi) % (2 * np.pi) - np.pi,
            ],
            axis=-1,
        )


def make_layout(spec: SceneSpec, rng: np.random.Generator) -> Layout:
    """Draws the streets of scene `spec`."""
    crossings = [float(rng.uniform(62, 76))]
    while crossings[-1] < 250:
        crossings.append(crossings[-1] + float(rng.uniform(80, 120)))
    crossings.insert(0, crossings[0] - float(rng.uniform(95, 125)))
    return Layout(
        lanes_per_direction=int(rng.integers(1, 3)),
        crossings=tuple(crossings),
        red='main' if spec.plan == 'red' else 'cross',
        mirror=-1 if spec.left_hand else 1,
        heading=float(rng.uniform(-np.pi, np.pi)),
        origin=(DISTRICT_SIZE * (spec.district + 0.5), DISTRICT_SIZE * 0.5),
    )
