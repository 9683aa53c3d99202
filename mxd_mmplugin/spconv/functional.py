"""The functions of `spconv.pytorch.functional`: `from mxd_mmplugin.spconv import functional as Fsp`."""

from ..modules import sparse_add

sparse_add_hash_based = sparse_add  # spconv's second way to the same sum

__all__ = ['sparse_add', 'sparse_add_hash_based']
