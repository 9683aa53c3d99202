"""The sensors of the vehicle: the calibration of a nuScenes car, rounded.

The ego frame has its origin under the middle of the rear axle, x forward, y left, z up. A camera
frame has z along the view, x right, y down; the LiDAR frame x right, y forward, z up. All
cameras expose at the time of the LiDAR sweep that they belong to.
"""

from dataclasses import dataclass

import numpy as np

from .geometry import rotation_matrix

EGO_SIZE = (4.08, 1.73)  # length, width of the ego vehicle in metres
EGO_CENTRE = 1.25  # metres from the ego frame's origin forward to the vehicle's middle
IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900
SWEEP_SECONDS = 0.05
SWEEPS_PER_KEY_FRAME = 10


@dataclass(frozen=True)
class Sensor:
    """One sensor: `rotation` (w, x, y, z) and `translation` (metres) take its frame to the ego's."""

    channel: str
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def rotation(self) -> np.ndarray:
        """The rotation matrix (3, 3)."""
        return rotation_matrix(self.quaternion)

    @property
    def modality(self) -> str:
        """The kind of sensor, as nuScenes names it."""
        return 'lidar'

    @property
    def intrinsic(self) -> list:
        """The intrinsic matrix as nested lists; empty for a LiDAR."""
        return []


@dataclass(frozen=True)
class Camera(Sensor):
    """A pinhole camera: `focal` length and `centre` of the image, in pixels."""

    focal: float
    centre: tuple[float, float]

    @property
    def modality(self) -> str:
        """The kind of sensor, as nuScenes names it."""
        return 'camera'

    @property
    def intrinsic(self) -> list:
        """The intrinsic matrix as nested lists."""
        return [
            [self.focal, 0.0, self.centre[0]],
            [0.0, self.focal, self.centre[1]],
            [0.0, 0.0, 1.0],
        ]


LIDAR = Sensor('LIDAR_TOP', (0.94, 0.0, 1.84), (0.7078, -0.0065, 0.0106, -0.7063))
CAMERAS = (
    Camera(
        'CAM_FRONT', (1.70, 0.02, 1.51), (0.4998, -0.5030, 0.4998, -0.4974), 1266.4, (816.3, 491.5)
    ),
    Camera(
        'CAM_FRONT_RIGHT',
        (1.55, -0.49, 1.50),
        (0.2060, -0.2027, 0.6825, -0.6714),
        1260.8,
        (808.0, 495.3),
    ),
    Camera(
        'CAM_BACK_RIGHT',
        (1.01, -0.48, 1.56),
        (0.1228, -0.1324, -0.7004, 0.6905),
        1259.5,
        (807.3, 501.2),
    ),
    Camera(
        'CAM_BACK', (0.03, 0.00, 1.58), (0.5038, -0.4974, -0.4942, 0.5045), 809.2, (829.2, 481.8)
    ),
    Camera(
        'CAM_BACK_LEFT',
        (1.04, 0.48, 1.59),
        (0.6924, -0.7032, -0.1165, 0.1120),
        1256.7,
        (792.1, 492.8),
    ),
    Camera(
        'CAM_FRONT_LEFT',
        (1.52, 0.49, 1.51),
        (0.6757, -0.6736, 0.2121, -0.2112),
        1272.6,
        (826.6, 479.8),
    ),
)
