"""Ground-truth sampling from the object database, for any numpy."""

import os.path as osp
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from mmdet3d.datasets.transforms import DataBaseSampler as _DataBaseSampler
from mmdet3d.structures import BasePoints


class DataBaseSampler(_DataBaseSampler):
    """mmdet3d's `DataBaseSampler` without `np.long`, which numpy 1.24 to 1.26 do not have.

    It makes the same random draws and gives the same samples as mmdet3d's.

    Raises:
        ValueError: a class of `sample_groups` or `filter_by_min_points` is not in the data base or not in `classes`.
    """

    def __init__(
        self,
        info_path: str,
        data_root: Optional[str],
        rate: float,
        prepare: dict,
        sample_groups: dict,
        classes: Optional[Sequence[str]] = None,
        **kwargs: Any,
    ) -> None:
        self.info_path = info_path
        for name in sample_groups:
            if classes is not None and name not in classes:
                raise ValueError(
                    f'sample_groups has {name!r}, which is none of classes, {[*classes]}'
                )
        arguments = info_path, data_root, rate, prepare, sample_groups, classes
        try:
            super().__init__(*arguments, **kwargs)
        except KeyError as error:
            (name,) = error.args
            if name in prepare.get('filter_by_min_points', {}):
                raise self._absent('filter_by_min_points', name) from None
            raise
        for name in self.sample_classes:
            if name not in self.sampler_dict:
                raise self._absent('sample_groups', name)

    def _absent(self, option: str, name: str) -> ValueError:
        known = [*self.db_infos] if hasattr(self, 'db_infos') else 'others'
        return ValueError(
            f'{option} has {name!r}, and the data base {self.info_path} has no object of it, only {known}: leave it out'
        )

    def sample_all(
        self,
        gt_bboxes: np.ndarray,
        gt_labels: np.ndarray,
        img: object = None,
        ground_plane: Optional[np.ndarray] = None,
    ) -> Optional[dict]:
        """Draw objects of every class to fill a scene up to the numbers in `sample_groups`.

        Args:
            gt_bboxes (np.ndarray): boxes of the scene, (N, 7 or 9): x, y, z, dx, dy, dz, yaw and
                velocity, in metres, radians and m/s. No drawn box overlaps them in the bird's eye.
            gt_labels (np.ndarray): their labels, (N,).
            img: not used; mmdet3d passes it.
            ground_plane (np.ndarray, optional): a, b, c, d of the plane ax + by + cz + d = 0 that
                the drawn objects are put down on.

        Returns:
            dict or None: for M objects `gt_labels_3d` (M,) int64, `gt_bboxes_3d` (M, 7 or 9),
            `points` (BasePoints of all of them) and `group_ids` (M,); None when none was drawn.
        """
        sampled = []
        occupied = gt_bboxes
        for name, wanted in zip(self.sample_classes, self.sample_max_nums):
            missing = int(wanted) - np.count_nonzero(gt_labels == self.cat2label[name])
            number = int(np.round(self.rate * missing))
            if number > 0:
                drawn = self.sample_class_v2(name, number, occupied)
                sampled += drawn
                occupied = np.concatenate([occupied, *(x['box3d_lidar'][None] for x in drawn)])
        if not sampled:
            return None

        boxes = np.stack([x['box3d_lidar'] for x in sampled])
        points = [self._load_points(x) for x in sampled]
        if ground_plane is not None:
            heights = (boxes[:, :3] * ground_plane[:3]).sum(-1) + ground_plane[3]
            boxes[:, 2] -= heights
            for cloud, height in zip(points, heights):
                cloud.tensor[:, 2] -= height
        return dict(
            gt_labels_3d=np.array([self.cat2label[x['name']] for x in sampled], dtype=np.int64),
            gt_bboxes_3d=boxes,
            points=points[0].cat(points),
            group_ids=np.arange(len(gt_bboxes), len(gt_bboxes) + len(sampled)),
        )

    def _load_points(self, info: dict) -> BasePoints:
        """Read one object's points and move them from its centre to where the box stands."""
        path = osp.join(self.data_root or '', info['path'])
        points = self.points_loader(dict(lidar_points=dict(lidar_path=path)))['points']
        points.translate(info['box3d_lidar'][:3])
        return points
