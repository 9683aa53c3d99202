"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import deformable_aggregation, sparse_conv

__all__ = ['deformable_aggregation', 'sparse_conv']
