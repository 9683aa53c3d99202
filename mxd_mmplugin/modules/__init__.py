"""Modules with the signatures and the state_dict of mmcv's and mx_driving's."""

from .sparse_conv import SparseConv2d, SparseConv3d, SubMConv2d, SubMConv3d

__all__ = ['SparseConv2d', 'SparseConv3d', 'SubMConv2d', 'SubMConv3d']
