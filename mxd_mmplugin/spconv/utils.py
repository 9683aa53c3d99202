"""The names of `spconv.pytorch.utils` that this package has."""

from ..modules import PointToVoxel
from ..ops import gather_features_by_pc_voxel_id

__all__ = ['PointToVoxel', 'gather_features_by_pc_voxel_id']
