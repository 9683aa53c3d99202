"""mmdet3d's data preprocessor with the points of a batch voxelized together."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.models import data_preprocessors
from torch import Tensor

from ..constants import constant
from ..ops import dynamic_voxelize, hard_voxelize_batch


class Det3DDataPreprocessor(data_preprocessors.Det3DDataPreprocessor):
    """mmdet3d's `Det3DDataPreprocessor`: the same arguments and voxels.

    Hard and dynamic voxels are found for all samples at once, and memory grows with the points, not with the grid.
    """

    @torch.no_grad()
    def voxelize(self, points: Sequence[Tensor], data_samples: Any) -> dict:
        """Find the voxels of a batch.

        Args:
            points (Sequence[Tensor]): [P_i, C] a sample.
            data_samples: see mmdet3d.

        Returns:
            dict[str, Tensor]: voxels and coors (batch index, z, y, x); for hard voxels num_points and
            voxel_centers too.
        """
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
