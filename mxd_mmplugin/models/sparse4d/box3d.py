"""What a box and a frame are to Sparse4D.

The state of a box, a row of 11: x, y, z of its middle, the logarithms of its sides along its own x, y and z, sine and
cosine of its yaw, and its velocity; metres and seconds in the LiDAR frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

CENTER, SIZE, YAW, VELOCITY = slice(0, 3), slice(3, 6), slice(6, 8), slice(8, None)


def parts(states: Tensor) -> Sequence[Tensor]:
    """The middles, sizes, yaws and velocities of states, [..., 3], [..., 3], [..., 2] and the rest.

    One gradient goes back for all of them: slices would each bring one of the whole state.
    """
    return states.split([3, 3, 2, states.shape[-1] - 8], -1)


def encode(boxes: Tensor) -> Tensor:
    """Boxes as states.

    Args:
        boxes (Tensor): [..., 7 or more], x, y, z of the middle, dx, dy, dz, yaw, velocity.

    Returns:
        Tensor: [..., one more].
    """
    yaw = boxes[..., 6:7]
    parts = boxes[..., :3], boxes[..., 3:6].log(), yaw.sin(), yaw.cos(), boxes[..., 7:]
    return torch.cat(parts, -1)


def decode(states: Tensor) -> Tensor:
    """The inverse of `encode`."""
    yaw = torch.atan2(states[..., 6:7], states[..., 7:8])
    return torch.cat([states[..., CENTER], states[..., SIZE].exp(), yaw, states[..., VELOCITY]], -1)


@dataclass
class Frame:
    """Where and when the images of a batch were taken.

    What is compared with other frames stays on the CPU in double precision: a time of 1.5e9 seconds and a place some
    kilometres away need more than float32 has, and nothing has to wait for the device.

    Attributes:
        projection_mat (Tensor): [B, N, 4, 4], LiDAR to x * depth, y * depth, depth of an image, pixels.
        image_wh (Tensor): [B, N, 2], width and height that the feature maps cover, in pixels of the images.
        timestamp (Tensor): [B], seconds, float64, CPU.
        lidar2global (Tensor): [B, 4, 4], float64, CPU.
        sequence (Sequence, optional): a name for each sample; what has another name is another sequence.
            Without it, sample i goes on where sample i was.
        focal (Tensor, optional): [B, N], focal lengths, pixels.
        valid (Tensor, optional): [B] bool, CPU: whether there is such a frame, for one of the past.
    """

    projection_mat: Tensor
    image_wh: Tensor
    timestamp: Tensor
    lidar2global: Tensor
    sequence: Optional[Sequence] = None
    focal: Optional[Tensor] = None
    valid: Optional[Tensor] = None

    def __len__(self) -> int:
        return len(self.timestamp)

    def interval(self, other: 'Frame') -> Tensor:
        """Seconds from `other` to this frame, [B], float32 on the device."""
        return (self.timestamp - other.timestamp).to(self.image_wh)

    def transform_to(self, other: 'Frame') -> Tensor:
        """From this LiDAR frame to that of `other`, [B, 4, 4], float32 on the device."""
        matrix = torch.linalg.inv(other.lidar2global) @ self.lidar2global
        return matrix.to(self.image_wh)

    def rows(self, index: Tensor) -> 'Frame':
        """The samples of an index on the CPU, int64 [n]."""
        on_device = index.to(self.image_wh.device)
        return Frame(
            self.projection_mat[on_device],
            self.image_wh[on_device],
            self.timestamp[index],
            self.lidar2global[index],
            None if self.sequence is None else [self.sequence[i] for i in index.tolist()],
            None if self.focal is None else self.focal[on_device],
            None if self.valid is None else self.valid[index],
        )


@dataclass
class Truth:
    """The annotated objects of a batch.

    Attributes:
        labels (list[Tensor]): int64 [n] for each sample.
        boxes (list[Tensor]): states [n, 10], with velocities in x and y.
        ids (list[Tensor], optional): int64 [n], which object it is from frame to frame.
    """

    labels: list
    boxes: list
    ids: Optional[list] = None
