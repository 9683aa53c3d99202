"""CenterPoint's head with no loop over boxes and no wait for the device (Yin et al. 2021, arXiv 2006.11275)."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmdet3d.models.dense_heads import centerpoint_head
from mmdet3d.models.task_modules.coders import CenterPointBBoxCoder
from mmdet3d.models.utils import clip_sigmoid
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor

from ...constants import constant
from ...ops import grouped_nms
from ...ops.sizes import wholes
from .targets import Targets, make_targets


class CenterHead(centerpoint_head.CenterHead):
    """mmdet3d's `CenterHead`: the same arguments, weights, targets, losses and boxes, bit for bit on a CPU.

    Targets are made for all boxes of a batch at once. The losses wait for nothing. In a prediction overlapping boxes
    are dropped on the device, for all samples and tasks together; it waits once for a batch, for how many are left.
    In mmdet3d the number of operators and of waits grows with the boxes, the samples and the tasks.

    Velocities are left out of the targets where common_heads has no 'vel'; mmdet3d then ends with an error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.with_velocity = 'vel' in kwargs.get('common_heads', {'vel'})
        if self.train_cfg:
            self._check_options(kwargs.get('common_heads'))

    def _check_options(self, common_heads: Optional[dict]) -> None:
        """Refuse code_weights of another number than a box has, and grids that differ."""
        weights = self.train_cfg.get('code_weights')
        if common_heads and weights is not None:
            numbers = sum(channels for channels, _ in common_heads.values())
            if len(weights) != numbers:
                raise ValueError(
                    f'code_weights of train_cfg must have {numbers} numbers, those of common_heads '
                    f'{dict(common_heads)}, was {[*weights]}'
                )
        coder = self.bbox_coder
        if isinstance(coder, CenterPointBBoxCoder):
            expected = dict(
                point_cloud_range=[*coder.pc_range[:2]],
                voxel_size=[*coder.voxel_size[:2]],
                out_size_factor=[coder.out_size_factor],
            )
            for name, mine in expected.items():
                value = self.train_cfg.get(name, mine)
                begin = [*value[:2]] if hasattr(value, '__len__') else [value]
                if begin != mine:
                    raise ValueError(
                        f'{name} of train_cfg must begin as that of bbox_coder, {mine}, was {value}'
                    )
        grid, area, size = (
            self.train_cfg.get(key) for key in ('grid_size', 'point_cloud_range', 'voxel_size')
        )
        if grid is None or area is None or size is None:
            return
        cells = [round((area[axis + 3] - area[axis]) / size[axis]) for axis in (0, 1)]
        if [*wholes('grid_size', grid, 1)[:2]] != cells:
            raise ValueError(
                f'grid_size of train_cfg must begin as {cells}, the cells of {[*area]} (point_cloud_range) in steps '
                f'of {[*size]} (voxel_size), was {[*grid]}'
            )

    @torch.no_grad()
    def _make_targets(self, batch_gt_instances_3d: Sequence[InstanceData]) -> Targets:
        return make_targets(
            batch_gt_instances_3d,
            self.num_classes,
            self.train_cfg,
            self.norm_bbox,
            self.with_velocity,
        )

    def get_targets(self, batch_gt_instances_3d: Sequence[InstanceData]) -> tuple:
        """What should be predicted.

        Args:
            batch_gt_instances_3d (Sequence[InstanceData]): bboxes_3d and labels_3d of each sample.

        Returns:
            tuple[list[Tensor], ...]: for each task the heatmaps [B, classes, H, W], boxes
            [B, max_objs, 10], cells int64 [B, max_objs] and masks uint8 [B, max_objs].
        """
        targets = self._make_targets(batch_gt_instances_3d)
        rest = (list(x.unbind(0)) for x in (targets.boxes, targets.cells, targets.masks))
        return (targets.heatmaps, *rest)

    def loss_by_feat(
        self,
        preds_dicts: tuple,
        batch_gt_instances_3d: Sequence[InstanceData],
        *args: Any,
        **kwargs: Any,
    ) -> dict:
        """Losses of what `forward` returned.

        Args:
            preds_dicts (tuple[list[dict]]): the maps of each task; those of the heatmap become scores.
            batch_gt_instances_3d (Sequence[InstanceData]): see `get_targets`.

        Returns:
            dict[str, Tensor]: taskN.loss_heatmap and taskN.loss_bbox.
        """
        targets = self._make_targets(batch_gt_instances_3d)
        masks = targets.masks.float()
        counts = masks.sum((1, 2)) + 1e-4
        weights = masks[..., None] * (~targets.boxes.isnan()).float()
        code_weights = self.train_cfg.get('code_weights', None)
        if code_weights is not None:
            weights = weights * constant(code_weights, weights.device)
        losses = {}
        for task, (maps,) in enumerate(preds_dicts):
            heatmaps = targets.heatmaps[task]
            if maps['heatmap'].shape[2:] != heatmaps.shape[2:]:
                raise ValueError(
                    'grid_size of train_cfg over out_size_factor must be the map, '
                    f'{[*maps["heatmap"].shape[:1:-1]]}, was {[*heatmaps.shape[:1:-1]]}'
                )
            maps['heatmap'] = clip_sigmoid(maps['heatmap'])
            peaks = heatmaps.eq(1).float().sum().clamp(min=1)
            losses[f'task{task}.loss_heatmap'] = self.loss_cls(
                maps['heatmap'], heatmaps, avg_factor=peaks
            )
            maps['anno_box'] = codes = _codes(maps)
            losses[f'task{task}.loss_bbox'] = self.loss_bbox(
                _at(codes, targets.cells[task]),
                targets.boxes[task],
                weights[task],
                avg_factor=counts[task],
            )
        return losses

    def predict_by_feat(
        self, preds_dicts: tuple, batch_input_metas: Sequence[dict], *args: Any, **kwargs: Any
    ) -> list:
        """Boxes of what `forward` returned.

        Args:
            preds_dicts (tuple[list[dict]]): the maps of each task.
            batch_input_metas (list[dict]): `box_type_3d` of each sample.

        Returns:
            list[InstanceData]: bboxes_3d, scores_3d and labels_3d of each sample.
        """
        if not self._covers(batch_input_metas):
            return super().predict_by_feat(preds_dicts, batch_input_metas, *args, **kwargs)
        # [tasks, B, K, columns]; columns are those of a box's code, the score, the label and whether it counts.
        candidates = torch.stack([self._candidates(maps) for (maps,) in preds_dicts]).detach()
        keep, count = self._choose(candidates[..., :-1], candidates[..., -1] > 0)
        # The best first, to the bottom of the boxes, with labels that count through the tasks.
        rows = candidates.gather(2, keep[..., None].expand(*keep.shape, candidates.shape[3]))
        height = rows[..., 2:3] - rows[..., 5:6] * 0.5
        boxes = torch.cat([rows[..., :2], height, rows[..., 3:-3]], dim=3)
        firsts = [sum(self.num_classes[:task]) for task in range(len(rows))]
        labels = (rows[..., -2] + constant(firsts, rows.device)[:, None, None]).int()
        columns = boxes, rows[..., -3], labels
        found = []
        for sample, sizes in enumerate(count.t().tolist()):  # the wait
            box, score, label = (
                torch.cat([of_task[:size] for of_task, size in zip(column[:, sample], sizes)])
                for column in columns
            )
            box = LiDARInstance3DBoxes(box, self.bbox_coder.code_size)
            found.append(InstanceData(bboxes_3d=box, scores_3d=score, labels_3d=label))
        return found

    def _covers(self, metas: Sequence[dict]) -> bool:
        """Whether a prediction is one that is made here: else it is mmdet3d's."""
        coder = self.bbox_coder
        if type(coder) is not CenterPointBBoxCoder or coder.post_center_range is None:
            return False
        if any(meta['box_type_3d'] is not LiDARInstance3DBoxes for meta in metas):
            return False
        if self.test_cfg['nms_type'] == 'circle' or not self.test_cfg['post_center_limit_range']:
            return True
        # Boxes outside of the coder's range are gone already.
        limit, area = self.test_cfg['post_center_limit_range'], coder.post_center_range
        lower = all(a <= b for a, b in zip(limit[:3], area[:3]))
        return lower and all(a >= b for a, b in zip(limit[3:], area[3:]))

    def _choose(self, candidates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates that stay: their places [tasks, B, K], the best first, and how many, [tasks, B].

        Args:
            candidates (Tensor): [tasks, B, K, columns], the best first, with the score before the last column.
            counts (Tensor): bool [tasks, B, K].
        """
        config = self.test_cfg
        if config['nms_type'] == 'circle':
            centers = candidates[..., :2]
            chosen = [
                grouped_nms(centers[task], counts[task], radius)
                for task, radius in zip(range(len(candidates)), config['min_radius'])
            ]
            keep, count = (torch.stack(column) for column in zip(*chosen))
        else:
            if config['score_threshold'] > 0:
                counts = counts & (candidates[..., -2] >= config['score_threshold'])
            if config['pre_max_size'] is not None and config['pre_max_size'] < counts.shape[2]:
                counts = counts & (counts.float().cumsum(2) <= config['pre_max_size'])
            boxes = _from_above(candidates).flatten(0, 1)
            keep, count = grouped_nms(boxes, counts.flatten(0, 1), config['nms_thr'])
            keep, count = keep.view(counts.shape), count.view(counts.shape[:2])
        return keep[..., : config['post_max_size']], count

    def _candidates(self, maps: dict) -> Tensor:
        """The best cells of a task, [B, K, columns]: box, score, label, and 1 where the coder keeps it."""
        coder = self.bbox_coder
        scores, cells, labels, y, x = coder._topk(maps['heatmap'].sigmoid(), K=coder.max_num)
        codes = _at(_codes(maps), cells)
        offset, height, dims, rot, velocity = codes.split([2, 1, 3, 2, codes.shape[2] - 8], dim=2)
        dims = dims.exp() if self.norm_bbox else dims
        places = [
            (place[..., None] + offset[..., i : i + 1])
            * coder.out_size_factor
            * coder.voxel_size[i]
            + coder.pc_range[i]
            for i, place in enumerate((x, y))
        ]
        sine, cosine = rot.unbind(2)
        yaw = torch.atan2(sine.contiguous(), cosine.contiguous())[..., None]
        boxes = torch.cat([*places, height, dims, yaw, velocity], dim=2)
        area = constant([float(x) for x in coder.post_center_range], boxes.device).view(2, 3)
        keep = ((boxes[..., :3] >= area[0]) & (boxes[..., :3] <= area[1])).all(2)
        if coder.score_threshold:
            keep = keep & (scores > coder.score_threshold)
        rest = (scores, labels.float(), keep.float())
        return torch.cat([boxes, *(column[..., None] for column in rest)], dim=2)


def _from_above(boxes: Tensor) -> Tensor:
    """Rectangles [..., 5] of LiDAR boxes, x, y, sizes and yaw, rounded as mmdet3d's, which go by their corners."""
    low, high = boxes[..., :2] - boxes[..., 3:5] / 2, boxes[..., :2] + boxes[..., 3:5] / 2
    return torch.cat([(low + high) / 2, high - low, boxes[..., 6:7]], dim=-1)


def _codes(maps: dict) -> Tensor:
    """The maps of a box's parts as one, [B, 8 or 10, H, W]."""
    names = ('reg', 'height', 'dim', 'rot', *(['vel'] if 'vel' in maps else []))
    return torch.cat([maps[name] for name in names], dim=1)


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """What maps [B, C, H, W] have in cells, int64 [B, M]: [B, M, C]."""
    index = cells[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2).contiguous()
