"""Voxelization layers with the signatures of mmcv's `Voxelization` and spconv's `PointToVoxel`."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..ops import voxelization
from ..ops.sizes import whole


class Voxelization(nn.Module):
    """`mmcv.ops.Voxelization`.

    Args:
        voxel_size (Sequence[float]): edges of a voxel in x, y, z.
        point_cloud_range (Sequence[float]): least x, y, z and greatest x, y, z.
        max_num_points (int): points of a voxel; -1 for dynamic voxelization.
        max_voxels (int or tuple[int, int]): voxels, in training and in testing; -1 for dynamic
            voxelization.
        deterministic (bool): not used, the result always is.
        layout (str, optional): 'XYZ' or 'ZYX', the order of the coordinates; with it the results are mx_driving's.

    Attributes:
        grid_size (Tensor): int64 [3], cells in x, y, z.
        pcd_shape (list): 1 and the cells in y and in x.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: Union[tuple, int] = 20000,
        deterministic: bool = True,
        layout: Optional[str] = None,
    ) -> None:
        super().__init__()
        if layout not in (None, 'XYZ', 'ZYX'):
            raise ValueError(f"layout must be 'XYZ' or 'ZYX', was {layout!r}")
        self.layout = layout
        self.voxel_size = voxel_size
        self.point_cloud_range = point_cloud_range
        self.max_num_points = max_num_points
        self.max_voxels = _pair(max_voxels)
        self.deterministic = deterministic
        limits, size = torch.tensor(point_cloud_range).float(), torch.tensor(voxel_size).float()
        self.grid_size = torch.round((limits[3:] - limits[:3]) / size).long()
        self.pcd_shape = [1, *self.grid_size[:2].flip(0)]

    def forward(self, input: Tensor) -> Any:
        """Voxelize points.

        Args:
            input (Tensor): [P, C].

        Returns:
            Tensor or tuple: what `voxelization` returns. With `layout` the coordinates have its order, and before
            the three results of hard voxelization comes the number of voxels (int).
        """
        found = voxelization(
            input,
            self.voxel_size,
            self.point_cloud_range,
            self.max_num_points,
            self.max_voxels[0 if self.training else 1],
            self.deterministic,
        )
        if self.layout is None:
            return found
        if isinstance(found, Tensor):
            return found.flip(1) if self.layout == 'XYZ' else found
        voxels, coors, num_points = found
        coors = coors.flip(1) if self.layout == 'XYZ' else coors
        return coors.shape[0], voxels, coors, num_points

    def extra_repr(self) -> str:
        """See nn.Module."""
        names = ['voxel_size', 'point_cloud_range', 'max_num_points', 'max_voxels', 'deterministic']
        names += ['layout'] * (self.layout is not None)
        return ', '.join(f'{name}={getattr(self, name)}' for name in names)


class PointToVoxel:
    """`spconv.pytorch.utils.PointToVoxel`, with no buffer the size of the grid.

    Args:
        vsize_xyz (Sequence[float]): edges of a voxel, 1 to 4 dimensions.
        coors_range_xyz (Sequence[float]): least and then greatest coordinates.
        num_point_features (int): columns of the points.
        max_num_voxels, max_num_points_per_voxel (int): what is beyond is dropped.
        device (str or torch.device): where the points are.

    Attributes:
        vsize, coors_range, grid_size (list): as in spconv, in the order z, y, x.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: Union[str, torch.device] = 'cpu:0',
    ) -> None:
        self.ndim = len(vsize_xyz)
        self.device = torch.device(device)
        self.num_point_features = num_point_features
        self.max_num_voxels = whole('max_num_voxels', max_num_voxels, 0)
        self.max_num_points_per_voxel = whole(
            'max_num_points_per_voxel', max_num_points_per_voxel, 1
        )
        self._vsize_xyz = [float(size) for size in vsize_xyz]
        self._coors_range_xyz = [float(limit) for limit in coors_range_xyz]
        limits = torch.tensor(self._coors_range_xyz).view(-1, self.ndim).flip(1)
        size = torch.tensor(self._vsize_xyz).flip(0)
        self.vsize, self.coors_range = size.tolist(), limits.flatten().tolist()
        self.grid_size = torch.round((limits[-1] - limits[0]) / size).long().tolist()

    def __call__(
        self,
        pc: Union[Tensor, np.ndarray],
        clear_voxels: bool = True,
        empty_mean: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Collect points by voxel.

        Args:
            pc (Tensor or np.ndarray): [P, num_point_features]; an array goes to `device`.
            clear_voxels (bool): not used: empty slots never hold points of an earlier call.
            empty_mean (bool): fill the empty slots of a voxel with the mean of its points.

        Returns:
            tuple[Tensor, Tensor, Tensor]: voxels float32 [M, max_num_points_per_voxel,
            num_point_features], indices int32 [M, ndim] (z, y, x) and points a voxel int32 [M].
        """
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    @torch.no_grad()
    def generate_voxel_with_id(
        self,
        pc: Union[Tensor, np.ndarray],
        clear_voxels: bool = True,
        empty_mean: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Collect points by voxel and tell each point its voxel.

        Args:
            pc, clear_voxels, empty_mean: see `__call__`.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor]: what `__call__` returns, and the voxel of each
            point, int64 [P], -1 where it has none.
        """
        if isinstance(pc, np.ndarray):
            pc = torch.from_numpy(np.ascontiguousarray(pc)).to(self.device)
        if pc.device.type != self.device.type:
            raise ValueError(f'pc must be on {self.device.type}, was on {pc.device.type}')
        if pc.dim() != 2 or pc.shape[1] != self.num_point_features:
            raise ValueError(
                f'pc must have shape [points, {self.num_point_features}], was {list(pc.shape)}'
            )
        indices, num_points, slots, voxel_id = torch.ops.mxd.voxelize_hard(
            pc,
            self._vsize_xyz,
            self._coors_range_xyz,
            self.max_num_points_per_voxel,
            self.max_num_voxels,
        )
        voxels = torch.ops.mxd.voxelize_gather(pc, slots, empty_mean)
        return voxels.float(), indices, num_points, voxel_id
