"""Voxelization layers with the signatures of mmcv's `Voxelization` and spconv's `PointToVoxel`."""

from collections.abc import Sequence
from typing import Union

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..ops import voxelization


class Voxelization(nn.Module):
    """`mmcv.ops.Voxelization`.

    Args:
        voxel_size (Sequence[float]): edges of a voxel in x, y, z.
        point_cloud_range (Sequence[float]): least x, y, z and greatest x, y, z.
        max_num_points (int): points of a voxel; -1 for dynamic voxelization.
        max_voxels (int or tuple[int, int]): voxels, in training and in testing; -1 for dynamic
            voxelization.
        deterministic (bool): not used, the result always is.

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
    ) -> None:
        super().__init__()
        self.voxel_size = voxel_size
        self.point_cloud_range = point_cloud_range
        self.max_num_points = max_num_points
        self.max_voxels = _pair(max_voxels)
        self.deterministic = deterministic
        limits, size = torch.tensor(point_cloud_range).float(), torch.tensor(voxel_size).float()
        self.grid_size = torch.round((limits[3:] - limits[:3]) / size).long()
        self.pcd_shape = [1, *self.grid_size[:2].flip(0)]

    def forward(self, input: Tensor) -> Union[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Voxelize points [P, C]; see `voxelization`."""
        return voxelization(
            input,
            self.voxel_size,
            self.point_cloud_range,
            self.max_num_points,
            self.max_voxels[0 if self.training else 1],
            self.deterministic,
        )

    def extra_repr(self) -> str:
        """See nn.Module."""
        names = (
            'voxel_size',
            'point_cloud_range',
            'max_num_points',
            'max_voxels',
            'deterministic',
        )
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
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel
        self._vsize_xyz = [float(size) for size in vsize_xyz]
        self._coors_range_xyz = [float(limit) for limit in coors_range_xyz]
        limits = torch.tensor(self._coors_range_xyz).view(-1, self.ndim).flip(1)
        size = torch.tensor(self._vsize_xyz).flip(0)
        self.vsize, self.coors_range = size.tolist(), limits.flatten().tolist()
        self.grid_size = torch.round((limits[-1] - limits[0]) / size).int().tolist()

    def __call__(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Collect points by voxel.

        Args:
            pc (Tensor): [P, num_point_features].
            clear_voxels (bool): not used: empty slots never hold points of an earlier call.
            empty_mean (bool): fill the empty slots of a voxel with the mean of its points.

        Returns:
            tuple[Tensor, Tensor, Tensor]: voxels float32 [M, max_num_points_per_voxel,
            num_point_features], indices int32 [M, ndim] (z, y, x) and points a voxel int32 [M].
        """
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    @torch.no_grad()
    def generate_voxel_with_id(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Collect points by voxel and tell each point its voxel.

        Args:
            pc, clear_voxels, empty_mean: see `__call__`.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor]: what `__call__` returns, and the voxel of each
            point, int64 [P], -1 where it has none.
        """
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
