"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import (
    bev_pool,
    deformable_aggregation,
    dynamic_scatter,
    modulated_deform_conv,
    sparse_add,
    sparse_conv,
    sparse_dense,
    sparse_pool,
    voxelize,
)

__all__ = [
    'bev_pool',
    'deformable_aggregation',
    'dynamic_scatter',
    'modulated_deform_conv',
    'sparse_add',
    'sparse_conv',
    'sparse_dense',
    'sparse_pool',
    'voxelize',
]
