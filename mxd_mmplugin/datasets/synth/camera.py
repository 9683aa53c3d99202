"""The cameras: a rasteriser of the world's faces with a depth buffer, exact to the pixel.

Pixel (column i, row j) is the ray through u = i, v = j of the pinhole model. A face covers a
pixel when that ray meets it, and the nearest such face is what the pixel shows.
"""

from dataclasses import dataclass

import numpy as np

from .geometry import face_normals, rotate
from .sensors import IMAGE_HEIGHT, IMAGE_WIDTH, Camera
from .world import SCENERY, World

NEAR = 0.2  # metres, nothing nearer is drawn
FAR = 160.0  # metres to a face's nearest corner, nothing farther is drawn
LARGE = 2500  # pixels; larger faces are filled one by one, the nearest first
STRIP = 48  # rows filled at a time
SUN = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
SKY_TOP, SKY_HORIZON = np.array([96, 148, 208]), np.array([206, 220, 232])


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        face: (900, 1600) int32, the face at each pixel; for sky, the number of faces plus the row.
        shown: (N,) int64, the pixels that show each actor.
        covered: (N,) int64, the pixels that would show each actor if nothing stood before it.
    """

    face: np.ndarray
    shown: np.ndarray
    covered: np.ndarray


class Frame:
    """The world at one instant, ready to be drawn for each camera."""

    def __init__(self, world: World, step: int) -> None:
        """Places and shades the faces at sweep `step`."""
        self.world = world
        self.step = step
        self._owner = np.append(world.owner, np.full(IMAGE_HEIGHT, SCENERY))
        self._quads = world.vertices(step)[world.mesh.faces]
        self._normals = normals = face_normals(self._quads)
        light = 0.62 + 0.38 * np.clip((normals * SUN).sum(1), -0.35, 1)
        faces = np.clip(world.mesh.rgb * light[:, None], 0, 255)
        height = np.linspace(0, 1, IMAGE_HEIGHT)[:, None]
        sky = SKY_TOP + (SKY_HORIZON - SKY_TOP) * np.clip(height * 1.9, 0, 1)
        palette = np.concatenate([faces, sky]).round().astype(np.uint32)
        # One number a colour is looked up faster than three.
        self._palette = palette[:, 2] | palette[:, 1] << 8 | palette[:, 0] << 16

    def image(self, view: View) -> np.ndarray:
        """The image (900, 1600, 3) uint8 of `view`, blue first, as OpenCV has it."""
        pixels = np.take(self._palette, view.face).view(np.uint8)
        return pixels.reshape(IMAGE_HEIGHT, IMAGE_WIDTH, 4)[:, :, :3]

    def draw(self, camera: Camera) -> View:
        """Draws what `camera` sees."""
        world = self.world
        origin, rotation = world.sensor_pose(camera, self.step)
        numbers = np.flatnonzero(((self._quads[:, 0] - origin) * self._normals).sum(1) < -1e-6)
        quads = rotate(self._quads[numbers] - origin, rotation.T)
        seen, planes, polygons = _project(quads, camera)
        numbers, quads = numbers[seen], quads[seen]
        rows = _scan(polygons)
        nearness = np.zeros((IMAGE_HEIGHT, IMAGE_WIDTH), np.float32)
        face = np.empty((IMAGE_HEIGHT, IMAGE_WIDTH), np.int32)
        face[:] = len(world.owner) + np.arange(IMAGE_HEIGHT)[:, None]
        large = np.bincount(rows.polygon, rows.count, len(numbers)) > LARGE
        nearest_first = np.argsort(quads[:, :, 2].min(1), kind='stable')
        for index in nearest_first[large[nearest_first]]:
            _fill_large(face, nearness, rows.of(index), planes[index], numbers[index])
        small = rows.where(~large[rows.polygon])
        _fill_small(face.ravel(), nearness.ravel(), small, planes, numbers)
        pixels = np.bincount(face.ravel(), minlength=len(self._owner))
        shown = np.bincount(self._owner + 1, weights=pixels, minlength=len(world.actors) + 1)
        covered = _covered(rows, world.owner[numbers][rows.polygon], len(world.actors))
        return View(face, shown[1:].astype(np.int64), covered)


@dataclass(frozen=True)
class _Rows:
    """The pixels of polygons, one image row of one polygon after the other.

    Attributes:
        polygon: (R,) int64, ascending.
        row: (R,) int64, and ascending within a polygon.
        first: (R,) int64, the first column.
        count: (R,) int64, the number of columns; may be 0.
        starts: (K + 1,) int64, where the rows of each polygon start.
    """

    polygon: np.ndarray
    row: np.ndarray
    first: np.ndarray
    count: np.ndarray
    starts: np.ndarray

    def of(self, polygon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, first column and count of one polygon's rows."""
        rows = slice(self.starts[polygon], self.starts[polygon + 1])
        return self.row[rows], self.first[rows], self.count[rows]

    def where(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Polygon, row, first column and count of the rows where `kept` (R,) is true."""
        return self.polygon[kept], self.row[kept], self.first[kept], self.count[kept]


def _fill_large(
    face: np.ndarray,
    nearness: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    plane: np.ndarray,
    number: int,
) -> None:
    """Fills one polygon strip by strip; a strip that is hidden as a whole costs one look."""
    row, first, count = rows
    a, b, c = plane
    along_rows = (b * row + c).astype(np.float32)
    strips = np.arange(0, len(row), STRIP)
    lows = np.minimum.reduceat(np.where(count > 0, first, IMAGE_WIDTH), strips)
    highs = np.maximum.reduceat(np.where(count > 0, first + count, 0), strips)
    for start, low, high in zip(strips, lows, highs):
        if low >= high:
            continue
        strip = slice(start, start + STRIP)
        along_row = along_rows[strip, None]
        along_column = (a * np.arange(low, high)).astype(np.float32)
        top = row[start]
        here = (slice(top, top + len(along_row)), slice(low, high))
        buffer = nearness[here]
        # The inverse of a plane's depth is linear in the image, so a corner is the nearest.
        nearest = max(along_row[0, 0], along_row[-1, 0]) + max(along_column[0], along_column[-1])
        if nearest <= buffer.min():
            continue
        column = np.arange(low, high, dtype=np.int16)
        left = first[strip, None].astype(np.int16)
        inside = column >= left
        inside &= column < left + count[strip, None].astype(np.int16)
        inverse_depth = along_row + along_column
        inside &= inverse_depth > buffer
        np.copyto(buffer, inverse_depth, where=inside)
        np.copyto(face[here], number, where=inside)


def _fill_small(
    face: np.ndarray,
    nearness: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    planes: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Fills all polygons of `rows` at once; `face` and `nearness` are flat."""
    polygon, row, first, count = rows
    a, b, c = planes[polygon].T
    # A row's first pixel is exact; on along the row, single precision is enough.
    at_first = (a * first + b * row + c).astype(np.float32)
    run = np.repeat(np.arange(len(row)), count)
    column = np.arange(len(run)) - (np.cumsum(count) - count)[run]
    pixels = (row * IMAGE_WIDTH + first)[run] + column
    inverse_depth = at_first[run] + a.astype(np.float32)[run] * column.astype(np.float32)
    ahead = np.flatnonzero(inverse_depth > nearness[pixels])
    pixels, inverse_depth = pixels[ahead], inverse_depth[ahead]
    np.maximum.at(nearness, pixels, inverse_depth)
    nearest = np.flatnonzero(inverse_depth == nearness[pixels])
    face[pixels[nearest]] = numbers[polygon[run[ahead[nearest]]]]


def _covered(rows: _Rows, owner: np.ndarray, actors: int) -> np.ndarray:
    """The pixels (actors,) within the outline of each actor; `owner` (R,) is that of each row.

    In each image row, an actor's outline is the union of the runs of pixels of its faces.
    """
    own = np.flatnonzero((owner != SCENERY) & (rows.count > 0))
    line = (owner[own] * IMAGE_HEIGHT + rows.row[own]) * (2 * IMAGE_WIDTH)
    start = line + rows.first[own]
    order = np.argsort(start, kind='stable')
    start, end = start[order], (start + rows.count[own])[order]
    done = np.concatenate([[0], np.maximum.accumulate(end)[:-1]])[: len(end)]
    fresh = np.maximum(end - np.maximum(start, done), 0)
    return np.bincount(owner[own][order], fresh, actors).astype(np.int64)


def _project(quads: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projects faces (F, 4, 3), given in the camera frame.

    Returns:
        seen: (K,) int64, the faces that may be in the image.
        planes: (K, 3) float64, a, b, c with 1 / depth = a u + b v + c on each.
        polygons: (K, 5, 2) float64, u, v of the corners; the last is repeated as needed.
    """
    depth = quads[:, :, 2]
    near_enough = np.flatnonzero((depth.max(1) > NEAR) & (depth.min(1) < FAR))
    quads = quads[near_enough]
    corners = quads[:, [0, 1, 2, 3, 3]]
    for index in np.flatnonzero(quads[:, :, 2].min(1) < NEAR):
        corners[index] = _clip_near(quads[index])
    (cu, cv), focal = camera.centre, camera.focal
    polygons = corners[:, :, :2] / corners[:, :, 2:] * focal + (cu, cv)
    low, high = np.ceil(polygons.min(1)), np.floor(polygons.max(1))
    seen = np.all((low <= high) & (high >= 0) & (low < (IMAGE_WIDTH, IMAGE_HEIGHT)), axis=1)

    quads = quads[seen]
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    slope = normals / (normals * quads[:, 0]).sum(1, keepdims=True)
    planes = np.column_stack(
        [
            slope[:, 0] / focal,
            slope[:, 1] / focal,
            slope[:, 2] - (slope[:, 0] * cu + slope[:, 1] * cv) / focal,
        ]
    )
    return near_enough[seen], planes, polygons[seen]


def _clip_near(corners: np.ndarray) -> np.ndarray:
    """The part (5, 3) of a face (4, 3) beyond the near plane, its last corner repeated."""
    kept = []
    for here, after in zip(corners, np.roll(corners, -1, axis=0)):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            kept.append(here + (after - here) * (NEAR - here[2]) / (after[2] - here[2]))
    kept += kept[-1:] * (5 - len(kept))
    return np.array(kept)


def _scan(polygons: np.ndarray) -> _Rows:
    """Finds the pixels of convex polygons (K, 5, 2) of u, v."""
    u, v = polygons[..., 0], polygons[..., 1]
    top = np.maximum(np.ceil(v.min(1)), 0).astype(np.int64)
    bottom = np.minimum(np.floor(v.max(1)), IMAGE_HEIGHT - 1).astype(np.int64)
    height = bottom - top + 1
    starts = np.concatenate([[0], np.cumsum(height)])
    polygon = np.repeat(np.arange(len(polygons)), height)
    row = np.arange(len(polygon)) + (top - starts[:-1])[polygon]
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for i in range(5):
        j = (i + 1) % 5
        rise = v[:, j] - v[:, i]
        slope = np.divide(u[:, j] - u[:, i], rise, out=np.zeros_like(rise), where=rise != 0)
        low, high = np.minimum(v[:, i], v[:, j]), np.maximum(v[:, i], v[:, j])
        low[rise == 0] = np.inf
        crossing = slope[polygon] * row + (u[:, i] - slope * v[:, i])[polygon]
        crosses = (row >= low[polygon]) & (row <= high[polygon])
        np.minimum(left, crossing, out=left, where=crosses)
        np.maximum(right, crossing, out=right, where=crosses)
    first = np.ceil(np.clip(left, 0, IMAGE_WIDTH)).astype(np.int64)
    last = np.floor(np.clip(right, -1, IMAGE_WIDTH - 1)).astype(np.int64)
    return _Rows(polygon, row, first, np.maximum(last - first + 1, 0), starts)
