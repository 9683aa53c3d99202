"""Rays cast against planar faces, compiled by Numba and so the same on every processor.

A tree of boxes holds the faces: its levels halve them along the axis in which their centres spread
most, until four or fewer are left. As the halves are equal, node i has the children 2i and 2i + 1,
and the whole tree is built by sorting the rows of an array.

All is double precision, and Numba neither reorders sums nor fuses products with them, so that a
processor with other vectors finds the same distances.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from .geometry import face_normals

LEAF = 4  # faces in a leaf at most
MARGIN = 1e-6  # metres that a box is wider than its faces: rounding must not lose a flat one
TIE = 1e-9  # metres: of faces in one plane the first one is hit, however the distances are rounded
_compiled = njit(error_model='numpy')  # 1 / 0 is infinite


class Faces:
    """Faces that rays can be cast against."""

    def __init__(self, quads: np.ndarray) -> None:
        """Builds the tree.

        Args:
            quads: (F, 4, 3) float64, F > 0, planar and convex; a triangle repeats its last corner.
        """
        self._normals = face_normals(quads)
        levels = max(0, int(np.ceil(np.log2(len(quads) / LEAF))))
        self._order = _sort_into_leaves(quads.mean(1), levels)
        self._low, self._high = _boxes(quads, self._order)
        self._planes = _planes(quads, self._normals)[self._order]

    def cast(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the nearest face of each ray, from either side.

        Args:
            origins: (R, 3) float64, metres.
            directions: (R, 3) float64, of length 1.

        Returns:
            distance: (R,) float64, metres, infinite without a hit.
            face: (R,) int64, 0 without a hit.
            cosine: (R,) float64, of the angle of incidence, 0..1.
        """
        distance, face = _cast(
            np.ascontiguousarray(origins),
            np.ascontiguousarray(directions),
            self._low,
            self._high,
            self._planes.reshape(-1, 4),
            self._order,
        )
        cosine = np.abs(np.sum(self._normals[face] * directions, axis=1))
        return distance, face, cosine


def _sort_into_leaves(centres: np.ndarray, levels: int) -> np.ndarray:
    """Which faces each of the 2**levels leaves holds (L, faces), the last face being repeated."""
    leaves = 2**levels
    size = -(-len(centres) // leaves)
    order = np.minimum(np.arange(leaves * size), len(centres) - 1)
    for level in range(levels):
        rows = order.reshape(2**level, -1)
        axis = np.ptp(centres[rows], axis=1).argmax(1)
        keys = centres[rows, axis[:, None]]
        order = np.take_along_axis(rows, np.argsort(keys, axis=1, kind='stable'), axis=1)
    return order.reshape(leaves, size)


def _boxes(quads: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (2 * L, 3) of each node's box, the root's at 1."""
    low, high = [quads[order].min((1, 2)) - MARGIN], [quads[order].max((1, 2)) + MARGIN]
    while len(low[0]) > 1:
        low.insert(0, low[0].reshape(-1, 2, 3).min(1))
        high.insert(0, high[0].reshape(-1, 2, 3).max(1))
    unused = np.zeros((1, 3))
    return np.concatenate([unused, *low]), np.concatenate([unused, *high])


def _planes(quads: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The plane of each face and, upright on it, those of its four edges: (F, 5, 4).

    A point is on a plane (x, y, z, w) where its product with (x, y, z) is w, and within an edge
    where it is w or more.
    """
    edges = np.cross(normals[:, None], np.roll(quads, -1, axis=1) - quads)
    towards = np.concatenate([normals[:, None], edges], axis=1)
    through = np.concatenate([quads[:, :1], quads], axis=1)
    return np.concatenate([towards, np.sum(towards * through, axis=2, keepdims=True)], axis=2)


@_compiled
def _enters(
    low: np.ndarray,
    high: np.ndarray,
    node: int,
    origin: Sequence[float],
    inverse: Sequence[float],
    reach: float,
) -> float:
    """The distance at which a ray enters a box, infinite where it misses it or enters beyond `reach`."""
    first, last = 0.0, reach
    for axis in range(3):
        a = (low[node, axis] - origin[axis]) * inverse[axis]
        b = (high[node, axis] - origin[axis]) * inverse[axis]
        first = max(first, min(a, b))
        last = min(last, max(a, b))
    return first if first <= last else np.inf


@_compiled
def _side(planes: np.ndarray, row: int, point: Sequence[float]) -> float:
    return planes[row, 0] * point[0] + planes[row, 1] * point[1] + planes[row, 2] * point[2]


@_compiled
def _meets(
    planes: np.ndarray, face: int, origin: Sequence[float], direction: Sequence[float]
) -> float:
    """The distance at which a ray meets a face, infinite where it does not."""
    plane = 5 * face
    slope = _side(planes, plane, direction)
    distance = (planes[plane, 3] - _side(planes, plane, origin)) / slope
    if not 0 < distance < np.inf:
        return np.inf
    point = (
        origin[0] + distance * direction[0],
        origin[1] + distance * direction[1],
        origin[2] + distance * direction[2],
    )
    for edge in range(plane + 1, plane + 5):
        if _side(planes, edge, point) < planes[edge, 3]:
            return np.inf
    return distance


@_compiled
def _cast(
    origins: np.ndarray,
    directions: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    planes: np.ndarray,
    leaves: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (R,) and number (R,) of each ray's nearest face."""
    count, size = leaves.shape
    distances = np.full(len(origins), np.inf)
    faces = np.zeros(len(origins), np.int64)
    waiting = np.empty(64, np.int64)
    entered = np.empty(64)
    for ray in range(len(origins)):
        origin = (origins[ray, 0], origins[ray, 1], origins[ray, 2])
        direction = (directions[ray, 0], directions[ray, 1], directions[ray, 2])
        inverse = (1 / direction[0], 1 / direction[1], 1 / direction[2])
        nearest, face = np.inf, 0
        waiting[0], entered[0], top = 1, 0.0, 1
        while top:
            top -= 1
            node = waiting[top]
            if entered[top] >= nearest:
                continue
            if node >= count:
                leaf = node - count
                for i in range(size):
                    distance = _meets(planes, leaf * size + i, origin, direction)
                    lower = leaves[leaf, i] < face
                    if distance < nearest - TIE or (lower and distance < nearest + TIE):
                        nearest, face = distance, leaves[leaf, i]
                continue
            left, right = 2 * node, 2 * node + 1
            enters_left = _enters(low, high, left, origin, inverse, nearest)
            enters_right = _enters(low, high, right, origin, inverse, nearest)
            # The nearer one is put on top, where it is looked at first.
            if enters_left < enters_right:
                left, right = right, left
                enters_left, enters_right = enters_right, enters_left
            if enters_left < nearest:
                waiting[top], entered[top] = left, enters_left
                top += 1
            if enters_right < nearest:
                waiting[top], entered[top] = right, enters_right
                top += 1
        distances[ray], faces[ray] = nearest, face
    return distances, faces
