"""TransFusion's boxes as regression targets, and back."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmdet.models.task_modules import BaseBBoxCoder
from torch import Tensor

from ...constants import constant
from ...ops.sizes import takes_whole_numbers


class TransFusionBBoxCoder(BaseBBoxCoder):
    """Boxes <-> (x, y in cells of the map, z of the centre, log sizes, sine, cosine, velocity).

    Args:
        pc_range (Sequence[float]): x and y where the map begins, metres.
        out_size_factor (int): voxels to a cell of the map.
        voxel_size (Sequence[float]): edges of a voxel in x and y, metres.
        post_center_range (Sequence[float], optional): least and greatest x, y, z of a box that
            `decode` keeps when it filters.
        score_threshold (float, optional): the score above which it keeps a box; 0 or None for all.
        code_size (int): 8, or 10 with the velocity.
    """

    @takes_whole_numbers
    def __init__(
        self,
        pc_range: Sequence[float],
        out_size_factor: int,
        voxel_size: Sequence[float],
        post_center_range: Optional[Sequence[float]] = None,
        score_threshold: Optional[float] = None,
        code_size: int = 8,
    ) -> None:
        self.pc_range = pc_range
        self.out_size_factor = out_size_factor
        self.voxel_size = voxel_size
        self.post_center_range = post_center_range
        self.score_threshold = score_threshold
        self.code_size = code_size

    def _map(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where the map begins and the size of its cells, x and y, metres."""
        low, size = (
            constant(values[:2], like.device, like.dtype)
            for values in (self.pc_range, self.voxel_size)
        )
        return low, self.out_size_factor * size

    def encode(self, dst_boxes: Tensor) -> Tensor:
        """Boxes [G, 7 or 9] (x, y, z of the bottom, dx, dy, dz, yaw, velocity) -> [G, code_size]."""
        low, cell = self._map(dst_boxes)
        sizes, yaw = dst_boxes[:, 3:6], dst_boxes[:, 6:7]
        parts = [
            (dst_boxes[:, :2] - low) / cell,
            dst_boxes[:, 2:3] + sizes[:, 2:] / 2,
            sizes.log(),
            yaw.sin(),
            yaw.cos(),
        ]
        if self.code_size == 10:
            if dst_boxes.shape[1] < 9:
                raise ValueError(
                    f'code_size 10 needs boxes with velocity, these have {dst_boxes.shape[1]} numbers: '
                    'set with_velocity of the data set, or leave vel out of common_heads and set code_size to 8'
                )
            parts.append(dst_boxes[:, 7:9])
        return torch.cat(parts, dim=1)

    def decode(
        self,
        heatmap: Tensor,
        rot: Tensor,
        dim: Tensor,
        center: Tensor,
        height: Tensor,
        vel: Optional[Tensor],
        filter: bool = False,
    ) -> list:
        """Predictions -> boxes; the inputs are not changed.

        Args:
            heatmap (Tensor): scores [B, classes, P].
            rot (Tensor): sine and cosine [B, 2, P].
            dim (Tensor): log sizes [B, 3, P].
            center (Tensor): x and y in cells [B, 2, P].
            height (Tensor): z of the centre [B, 1, P], metres.
            vel (Tensor, optional): [B, 2, P].
            filter (bool): drop what is outside of post_center_range or not above score_threshold.

        Returns:
            list[dict]: for each sample `bboxes` [P, 7 or 9], `scores` and `labels` [P].
        """
        scores, labels = heatmap.max(dim=1)
        low, cell = self._map(center)
        sizes = dim.exp()
        parts = [
            center * cell[:, None] + low[:, None],
            height - sizes[:, 2:] / 2,
            sizes,
            torch.atan2(rot[:, :1], rot[:, 1:]),
        ]
        boxes = torch.cat(parts if vel is None else [*parts, vel], dim=1).transpose(1, 2)
        found = [dict(bboxes=b, scores=s, labels=l) for b, s, l in zip(boxes, scores, labels)]
        if not filter:
            return found
        keep = torch.ones_like(scores, dtype=torch.bool)
        if self.post_center_range is not None:
            least, greatest = constant(self.post_center_range, boxes.device, boxes.dtype).view(2, 3)
            places = boxes[..., :3]
            keep = ((places >= least) & (places <= greatest)).all(dim=2)
        if self.score_threshold:
            keep = keep & (scores > self.score_threshold)
        return [
            {name: values[k] for name, values in sample.items()} for sample, k in zip(found, keep)
        ]
