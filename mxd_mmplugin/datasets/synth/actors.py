"""The things that are annotated: their kinds, sizes, meshes and motion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from . import shapes
from .geometry import Mesh


@dataclass(frozen=True)
class Kind:
    """One kind of actor: its nuScenes category, its mesh and its sizes.

    `size` is the mean length, width and height in metres; `spread` the relative standard
    deviation of each, cut at two deviations.
    """

    category: str
    shape: Callable[..., Mesh]
    size: tuple[float, float, float]
    spread: tuple[float, float, float] = (0.07, 0.04, 0.06)
    options: dict = field(default_factory=dict)


KINDS = {
    'car': Kind('vehicle.car', shapes.car, (4.63, 1.95, 1.70), (0.07, 0.03, 0.07)),
    'pickup': Kind('vehicle.truck', shapes.truck, (5.70, 2.10, 1.92)),
    'truck': Kind('vehicle.truck', shapes.truck, (7.40, 2.55, 3.05), (0.12, 0.03, 0.07)),
    'tractor': Kind('vehicle.truck', shapes.truck, (6.40, 2.60, 3.20), (0.04, 0.02, 0.04)),
    'bus': Kind('vehicle.bus.rigid', shapes.bus, (11.2, 2.94, 3.45), (0.05, 0.01, 0.05)),
    'trailer': Kind('vehicle.trailer', shapes.trailer, (12.2, 2.80, 3.85), (0.07, 0.02, 0.04)),
    'construction_vehicle': Kind(
        'vehicle.construction', shapes.construction_vehicle, (6.40, 2.80, 3.20), (0.08, 0.04, 0.06)
    ),
    'pedestrian': Kind(
        'human.pedestrian.adult', shapes.pedestrian, (0.74, 0.66, 1.76), (0.10, 0.08, 0.05)
    ),
    'child': Kind('human.pedestrian.child', shapes.pedestrian, (0.55, 0.50, 1.32)),
    'worker': Kind(
        'human.pedestrian.construction_worker',
        shapes.construction_worker,
        (0.74, 0.70, 1.80),
        (0.08, 0.06, 0.04),
    ),
    'bicycle': Kind('vehicle.bicycle', shapes.bicycle, (1.72, 0.60, 1.12), (0.04, 0.05, 0.05)),
    'cyclist': Kind(
        'vehicle.bicycle', shapes.bicycle, (1.74, 0.62, 1.72), (0.04, 0.05, 0.04), {'rider': True}
    ),
    'motorcycle': Kind(
        'vehicle.motorcycle', shapes.motorcycle, (2.08, 0.78, 1.22), (0.06, 0.06, 0.05)
    ),
    'motorcyclist': Kind(
        'vehicle.motorcycle',
        shapes.motorcycle,
        (2.12, 0.80, 1.66),
        (0.06, 0.06, 0.04),
        {'rider': True},
    ),
    'cone': Kind('movable_object.trafficcone', shapes.traffic_cone, (0.41, 0.41, 1.02)),
    'barrier': Kind(
        'movable_object.barrier', shapes.barrier, (0.50, 2.50, 0.99), (0.05, 0.06, 0.04)
    ),
}


@dataclass(frozen=True)
class Body:
    """One actor's shape: `size` (length, width, height) and the mesh centred on its box."""

    kind: str
    size: tuple[float, float, float]
    mesh: Mesh

    @property
    def category(self) -> str:
        """The nuScenes category."""
        return KINDS[self.kind].category

    @property
    def length(self) -> float:
        """Metres along x."""
        return self.size[0]


def draw_body(kind: str, rng: np.random.Generator) -> Body:
    """Draws one actor of `kind` (a key of KINDS)."""
    entry = KINDS[kind]
    deviation = np.clip(rng.normal(size=3), -2, 2) * entry.spread
    # Centimetres, so that the tables hold the very numbers that the mesh was stretched to.
    length, width, height = (
        float(round(mean * (1 + d), 2)) for mean, d in zip(entry.size, deviation)
    )
    size = length, width, height
    return Body(kind, size, shapes.build(entry.shape, size, rng, **entry.options))


