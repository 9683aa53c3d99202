"""The cameras: a rasteriser of the world's faces with a depth buffer, exact to the pixel.

Pixel (column i, row j) is the ray through u = i, v = j of the pinhole model. A face covers a
pixel when that ray meets it, and the nearest such face is what the pixel shows.
"""

from dataclasses import dataclass

import numpy as np

from .geometry import face_normals
from .sensors import IMAGE_HEIGHT, IMAGE_WIDTH, Camera
from .world import SCENERY, World

NEAR = 0.2  # metres, nothing nearer is drawn
FAR = 160.0  # metres to the nearest corner, nothing farther is drawn
SUN = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
SKY_TOP, SKY_HORIZON = np.array([96, 148, 208]), np.array([206, 220, 232])


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        face: (900, 1600) int32, the face at each pixel; the number of faces plus the row for sky.
        shown: (N,) int64, pixels that show each actor.
        covered: (N,) int64, pixels that would show each actor if nothing stood before it.
    """

    face: np.ndarray
    shown: np.ndarray
    covered: np.ndarray


class Renderer:
    """Images of one world."""

    def __init__(self, world: World):
        """Makes the buffers that all images share."""
        self.world = world
        shape = (IMAGE_HEIGHT, IMAGE_WIDTH)
        self._nearness = np.empty(shape, np.float32)
        self._stamp = np.empty(shape, np.int32)
        self._columns = np.arange(IMAGE_WIDTH, dtype=np.float32)
        self._rows = np.arange(IMAGE_HEIGHT, dtype=np.float32)

    def views(self, step: int) -> 'Views':
        """The world as the cameras see it at sweep `step`."""
        return Views(self, step)


class Views:
    """The world at one instant, for all cameras."""

    def __init__(self, renderer: Renderer, step: int):
        """Shades the faces, which all cameras share."""
        self._renderer = renderer
        self._step = step
        world = renderer.world
        self._vertices = world.vertices(step)
        normals = face_normals(self._vertices[world.mesh.faces])
        light = 0.62 + 0.38 * np.clip(normals @ SUN, -0.35, 1)
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
        """Draws the world as `camera` sees it."""
        renderer, world = self._renderer, self._renderer.world
        origin, rotation = world.sensor_pose(camera, self._step)
        points = (self._vertices - origin) @ rotation
        number, plane, edges = _project(points[world.mesh.faces], camera)

        face = np.empty((IMAGE_HEIGHT, IMAGE_WIDTH), np.int32)
        face[:] = len(world.mesh.faces) + np.arange(IMAGE_HEIGHT)[:, None]
        nearness, stamp = renderer._nearness, renderer._stamp
        nearness.fill(0)
        stamp.fill(SCENERY)
        covered = np.zeros(len(world.actors), np.int64)
        columns, rows = renderer._columns, renderer._rows
        spans = _spans(edges)
        for index, (top, bottom, first, last, left, right) in spans:
            a, b, c = plane[index]
            here = (slice(top, bottom), slice(first, last))
            u = columns[first:last]
            inside = (u >= left) & (u <= right)
            own = number[index]
            actor = world.owner[own]
            if actor != SCENERY:
                stamped = stamp[here]
                covered[actor] += np.count_nonzero(inside & (stamped != actor))
                stamped[inside] = actor
            # The inverse of a plane's depth is linear in the image.
            depth = (a * u) + (b * rows[top:bottom] + c)[:, None]
            buffer = nearness[here]
            inside &= depth > buffer
            np.copyto(buffer, depth, where=inside)
            np.copyto(face[here], own, where=inside)
        owners = np.append(world.owner, np.full(IMAGE_HEIGHT, SCENERY))
        shown = np.bincount(
            np.bincount(face.ravel(), minlength=len(owners)).nonzero()[0] * 0, minlength=1
        )
        counts = np.bincount(face.ravel(), minlength=len(owners))
        shown = np.bincount(owners + 1, weights=counts, minlength=len(world.actors) + 1)[1:]
        return View(face, shown.astype(np.int64), covered)


def _project(quads: np.ndarray, camera: Camera):
    """Projects the faces (F, 4, 3), in the camera frame, that face the camera.

    Returns:
        number: (K,) the index of each face drawn.
        plane: (K, 3) float32, a, b, c with 1 / depth = a u + b v + c on the face.
        polygons: list of K arrays (n, 2) of u, v.
    """
    depth = quads[:, :, 2]
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    offset = np.sum(normals * quads[:, 0], axis=1)
    drawn = (offset < -1e-9) & (depth.max(1) > NEAR) & (depth.min(1) < FAR)
    return drawn, normals, offset
