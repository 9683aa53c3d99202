"""Data sets and their transforms."""

from .db_sampler import DataBaseSampler

__all__ = ['DataBaseSampler']
