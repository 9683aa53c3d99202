"""mmdet3d's data preprocessor with the points of a batch voxelized together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet3d.models import data_preprocessors
from torch import Tensor

from ..constants import constant
from ..ops import dynamic_voxelize, hard_voxelize_batch


class Det3DDataPreprocessor(data_preprocessors.Det3DDataPreprocessor):
    """mmdet3d's `Det3DDataPreprocessor`: the same arguments and voxels.

    Hard and dynamic voxels are found for all samples at once, and memory grows with the points, not with the grid. The
    voxels of MinkUNet and SPVCNN, which mmdet3d finds on the host and copies to a GPU, are found on the points' device.
    """

    @torch.no_grad()
    def voxelize(self, points: Sequence[Tensor], data_samples: Any) -> dict:
        """Find the voxels of a batch.

        Args:
            points (Sequence[Tensor]): [P_i, C] a sample.
            data_samples: see mmdet3d.

        Returns:
            dict[str, Tensor]: voxels and coors (batch index, z, y, x); for hard voxels num_points and
            voxel_centers too. MinkUNet's coors are x, y, z with the batch index first or last, see
            `batch_first`.
        """
        if self.voxel_type == 'minkunet':
            return self._voxelize_minkunet(points, data_samples)
        if self.voxel_type not in ('hard', 'dynamic'):
            return super().voxelize(points, data_samples)
        layer = self.voxel_layer
        size, area = layer.voxel_size, layer.point_cloud_range
        if self.voxel_type == 'dynamic':
            rows = torch.cat(list(points))
            coors = dynamic_voxelize(rows, size, area)
            batch = [coors.new_full((len(x), 1), i) for i, x in enumerate(points)]
            return dict(voxels=rows, coors=torch.cat([torch.cat(batch), coors], dim=1))
        voxels, coors, num_points = hard_voxelize_batch(
            points, size, area, layer.max_num_points, layer.max_voxels[0 if layer.training else 1]
        )
        step, low = (constant(values[:3], voxels.device, voxels.dtype) for values in (size, area))
        centers = (coors[:, 1:].flip(1) + 0.5) * step + low
        return dict(voxels=voxels, coors=coors, num_points=num_points, voxel_centers=centers)

    def _voxelize_minkunet(self, points: Sequence[Tensor], data_samples: Any) -> dict:
        """The first point of each voxel stands for it; the samples note which voxel each point is in."""
        size = constant(self.voxel_layer.voxel_size, points[0].device, points[0].dtype)
        voxels, coors = [], []
        for index, (rows, sample) in enumerate(zip(points, data_samples)):
            cells = torch.round(rows[:, :3] / size).int()
            cells = cells - cells.amin(0)
            _, voxel_of_point, order, begins = torch.ops.mxd.dynamic_scatter_plan(cells)
            first = order[begins[:-1].long()].long()
            if self.training and self.max_voxels is not None and len(first) > self.max_voxels:
                # NumPy's random numbers, as in mmdet3d.
                chosen = np.random.choice(len(first), self.max_voxels, replace=False)
                first = first[torch.from_numpy(chosen).to(first.device)]
            labels = sample.gt_pts_seg
            if hasattr(labels, 'pts_semantic_mask'):
                labels.voxel_semantic_mask = labels.pts_semantic_mask[first]
            batch = (1, 0) if self.batch_first else (0, 1)
            coors.append(F.pad(cells[first], batch, value=index))
            voxels.append(rows[first])
            sample.batch_idx = coors[-1][:, 0 if self.batch_first else -1]
            sample.point2voxel_map = voxel_of_point.long()
        return dict(voxels=torch.cat(voxels), coors=torch.cat(coors))