@dataclass(frozen=True)
class Actor:
    """A body and where it is at each sweep.

    Attributes:
        body: its shape.
        track: (T, 4) float64, x, y of its box's centre, height of the ground under it, yaw.
        parked: whether it stands still all through, unattended.
    """

    body: Body
    track: np.ndarray
    parked: bool

    @property
    def still(self) -> bool:
        """Whether it never moves."""
        return bool(np.all(self.track == self.track[0]))

    def speeds(self, dt: float) -> np.ndarray:
        """Speed (T,) in metres a second for sweeps `dt` seconds apart."""
        if len(self.track) == 1:
            return np.zeros(1)
        velocity = np.gradient(self.track[:, :2], dt, axis=0)
        return np.linalg.norm(velocity, axis=1)


def attribute(actor: Actor, speed: float) -> Optional[str]:
    """The nuScenes attribute of `actor` at `speed` (metres a second); None where it has none."""
    category = actor.body.category
    if category.startswith('human.pedestrian'):
        return 'pedestrian.moving' if speed > 0.2 else 'pedestrian.standing'
    if category in ('vehicle.bicycle', 'vehicle.motorcycle'):
        rider = KINDS[actor.body.kind].options.get('rider', False)
        return 'cycle.with_rider' if rider else 'cycle.without_rider'
    if category.startswith('vehicle.'):
        if actor.parked:
            return 'vehicle.parked'
        return 'vehicle.moving' if speed > 0.2 else 'vehicle.stopped'
    return None


def drop_collisions(
    actors: list[Actor], ego_track: np.ndarray, ego_size: Sequence[float]
) -> list[Actor]:
    """Drops the later actor of each pair whose footprints ever overlap, and all that hit the ego.

    Motion never depends on this: it is the guarantee, not the means, that nothing is run through.

    Args:
        actors: in order of precedence.
        ego_track: (T, 3) x, y, yaw of the ego box's centre.
        ego_size: the ego box's length and width.

    Returns:
        The actors that remain, in their order.
    """
    tracks = np.stack([ego_track] + [actor.track[:, [0, 1, 3]] for actor in actors])
    sizes = np.array([ego_size] + [actor.body.size[:2] for actor in actors])
    moving = np.array([True] + [not actor.still for actor in actors])
    reach = np.linalg.norm(sizes, axis=1) / 2
    low = tracks[:, :, :2].min(1) - reach[:, None]
    high = tracks[:, :, :2].max(1) + reach[:, None]
    alive = np.ones(len(tracks), bool)
    for i in range(len(tracks)):
        if not alive[i]:
            continue
        near = np.all((low < high[i]) & (high > low[i]), axis=1) & alive
        near[: i + 1] = False
        for j in np.flatnonzero(near):
            steps = slice(None) if moving[i] or moving[j] else slice(0, 1)
            if _overlap(tracks[i, steps], sizes[i], tracks[j, steps], sizes[j]):
                alive[j] = False
    return [actor for actor, kept in zip(actors, alive[1:]) if kept]


def _overlap(
    track_a: np.ndarray, size_a: np.ndarray, track_b: np.ndarray, size_b: np.ndarray
) -> bool:
    """Whether two moving rectangles, given as (T, 3) x, y, yaw, ever overlap (separating axes)."""
    offset = track_b[:, :2] - track_a[:, :2]
    close = np.linalg.norm(offset, axis=1) < (np.hypot(*size_a) + np.hypot(*size_b)) / 2
    if not close.any():
        return False
    offset, yaw_a, yaw_b = offset[close], track_a[close, 2], track_b[close, 2]
    half_a, half_b = np.asarray(size_a) / 2, np.asarray(size_b) / 2
    apart = np.zeros(len(offset), bool)
    for yaw in (yaw_a, yaw_a + np.pi / 2, yaw_b, yaw_b + np.pi / 2):
        axis = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
        reach = sum(
            half[0] * np.abs(np.cos(own - yaw)) + half[1] * np.abs(np.sin(own - yaw))
            for own, half in ((yaw_a, half_a), (yaw_b, half_b))
        )
        apart |= np.abs(np.sum(offset * axis, axis=1)) > reach
    return bool(np.any(~apart))
