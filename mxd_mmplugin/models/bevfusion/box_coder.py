"""TransFusion's boxes as regression targets, and the heatmap of their centres."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmdet.models.task_modules import BaseBBoxCoder
from torch import Tensor


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
        return like.new_tensor(self.pc_range[:2]), self.out_size_factor * like.new_tensor(
            self.voxel_size[:2]
        )

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
        keep = torch.ones_like(scores, dtype=torch.bool)
        if filter:
            if self.post_center_range is not None:
                least, greatest = boxes.new_tensor(self.post_center_range).view(2, 3)
                places = boxes[..., :3]
                keep = ((places >= least) & (places <= greatest)).all(dim=2)
            if self.score_threshold:
                keep = keep & (scores > self.score_threshold)
        return [
            dict(bboxes=b[k], scores=s[k], labels=l[k])
            for b, s, l, k in zip(boxes, scores, labels, keep)
        ]


def gaussian_radii(sizes: Tensor, min_overlap: float) -> Tensor:
    """How far a box can be moved so that it overlaps with itself by `min_overlap` (Law and Deng 2018).

    Args:
        sizes (Tensor): [G, 2], length and width in cells.
        min_overlap (float): intersection over union, from 0 to 1.

    Returns:
        Tensor: [G], cells; the least of the three ways to move its two corners, by the formula of
        CornerNet's code, in which the roots are halved whatever the leading coefficient is.
    """
    total, area = sizes.sum(dim=1), sizes.prod(dim=1)
    quadratics = (
        (1, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * total, area * (1 - min_overlap)),
        (4 * min_overlap, -2 * min_overlap * total, area * (min_overlap - 1)),
    )
    roots = [(b + (b * b - 4 * a * c).sqrt()) / 2 for a, b, c in quadratics]
    return torch.stack(roots).amin(dim=0)


def draw_gaussians(
    channels: Tensor, centers: Tensor, radii: Tensor, shape: Sequence[int]
) -> Tensor:
    """Draw a bump for each box, the greater of overlapping ones.

    Args:
        channels (Tensor): int64 [G], which of the C maps a box is drawn in.
        centers (Tensor): int64 [G, 2], row and column; outside of the map is allowed.
        radii (Tensor): int64 [G], cells; the bump is a Gaussian of (2 * radius + 1) / 6 cells, cut
            off beyond the radius.
        shape (Sequence[int]): C, H, W.

    Returns:
        Tensor: float32 [C, H, W], 1 at the centres.
    """
    count, height, width = shape
    reach = int(radii.max()) if len(radii) else 0
    step = torch.arange(-reach, reach + 1, device=centers.device)
    sigma = (2 * radii + 1).float() / 6
    bump = torch.exp(-(step**2) / (2 * sigma[:, None] ** 2))  # [G, S], of one axis
    bump = bump * (step.abs() <= radii[:, None])
    rows, columns = (centers[:, i, None] + step for i in (0, 1))
    row_inside, column_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    cells = (channels[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    values = bump[:, :, None] * bump[:, None, :] * inside
    maps = bump.new_zeros(count * height * width)
    maps.scatter_reduce_(0, cells.where(inside, 0).flatten(), values.flatten(), 'amax')
    return maps.view(count, height, width)
