"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import sparse_add, sparse_conv, sparse_dense, sparse_pool

__all__ = ['sparse_add', 'sparse_conv', 'sparse_dense', 'sparse_pool']
