"""The layer of mmdet3d's dynamic voxel encoders."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..ops import dynamic_scatter


class DynamicScatter(nn.Module):
    """`mmcv.ops.DynamicScatter`.

    Args:
        voxel_size, point_cloud_range (Sequence[float]): kept for those who ask; not used.
        average_points (bool): the mean of a voxel's points instead of their maximum.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        average_points: bool,
    ) -> None:
        super().__init__()
        self.voxel_size = voxel_size
        self.point_cloud_range = point_cloud_range
        self.average_points = average_points

    def forward(self, points: Tensor, coors: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce points [N, C] by their voxels; coors [N, 3], or [N, 4] with the batch index first."""
        return dynamic_scatter(points, coors, 'mean' if self.average_points else 'max')

    def extra_repr(self) -> str:
        """See nn.Module."""
        names = 'voxel_size', 'point_cloud_range', 'average_points'
        return ', '.join(f'{name}={getattr(self, name)}' for name in names)
