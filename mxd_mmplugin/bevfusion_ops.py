"""The names of `projects.BEVFusion.bevfusion.ops`, mmdetection3d's project, on this package's operators.

Where a GPU does not serve them, importing `mxd_mmplugin` puts this module in that place, so that the project runs
without compiling its CUDA extensions. Its grids are written x, y, z, those of `mxd_mmplugin.ops` z, y, x.
"""

import sys
from typing import Any, Union

from torch import Tensor

from . import modules, ops
from .modules import DynamicScatter
from .ops import bev_pool, dynamic_scatter

__all__ = ['DynamicScatter', 'Voxelization', 'bev_pool', 'dynamic_scatter', 'voxelization']

PROJECT = 'projects.BEVFusion.bevfusion'

# Coordinates alone (dynamic voxelization), or voxels, their coordinates and numbers of points.
Voxels = Union[Tensor, tuple[Tensor, Tensor, Tensor]]


def _xyz(result: Voxels) -> Voxels:
    """Turn the coordinates around."""
    if isinstance(result, Tensor):
        return result.flip(1)
    voxels, coors, num_points = result
    return voxels, coors.flip(1), num_points


def voxelization(points: Tensor, *args: Any, **kwargs: Any) -> Voxels:
    """`mxd_mmplugin.voxelization` with the coordinates of the voxels in the order x, y, z."""
    return _xyz(ops.voxelization(points, *args, **kwargs))


class Voxelization(modules.Voxelization):
    """`mxd_mmplugin.Voxelization` with the coordinates of the voxels in the order x, y, z.

    Attributes:
        pcd_shape (list): cells in x and in y, and 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pcd_shape = [*self.grid_size[:2], 1]

    def forward(self, input: Tensor) -> Voxels:
        """Voxelize points [P, C]; see `voxelization`, and `mxd_mmplugin.Voxelization` where a layout is given."""
        found = super().forward(input)
        return found if self.layout else _xyz(found)


def serve_project() -> bool:
    """Be what `from .ops import ...` finds in the project, unless its own ops are imported already.

    Returns:
        bool: whether this module is in their place.
    """
    this = sys.modules[__name__]
    return sys.modules.setdefault(f'{PROJECT}.ops', this) is this
