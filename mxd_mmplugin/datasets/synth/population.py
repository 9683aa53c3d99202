"""Who is in a scene, and where: traffic, parked vehicles, walkers, cones and barriers."""

from collections.abc import Iterable, Sequence
from typing import Callable, Optional

import numpy as np

from .actors import Actor, Body, draw_body, drop_collisions
from .layout import CROSS_REACH, KERB_HEIGHT, MAIN_START, PARKING, SIDEWALK, Lane, Layout
from .scenery import Plot
from .sensors import EGO_CENTRE, EGO_SIZE
from .traffic import BRAKING, Drivers, EgoRoute, simulate

WARM_UP = 3.0  # seconds of traffic before the first key frame
SIGHT = 95.0  # metres from the ego vehicle beyond which nobody is kept
BUSY = (-70.0, 190.0)  # the part of the main street, in x, that is worth filling
MIX = (
    ('car', 0.66),
    ('pickup', 0.05),
    ('truck', 0.08),
    ('bus', 0.06),
    ('motorcyclist', 0.08),
    ('tractor', 0.07),
)
PARKED_MIX = (
    ('car', 0.78),
    ('pickup', 0.05),
    ('truck', 0.06),
    ('trailer', 0.04),
    ('motorcycle', 0.05),
    ('construction_vehicle', 0.02),
)

# x, y and yaw.
Pose = tuple[float, float, float]


def _pick(mix: Iterable[tuple[str, float]], rng: np.random.Generator) -> str:
    names, weights = zip(*mix)
    return names[rng.choice(len(names), p=np.array(weights) / np.sum(weights))]


