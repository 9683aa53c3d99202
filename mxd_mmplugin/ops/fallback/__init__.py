"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import bev_pool, dynamic_scatter, sparse_conv, voxelize

__all__ = ['bev_pool', 'dynamic_scatter', 'sparse_conv', 'voxelize']
