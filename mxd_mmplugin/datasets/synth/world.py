"""One scene's world: its scenery, its actors and the ego vehicle, sweep by sweep."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from .actors import Actor
from .geometry import Mesh, merge, rotation_z
from .layout import Layout, make_layout
from .population import populate
from .scenery import Plot, make_plots, make_scenery
from .scenes import SceneSpec
from .sensors import SWEEP_SECONDS, SWEEPS_PER_KEY_FRAME, Sensor

SCENERY = -1  # the owner of a face that belongs to no actor


@dataclass(frozen=True)
class World:
    """All that a sensor can see, in the district frame.

    Faces come in three runs: the scenery's, those of actors that stand still all through, and
    those of actors that move.

    Attributes:
        layout: the streets.
        actors: sorted so that those that stand still come first.
        ego_track: (T + 1, 3) x, y, yaw; row k + 1 belongs to sweep k.
        mesh: all faces; the vertices of actors are in the frame of their boxes.
        owner: (F,) int64, the index in `actors` of each face's actor, or SCENERY.
        vertex_owner: (V,) int64, the same for each vertex.
        fixed_faces: the number of faces that never move.
        fixed_vertices: the number of vertices that never move.
    """

    layout: Layout
    actors: list[Actor]
    ego_track: np.ndarray
    mesh: Mesh
    owner: np.ndarray
    vertex_owner: np.ndarray
    fixed_faces: int
    fixed_vertices: int

    def ego_pose(self, step: ArrayLike) -> np.ndarray:
        """The ego pose x, y, yaw at the time `step` (...), in sweeps, which may be fractional."""
        step = np.asarray(step, dtype=np.float64) + 1
        track = self.ego_track.copy()
        track[:, 2] = np.unwrap(track[:, 2])
        rows = np.arange(len(track))
        return np.stack([np.interp(step, rows, track[:, i]) for i in range(3)], axis=-1)

    def sensor_pose(self, sensor: Sensor, step: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Origin (..., 3) and rotation (..., 3, 3) that take `sensor`'s frame to the district's."""
        pose = self.ego_pose(step)
        turn = rotation_z(pose[..., 2])
        origin = np.concatenate([pose[..., :2], np.zeros_like(pose[..., :1])], axis=-1)
        return origin + turn @ np.asarray(sensor.translation), turn @ sensor.rotation

    def boxes(self, step: int) -> np.ndarray:
        """The actors' boxes (N, 7) at sweep `step`: centre x, y, z, length, width, height, yaw."""
        tracks = np.array([actor.track[step] for actor in self.actors])
        sizes = np.array([actor.body.size for actor in self.actors])
        centre_z = tracks[:, 2] + sizes[:, 2] / 2
        return np.column_stack([tracks[:, :2], centre_z, sizes, tracks[:, 3]])

    def vertices(self, step: int) -> np.ndarray:
        """All vertices (V, 3) at sweep `step`."""
        moving = self._place(slice(self.fixed_vertices, None), step)
        return np.concatenate([self._fixed, moving])

    @cached_property
    def _fixed(self) -> np.ndarray:
        """The vertices (fixed_vertices, 3) that never move."""
        scenery = int(np.count_nonzero(self.vertex_owner == SCENERY))
        standing = self._place(slice(scenery, self.fixed_vertices), 0)
        return np.concatenate([self.mesh.vertices[:scenery], standing])

    def _place(self, which: slice, step: int) -> np.ndarray:
        """The vertices `which`, all of actors, at sweep `step`."""
        boxes = self.boxes(step)
        owner, local = self.vertex_owner[which], self.mesh.vertices[which]
        cos, sin = np.cos(boxes[:, 6])[owner], np.sin(boxes[:, 6])[owner]
        x = boxes[owner, 0] + cos * local[:, 0] - sin * local[:, 1]
        y = boxes[owner, 1] + sin * local[:, 0] + cos * local[:, 1]
        return np.stack([x, y, boxes[owner, 2] + local[:, 2]], axis=1)


def make_streets(spec: SceneSpec, seed: int) -> tuple[Layout, list[Plot], np.random.Generator]:
    """The layout and plots of scene `spec`, and the random generator to go on with."""
    rng = np.random.default_rng([seed, spec.number])
    layout = make_layout(spec, rng)
    return layout, make_plots(layout, rng), rng


def make_world(spec: SceneSpec, seed: int, key_frames: int) -> World:
    """Builds scene `spec`'s world for `key_frames` key frames; `seed` is the data set's."""
    steps = (key_frames - 1) * SWEEPS_PER_KEY_FRAME + 1
    layout, plots, rng = make_streets(spec, seed)
    scenery = make_scenery(layout, plots, rng)
    actors, ego_track = populate(layout, plots, spec.plan, rng, steps, SWEEP_SECONDS)
    actors = sorted(actors, key=lambda actor: not actor.still)
    meshes = [scenery] + [actor.body.mesh for actor in actors]
    owners = np.arange(SCENERY, len(actors))
    owner = np.repeat(owners, [len(mesh.faces) for mesh in meshes])
    standing = sum(actor.still for actor in actors)
    vertex_owner = np.repeat(owners, [len(mesh.vertices) for mesh in meshes])
    return World(
        layout,
        actors,
        ego_track,
        merge(meshes),
        owner,
        vertex_owner,
        int(np.count_nonzero(owner < standing)),
        int(np.count_nonzero(vertex_owner < standing)),
    )
