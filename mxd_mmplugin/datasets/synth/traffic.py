"""Motion along lanes: cars follow each other, stop at red lights, and the ego may turn.

The car-following law is the intelligent driver model (Treiber, Hennecke and Helbing, 2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike

from .layout import CROSS_REACH, Lane, Layout

ACCELERATION = 1.5  # m/s^2, the most a driver accelerates
BRAKING = 2.0  # m/s^2, what a driver finds comfortable
HARD_BRAKING = 7.0  # m/s^2, the most a vehicle can
HEADWAY = 1.3  # s, kept to the vehicle ahead
STANDSTILL = 2.2  # m, kept to the vehicle ahead when both stand
TURN_RADIUS = 9.0  # m
TURN_SPEED = 5.0  # m/s

# Of one vehicle, or of each of N, an array (N,).
Number = TypeVar('Number', float, np.ndarray)


@dataclass
class Drivers:
    """Vehicles on straight lanes, as arrays of (N,).

    Attributes:
        lane: index of the lane each is on.
        s: metres along the lane of each one's centre.
        speed: m/s at the start.
        wanted: m/s on a free road.
        front, rear: metres from the centre to the ends; `rear` takes in a trailer.
    """

    lane: np.ndarray
    s: np.ndarray
    speed: np.ndarray
    wanted: np.ndarray
    front: np.ndarray
    rear: np.ndarray


class EgoRoute:
    """The ego vehicle's way: along the main street's kerb lane, perhaps off to the near side."""

    def __init__(self, layout: Layout, lanes: list[Lane], turns: bool) -> None:
        """Finds the lanes in `lanes`; `turns` is whether to turn at the crossing ahead."""
        kerb_lane = layout.main_lanes(1)[-1]
        self.first = lanes.index(kerb_lane)
        self._first_lane = kerb_lane
        self.second: Optional[int] = None
        self.turn_start = self.turn_end = np.inf
        if turns:
            second = layout.cross_lane(layout.crossings[1], -1)
            self.second = lanes.index(second)
            self._second_lane = second
            self.turn_start = second.start[0] - TURN_RADIUS - kerb_lane.start[0]
            self.turn_end = self.turn_start + TURN_RADIUS * np.pi / 2
            self.second_start = CROSS_REACH - kerb_lane.start[1] + TURN_RADIUS

    def on_second(self, s: Number) -> Number:
        """Metres along the second lane for the length `s` along the route."""
        return s - self.turn_end + self.second_start

    def pose(self, s: ArrayLike) -> np.ndarray:
        """Poses (..., 3) of x, y, yaw at lengths `s` (...) along the route."""
        s = np.asarray(s, dtype=np.float64)
        poses = self._first_lane.pose(s)
        if self.second is None:
            return poses
        centre = self._first_lane.pose(self.turn_start)[:2] - (0, TURN_RADIUS)
        angle = (s - self.turn_start) / TURN_RADIUS
        arc = np.stack(
            [
                centre[0] + TURN_RADIUS * np.sin(angle),
                centre[1] + TURN_RADIUS * np.cos(angle),
                -angle,
            ],
            axis=-1,
        )
        after = self._second_lane.pose(self.on_second(s))
        poses = np.where((s > self.turn_start)[..., None], arc, poses)
        return np.where((s > self.turn_end)[..., None], after, poses)


def _acceleration(
    speed: Number, wanted: Number, gap: Number, leader_speed: Union[float, np.ndarray]
) -> Number:
    """The intelligent driver model; all arguments (N,), `gap` infinite on a free road."""
    closing = speed * (speed - leader_speed) / (2 * np.sqrt(ACCELERATION * BRAKING))
    desired = STANDSTILL + np.maximum(speed * HEADWAY + closing, 0)
    interaction = (desired / np.maximum(gap, 0.1)) ** 2
    return np.clip(
        ACCELERATION * (1 - (speed / wanted) ** 4 - interaction), -HARD_BRAKING, ACCELERATION
    )


def _next_stop(lanes: Sequence[Lane], drivers_lane: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """Metres from each nose (N,) to the next place to stop on its lane, infinite without one."""
    gap = np.full(len(nose), np.inf)
    for index, lane in enumerate(lanes):
        on_lane = drivers_lane == index
        for stop in lane.stops:
            ahead = stop - nose
            gap = np.where(on_lane & (ahead > -0.5) & (ahead < gap), ahead, gap)
    return gap


def simulate(
    lanes: Sequence[Lane],
    drivers: Drivers,
    route: EgoRoute,
    ego: dict[str, float],
    steps: int,
    dt: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves everyone for `steps` steps of `dt` seconds.

    Args:
        lanes: the lanes that `drivers.lane` counts.
        drivers: the vehicles at the start.
        route: the ego vehicle's way.
        ego: dict with the ego vehicle's `s`, `speed`, `wanted`, `front` and `rear`.
        steps: how many states to return, the first being the start.
        dt: seconds.

    Returns:
        s: (steps, N) of the drivers and ego_s: (steps,), metres along their lanes and route.
    """
    s, speed = drivers.s.copy(), drivers.speed.copy()
    ego_s, ego_speed = ego['s'], ego['speed']
    history, ego_history = [], []
    for _ in range(steps):
        history.append(s.copy())
        ego_history.append(ego_s)

        # The ego vehicle is one more vehicle on each lane that it is on.
        places = [(route.first, ego_s)] if ego_s < route.turn_start + 6 else []
        if route.second is not None and ego_s > route.turn_start + 4:
            places.append((route.second, route.on_second(ego_s)))
        others_lane = np.append(drivers.lane, [lane for lane, _ in places]).astype(int)
        others_s = np.append(s, [place for _, place in places])
        others_rear = np.append(drivers.rear, [ego['rear']] * len(places))
        others_speed = np.append(speed, [ego_speed] * len(places))

        nose = s + drivers.front
        gap = (others_s - others_rear)[None] - nose[:, None]
        behind = (others_s[None] <= s[:, None]) | (others_lane[None] != drivers.lane[:, None])
        gap[behind] = np.inf
        leader = gap.argmin(1)
        gap = gap[np.arange(len(s)), leader]
        leader_speed = np.where(np.isfinite(gap), others_speed[leader], 0)
        acceleration = _acceleration(speed, drivers.wanted, gap, leader_speed)
        stop = _next_stop(lanes, drivers.lane, nose)
        acceleration = np.minimum(acceleration, _acceleration(speed, drivers.wanted, stop, 0.0))

        # In the ego vehicle's own measure: those ahead on its first lane, then on its second.
        place = np.where(drivers.lane == route.first, s, np.inf)
        wanted = ego['wanted']
        if route.second is not None:
            place[place > route.turn_start + 5] = np.inf
            on_second = s - route.second_start + route.turn_end
            entering = (drivers.lane == route.second) & (on_second > route.turn_end - 3)
            place = np.where(entering, on_second, place)
            if ego_s < route.turn_end:
                to_turn = max(route.turn_start - ego_s, 0.0)
                wanted = min(wanted, np.sqrt(TURN_SPEED**2 + 2 * BRAKING * 0.7 * to_turn))
        gaps = np.where(place > ego_s, place - drivers.rear - ego_s - ego['front'], np.inf)
        ahead = gaps.argmin()
        nose = np.array([ego_s + ego['front']])
        stop = _next_stop(lanes, np.array([route.first]), nose)[0]
        ego_acceleration = min(
            _acceleration(ego_speed, wanted, gaps[ahead], speed[ahead]),
            _acceleration(ego_speed, wanted, stop, 0.0),
        )

        s, speed = _step(s, speed, acceleration, dt)
        ego_s, ego_speed = _step(ego_s, ego_speed, ego_acceleration, dt)
    return np.array(history), np.array(ego_history)


def _step(s: Number, speed: Number, acceleration: Number, dt: float) -> tuple[Number, Number]:
    """One step of constant acceleration that never goes backwards."""
    after = np.maximum(speed + acceleration * dt, 0)
    return s + (speed + after) / 2 * dt, after
