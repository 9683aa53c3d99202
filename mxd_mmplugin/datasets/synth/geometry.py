"""Meshes of planar quadrilaterals, rotations and quaternions.

Lengths are metres, angles radians, frames right-handed with z up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Material(NamedTuple):
    """How a face looks: `rgb` 0..255 for the cameras, `reflectance` 0..1 for the LiDAR."""

    rgb: tuple[int, int, int]
    reflectance: float


@dataclass(frozen=True)
class Mesh:
    """Planar convex faces of four corners, counter-clockwise seen from outside.

    A triangle repeats its last corner.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 4) int64, indices into `vertices`.
        rgb: (F, 3) uint8.
        reflectance: (F,) float32, 0..1.
    """

    vertices: np.ndarray
    faces: np.ndarray
    rgb: np.ndarray
    reflectance: np.ndarray

    def placed(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> 'Mesh':
        """This mesh turned by `yaw` about z, then moved to (x, y, z)."""
        vertices = rotate(self.vertices, rotation_z(yaw)) + (x, y, z)
        return Mesh(vertices, self.faces, self.rgb, self.reflectance)

    def fitted(self, size: tuple[float, float, float]) -> 'Mesh':
        """This mesh stretched to extents `size` (length x, width y, height z), centred on 0."""
        low, high = self.vertices.min(0), self.vertices.max(0)
        vertices = (self.vertices - (low + high) / 2) * (np.asarray(size) / (high - low))
        return Mesh(vertices, self.faces, self.rgb, self.reflectance)

    def mirrored(self) -> 'Mesh':
        """This mesh with y negated, its faces turned over so that they still face outwards."""
        return Mesh(self.vertices * (1, -1, 1), self.faces[:, ::-1], self.rgb, self.reflectance)


def merge(meshes: Iterable[Mesh]) -> Mesh:
    """One mesh of all faces of `meshes`, in their order."""
    meshes = list(meshes)
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]),
        np.concatenate([mesh.rgb for mesh in meshes]),
        np.concatenate([mesh.reflectance for mesh in meshes]),
    )


def face_normals(quads: np.ndarray) -> np.ndarray:
    """Unit outward normals (F, 3) of `quads` (F, 4, 3); zero where a face has no area."""
    # The diagonals give the normal of a triangle too, whichever corner it repeats.
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12)


def rotate(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """`points` (..., 3) turned by `rotation` (3, 3).

    Not a matrix product: those may round differently with the number of threads, and the same
    seed shall give the same bytes on any number of cores.
    """
    x, y, z = points[..., :1], points[..., 1:2], points[..., 2:]
    return x * rotation[:, 0] + y * rotation[:, 1] + z * rotation[:, 2]


def rotation_z(yaw: ArrayLike) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about z by `yaw` (...)."""
    yaw = np.asarray(yaw, dtype=np.float64)
    rotation = np.zeros((*yaw.shape, 3, 3))
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(yaw)
    rotation[..., 1, 0] = np.sin(yaw)
    rotation[..., 0, 1] = -rotation[..., 1, 0]
    rotation[..., 2, 2] = 1
    return rotation


def quaternion_z(yaw: float) -> list[float]:
    """The unit quaternion [w, x, y, z] of a turn by `yaw` about z."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def rotation_matrix(quaternion: ArrayLike) -> np.ndarray:
    """The rotation matrix (3, 3) of a quaternion [w, x, y, z] of any length but 0."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
