"""The LiDAR: 32 beams that turn 20 times a second, cast against the world's faces.

A sweep ends at its time stamp. Each column of beams starts where the sensor was when it fired,
and the points are then given in the sensor's frame at the time stamp, as nuScenes does. Actors
stand still for the twentieth of a second of a sweep, where they are at its time stamp, so that
points, boxes and images agree.
"""

import numpy as np

from .geometry import face_normals, rotate
from .raycast import Faces
from .sensors import LIDAR
from .world import World

BEAMS = 32
COLUMNS = 1084
LOWEST, HIGHEST = np.deg2rad(-30.67), np.deg2rad(10.67)
FIRST_AZIMUTH = np.deg2rad(-172.0)  # counter-clockwise from the sensor's x axis
MAX_RANGE = 105.0  # metres
RANGE_NOISE = 0.015  # metres, standard deviation
# Metres at which a white wall seen square on gives the weakest return that is still detected.
WHITE_RANGE = 260.0
RANDOM_DROP = 0.015  # of the returns that are strong enough


class Lidar:
    """Sweeps of one world."""

    def __init__(self, world: World) -> None:
        """Builds the part of the scene that never moves."""
        self.world = world
        self._fixed = Faces(world.vertices(0)[world.mesh.faces[: world.fixed_faces]])

    def sweep(self, step: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Casts sweep `step`.

        Returns:
            points: (P, 5) float32, x, y, z in the LiDAR frame at the time stamp (metres),
                intensity 0..255, ring 0..31; a beam without a return gives no point.
            owner: (P,) int64, the actor that each point lies on, or SCENERY.
        """
        world = self.world
        origins, directions, rings = self._beams(step)
        quads = world.vertices(step)[world.mesh.faces[world.fixed_faces :]]
        near = _may_be_hit(quads, world.sensor_pose(LIDAR, step)[0])
        distance, face, cosine = self._fixed.cast(origins, directions)
        if near.any():
            hit, moving_face, moving_cosine = Faces(quads[near]).cast(origins, directions)
            closer = np.flatnonzero(hit < distance)
            numbers = np.flatnonzero(near) + world.fixed_faces
            distance[closer] = hit[closer]
            face[closer] = numbers[moving_face[closer]]
            cosine[closer] = moving_cosine[closer]

        reflectance = world.mesh.reflectance[face]
        # Rough surfaces send back more at a slant than a perfect diffuser would.
        signal = reflectance * np.sqrt(cosine)
        spread = np.exp(rng.normal(0, 0.25, len(distance)))
        detected = signal * (WHITE_RANGE / np.maximum(distance, 1)) ** 2 * spread > 1
        detected &= rng.random(len(distance)) > RANDOM_DROP
        detected &= distance < MAX_RANGE
        distance = distance + rng.normal(0, RANGE_NOISE, len(distance))
        intensity = 255 * signal * rng.normal(1, 0.08, len(distance))
        intensity = np.clip(np.round(intensity), 0, 255)

        hits = origins[detected] + directions[detected] * distance[detected, None]
        origin, rotation = world.sensor_pose(LIDAR, step)
        points = np.column_stack(
            [rotate(hits - origin, rotation.T), intensity[detected], rings[detected]]
        )
        return points.astype(np.float32), world.owner[face[detected]]

    def _beams(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Origins and unit directions (BEAMS * COLUMNS, 3) of a sweep's beams, and their rings."""
        column = np.arange(COLUMNS)
        azimuth = FIRST_AZIMUTH - 2 * np.pi * column / COLUMNS
        elevation = np.linspace(LOWEST, HIGHEST, BEAMS)
        local = np.stack(
            [
                np.cos(azimuth)[:, None] * np.cos(elevation),
                np.sin(azimuth)[:, None] * np.cos(elevation),
                np.broadcast_to(np.sin(elevation), (COLUMNS, BEAMS)),
            ],
            axis=-1,
        )
        fired = step - 1 + (column + 1) / COLUMNS
        origin, rotation = self.world.sensor_pose(LIDAR, fired)
        directions = np.einsum('cij,cbj->cbi', rotation, local)
        origins = np.broadcast_to(origin[:, None], directions.shape)
        rings = np.broadcast_to(np.arange(BEAMS), (COLUMNS, BEAMS))
        return origins.reshape(-1, 3), directions.reshape(-1, 3), rings.reshape(-1)


def _may_be_hit(quads: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Which of the faces (F, 4, 3) turn their outside to a sensor at `origin` and are in range."""
    offset = quads[:, 0] - origin
    # The sensor moves by less than a metre in a sweep, and may see a little round a face's edge.
    outside = np.sum(face_normals(quads) * offset, axis=1) < 1.0
    return outside & (np.linalg.norm(offset, axis=1) < MAX_RANGE)


def count_points(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How many of `points` (P, 3) lie in each of `boxes` (N, 7), both in one frame; (N,) int64."""
    points = points[np.argsort(points[:, 0], kind='stable')]
    reach = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
    first = np.searchsorted(points[:, 0], boxes[:, 0] - reach)
    last = np.searchsorted(points[:, 0], boxes[:, 0] + reach, side='right')
    counts = np.zeros(len(boxes), np.int64)
    for index, box in enumerate(boxes):
        offset = points[first[index] : last[index]] - box[:3]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        x = np.abs(offset[:, 0] * cos + offset[:, 1] * sin)
        y = np.abs(offset[:, 1] * cos - offset[:, 0] * sin)
        inside = (2 * x <= box[3]) & (2 * y <= box[4]) & (2 * np.abs(offset[:, 2]) <= box[5])
        counts[index] = np.count_nonzero(inside)
    return counts
