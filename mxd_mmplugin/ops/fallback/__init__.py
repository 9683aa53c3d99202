"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import sparse_conv

__all__ = ['sparse_conv']