class Population:
    """Fills one scene. Each `add_...` method adds actors; `finish` returns those that fit."""

    def __init__(
        self, layout: Layout, plots: list[Plot], rng: np.random.Generator, steps: int, dt: float
    ) -> None:
        """`steps` sweeps of `dt` seconds each; one more is kept before them for the ego's motion."""
        self.layout, self.plots, self.rng = layout, plots, rng
        self.steps, self.dt = steps, dt
        self.actors: list[Actor] = []

    def _stand(
        self,
        body: Body,
        x: float,
        y: float,
        yaw: float,
        height: Optional[float] = None,
        parked: bool = True,
    ) -> None:
        """Adds an actor that stands still; on the ground, unless `height` is given."""
        if height is None:
            height = float(self.layout.ground_height(x, y))
        track = np.tile([float(x), float(y), height, float(yaw)], (self.steps, 1))
        self.actors.append(Actor(body, track, parked))

    def _jitter(self, scale: float = 0.04) -> float:
        return self.rng.normal(0, scale)

    def add_traffic(self, plan: str) -> np.ndarray:
        """Adds all that drives in lanes; returns the ego vehicle's track (steps + 1, 3)."""
        layout, rng = self.layout, self.rng
        lanes = layout.main_lanes(1) + layout.main_lanes(-1)
        lanes += [layout.cross_lane(c, d) for c in layout.crossings for d in (1, -1)]
        bike_lanes = len(lanes)
        lanes += [layout.bike_lane(d) for d in (1, -1)]
        route = EgoRoute(layout, lanes, plan == 'turn')
        speed = float(rng.uniform(7.5, 9.5))
        ego = {
            # Warm-up brings the ego vehicle to about x=0, nearer to the crossing when it turns.
            's': (24.0 if plan == 'turn' else 0.0) - MAIN_START - speed * WARM_UP,
            'speed': speed,
            'wanted': speed,
            'front': EGO_SIZE[0] / 2 + EGO_CENTRE,
            'rear': EGO_SIZE[0] / 2 - EGO_CENTRE,
        }
        bodies, trailers, rows = [], [], []
        for index, lane in enumerate(lanes):
            length = CROSS_REACH * 2 if lane.street == 'cross' else 470
            s = float(rng.uniform(0, 25))
            while s < length:
                bike = index >= bike_lanes
                kind = 'cyclist' if bike else _pick(MIX, rng)
                if kind == 'tractor' and lane.street == 'cross':
                    kind = 'car'
                body = draw_body(kind, rng)
                trailer = draw_body('trailer', rng) if kind == 'tractor' else None
                front = rear = body.length / 2
                if trailer:
                    rear += trailer.length + 0.6
                s += rear
                wanted = float(rng.uniform(3.4, 5.8) if bike else rng.uniform(6.5, 11))
                v = self._entry_speed(lane, s, front, rear, wanted)
                clear = index != route.first or abs(s - ego['s']) > 12 + rear
                if v is not None and clear:
                    bodies.append(body)
                    trailers.append(trailer)
                    rows.append((index, s, v, wanted, front, rear))
                s += front + float(rng.uniform(9, 42) if not bike else rng.uniform(10, 45))
        columns = np.array(rows).T
        drivers = Drivers(columns[0].astype(int), *columns[1:])
        warm_up = round(WARM_UP / self.dt)
        places, ego_places = simulate(lanes, drivers, route, ego, warm_up + self.steps, self.dt)
        places, ego_places = places[warm_up:], ego_places[warm_up - 1 :]
        for n, (body, trailer) in enumerate(zip(bodies, trailers)):
            lane = lanes[int(rows[n][0])]
            self._drive(body, lane.pose(places[:, n]))
            if trailer:
                behind = body.length / 2 + 0.6 + trailer.length / 2
                self._drive(trailer, lane.pose(places[:, n] - behind))
        return route.pose(ego_places)

    def _drive(self, body: Body, poses: np.ndarray) -> None:
        track = np.insert(poses, 2, 0.0, axis=1)
        self.actors.append(Actor(body, track, parked=False))

    def _entry_speed(
        self, lane: Lane, s: float, front: float, rear: float, wanted: float
    ) -> Optional[float]:
        """A speed from which a driver at `s` can still stop at red; None inside a crossing."""
        layout = self.layout
        box = (layout.main_half if lane.street == 'cross' else layout.cross_half) + SIDEWALK + 1.5
        speed = wanted
        for stop in lane.stops:
            gap = stop - s - front
            if -2 * box - front - rear < gap < 0:
                return None
            if gap >= 0:
                speed = min(speed, float(np.sqrt(2 * BRAKING * gap)))
        return speed

    def add_kerb_parking(self) -> None:
        """Fills the parking lanes of all streets; a bus, trailers and lorries are among them."""
        layout, rng = self.layout, self.rng
        needed = [
            'bus',
            'bus',
            'trailer',
            'trailer',
            'truck',
            'truck',
            'motorcycle',
            'motorcycle',
            'construction_vehicle',
            'motorcycle',
        ]
        places = list(rng.permutation(np.linspace(BUSY[0] + 60, BUSY[1] - 50, len(needed))))
        musts = {
            side: sorted(zip(places[half::2], needed[half::2])) for half, side in enumerate((1, -1))
        }
        offset = layout.main_half - PARKING / 2
        margin = layout.cross_half + SIDEWALK + 4
        edges = (MAIN_START, *layout.crossings, BUSY[1] + 90)
        sites = [plot for plot in self.plots if plot.kind == 'site']
        for a, b in zip(edges, edges[1:]):
            for side in (1, -1):
                closed = [(p.x0 - 4, p.x1 + 4) for p in sites if p.side == side]
                yaw = 0.0 if side < 0 else np.pi

                def along(x: float, body: Body, side: int = side, yaw: float = yaw) -> Pose:
                    to_kerb = max(0.0, (PARKING - body.size[1]) / 2 - 0.3)
                    return x, side * (offset + to_kerb), yaw

                self._fill(a + margin, b - margin, closed, musts[side], along)
        for crossing in layout.crossings:
            for side in (1, -1):
                for half in (1, -1):
                    start = layout.main_half + SIDEWALK + 6
                    x = crossing + side * (layout.cross_half - PARKING / 2)
                    yaw = side * np.pi / 2

                    def across(
                        y: float, _: Body, x: float = x, yaw: float = yaw, half: int = half
                    ) -> Pose:
                        return x, half * y, yaw

                    self._fill(start, 110, [], [], across)

    def _fill(
        self,
        start: float,
        end: float,
        closed: Sequence[tuple[float, float]],
        musts: list[tuple[float, str]],
        place: Callable[[float, Body], Pose],
    ) -> None:
        """Parks vehicles one behind the other from `start` to `end`.

        Args:
            start, end: metres along the kerb.
            closed: spans (from, to) to leave free.
            musts: (place, kind) in ascending order; each is parked at the first chance past its
                place and then removed.
            place: maps metres along the kerb and a body to x, y, yaw.
        """
        rng = self.rng
        at = start + float(rng.uniform(0, 4))
        while at < end:
            if musts and musts[0][0] <= at:
                kind = musts[0][1]
            elif rng.random() < 0.28:
                at += float(rng.uniform(3, 8))
                continue
            else:
                kind = _pick(PARKED_MIX, rng)
            body = draw_body(kind, rng)
            blocked = [span for span in closed if at < span[1] and at + body.length > span[0]]
            if blocked:
                at = blocked[0][1]
                continue
            if at + body.length > end:
                break
            if musts and musts[0][0] <= at:
                musts.pop(0)
            x, y, yaw = place(at + body.length / 2, body)
            turn = float(rng.uniform(-0.6, 0.6)) if kind == 'motorcycle' else self._jitter(0.02)
            self._stand(body, x, y + self._jitter(0.08), yaw + turn, parked=kind != 'bus')
            at += body.length + float(rng.uniform(0.7, 1.8))

    def add_lots(self) -> None:
        """Cars side by side in the lots, across to the street."""
        rng = self.rng
        for plot in self.plots:
            if plot.kind != 'lot':
                continue
            for depth in (4.0, 15.0):
                for x in np.arange(plot.x0 + 1.8, plot.x1 - 1.5, 2.9):
                    if rng.random() < 0.62:
                        kind = _pick((('car', 0.84), ('pickup', 0.08), ('motorcycle', 0.08)), rng)
                        yaw = plot.side * np.pi / 2 * (1 if rng.random() < 0.5 else -1)
                        y = plot.depth_to_y(self.layout, depth + self._jitter(0.2))
                        self._stand(
                            draw_body(kind, rng), x, y, yaw + self._jitter(0.03), KERB_HEIGHT + 0.03
                        )

    def add_sites(self) -> None:
        """Construction sites: machines and workers behind barriers, cones round the closed lane."""
        layout, rng = self.layout, self.rng
        height = KERB_HEIGHT + 0.03
        for plot in self.plots:
            if plot.kind != 'site':
                continue
            places = np.linspace(plot.x0 + 5, plot.x1 - 5, 4)
            kinds = list(rng.permutation(['construction_vehicle'] * 3 + ['truck', 'trailer']))[:4]
            for x, kind in zip(places, kinds):
                y = plot.depth_to_y(layout, 9 + float(rng.uniform(-1.5, 3)))
                yaw = (
                    float(rng.uniform(-np.pi, np.pi))
                    if kind == 'construction_vehicle'
                    else (plot.side * np.pi / 2 + self._jitter(0.1))
                )
                self._stand(draw_body(kind, rng), x, y, yaw, height)
            for _ in range(5):
                x = float(rng.uniform(plot.x0 + 1, plot.x1 - 1))
                y = plot.depth_to_y(layout, float(rng.uniform(1.0, 4.0)))
                self._stand(
                    draw_body('worker', rng), x, y, rng.uniform(-np.pi, np.pi), height, parked=False
                )
            # A barrier is wide across its own x axis, so it faces the street.
            facing = plot.side * np.pi / 2
            for x in np.arange(plot.x0 + 1.4, plot.x1 - 1, 2.8):
                if rng.random() < 0.85:
                    y = plot.depth_to_y(layout, 0.3)
                    self._stand(draw_body('barrier', rng), x, y, facing + self._jitter(), height)
            edge = plot.side * (layout.main_half - PARKING - 0.3)
            for x in np.arange(plot.x0, plot.x1, 2.6):
                self._stand(
                    draw_body('cone', rng),
                    x + self._jitter(0.1),
                    edge + self._jitter(0.1),
                    rng.uniform(-np.pi, np.pi),
                )
            for x in (plot.x0 - 1.5, plot.x1 + 1.5):
                for step in (0.6, 1.6):
                    self._stand(
                        draw_body('cone', rng),
                        x,
                        edge + plot.side * step,
                        rng.uniform(-np.pi, np.pi),
                    )
                y = plot.side * (layout.main_half - PARKING / 2 + 0.3)
                self._stand(draw_body('barrier', rng), x, y, self._jitter())

    def add_median(self) -> None:
        """A row of barriers, then one of cones, along the centre line."""
        rng = self.rng
        first, ahead = self.layout.crossings[1:3]
        margin = self.layout.cross_half + SIDEWALK + 5
        for x0, x1 in ((-6.0, first - margin), (first + margin, ahead - margin)):
            middle = float(rng.uniform(0.35, 0.65)) * (x0 + x1)
            middle = min(max(middle, x0), x1)
            for x in np.arange(x0, middle, 2.7):
                self._stand(draw_body('barrier', rng), x, 0, np.pi / 2 + self._jitter(0.02))
            for x in np.arange(middle + 3, x1, 3.4):
                if rng.random() < 0.7:
                    self._stand(
                        draw_body('cone', rng), x, self._jitter(0.1), rng.uniform(-np.pi, np.pi)
                    )

    def add_parked_cycles(self) -> None:
        """Bicycles and motorcycles beside the kerb, in small groups."""
        rng = self.rng
        for side in (1, -1):
            for x in np.arange(BUSY[0], BUSY[1], 17.0):
                if rng.random() < 0.25:
                    continue
                x = x + float(rng.uniform(0, 6))
                if self.layout.ground_height([x - 2, x + 7], self.layout.main_half + 1).min() == 0:
                    continue
                kind = 'bicycle' if rng.random() < 0.65 else 'motorcycle'
                for n in range(int(rng.integers(1, 4))):
                    y = side * (self.layout.main_half + 1.25)
                    yaw = self._jitter(0.12) + (np.pi if rng.random() < 0.5 else 0)
                    self._stand(draw_body(kind, rng), x + 2.3 * n, y + self._jitter(0.06), yaw)

    def add_walkers(self) -> None:
        """People along the pavements, waiting at the kerb, and across streets whose light is red."""
        layout, rng = self.layout, self.rng
        for side in (1, -1):
            for x in np.arange(BUSY[0], BUSY[1], 7.5):
                if rng.random() < 0.2:
                    continue
                direction = 1 if rng.random() < 0.5 else -1
                speed = float(rng.uniform(0.8, 1.6)) if rng.random() < 0.8 else 0.0
                x = x + float(rng.uniform(0, 4))
                y = side * (layout.main_half + float(rng.uniform(2.3, 3.7)))
                companions = int(rng.choice([1, 1, 2]))
                for n in range(companions):
                    kind = 'child' if rng.random() < 0.1 else 'pedestrian'
                    self._walk(
                        draw_body(kind, rng),
                        x + self._jitter(0.2),
                        y - side * 0.9 * n,
                        0.0 if direction > 0 else np.pi,
                        speed,
                    )
        for crossing in layout.crossings:
            for side in (1, -1):
                for _ in range(int(rng.integers(1, 4))):
                    self._cross(crossing, side)

    def _cross(self, crossing: float, side: int) -> None:
        """Someone on the zebra crossing of the street whose light is red."""
        layout, rng = self.layout, self.rng
        direction = 1 if rng.random() < 0.5 else -1
        speed, across = float(rng.uniform(0.9, 1.5)), float(rng.uniform(0.8, 3.4))
        if layout.red == 'cross':
            x = crossing + float(rng.uniform(-1.2, 1.0)) * direction * (layout.cross_half + 2)
            y, yaw = side * (layout.main_half + across), 0.0
        else:
            x = crossing + side * (layout.cross_half + across)
            y, yaw = float(rng.uniform(-1.2, 1.0)) * direction * (layout.main_half + 2), np.pi / 2
        yaw += 0.0 if direction > 0 else np.pi
        self._walk(draw_body('pedestrian', rng), x, y, yaw, speed, crosses=True)

    def _walk(
        self, body: Body, x: float, y: float, yaw: float, speed: float, crosses: bool = False
    ) -> None:
        """Adds someone who walks straight on; those who may not cross wait at the kerb."""
        layout = self.layout
        distance = speed * self.dt * np.arange(self.steps)
        xs, ys = x + distance * np.cos(yaw), y + distance * np.sin(yaw)
        if layout.red == 'main' and not crosses:
            to_cross = np.min(
                [np.abs(xs - c) - layout.cross_half for c in layout.crossings], axis=0
            )
            blocked = to_cross < 0.8
            if blocked[0]:
                return
            if blocked.any():
                last = int(blocked.argmax()) - 1
                xs[last:], ys[last:] = xs[last], ys[last]
        height = layout.ground_height(xs, ys)
        track = np.stack([xs, ys, height, np.full(self.steps, yaw)], axis=1)
        self.actors.append(Actor(body, track, parked=False))

    def finish(self, ego_track: np.ndarray) -> tuple[list[Actor], np.ndarray]:
        """The actors in sight that hit nothing and the ego's track; mirrored if traffic is left."""
        centre = ego_track[1:].copy()
        centre[:, 0] += EGO_CENTRE * np.cos(centre[:, 2])
        centre[:, 1] += EGO_CENTRE * np.sin(centre[:, 2])
        near = [
            actor
            for actor in self.actors
            if np.linalg.norm(actor.track[:, :2] - centre[:, :2], axis=1).min() < SIGHT
        ]
        kept = drop_collisions(near, centre, EGO_SIZE)
        mirror = self.layout.mirror
        actors = [
            Actor(actor.body, actor.track * (1, mirror, 1, mirror), actor.parked) for actor in kept
        ]
        return actors, ego_track * (1, mirror, mirror)


def populate(
    layout: Layout, plots: list[Plot], plan: str, rng: np.random.Generator, steps: int, dt: float
) -> tuple[list[Actor], np.ndarray]:
    """Fills a scene.

    Args:
        layout: its streets.
        plots: what lies beside them.
        plan: what the ego vehicle does, see `SceneSpec`.
        rng: the random generator.
        steps: the number of sweeps, `dt` seconds apart.
        dt: seconds.

    Returns:
        The actors, each with a track of `steps` rows, and the ego vehicle's track
        (steps + 1, 3) of x, y, yaw, whose first row is one sweep before the first.
    """
    population = Population(layout, plots, rng, steps, dt)
    ego_track = population.add_traffic(plan)
    population.add_sites()
    population.add_median()
    population.add_kerb_parking()
    population.add_lots()
    population.add_parked_cycles()
    population.add_walkers()
    return population.finish(ego_track)
