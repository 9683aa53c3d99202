"""The pure-PyTorch form of every operator: it serves each device that has no kernel, and is the tests' reference."""

from . import modulated_deform_conv, sparse_conv

__all__ = ['modulated_deform_conv', 'sparse_conv']
