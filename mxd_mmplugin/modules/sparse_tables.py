"""spconv's layers over several sparse tensors of the same voxels, and over the branches of a network."""

from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor, nn

from .sparse_modules import SparseModule
from .sparse_tensor import SomeSparseTensor, replace_feature, same_voxels, sparse_add


def _check_same(kind: str, tensors: Sequence[SomeSparseTensor]) -> None:
    if not tensors:
        raise ValueError(f'{kind} needs at least one tensor')
    first = tensors[0]
    for n, x in enumerate(tensors[1:], 1):
        same = (
            list(x.spatial_shape) == list(first.spatial_shape) and x.batch_size == first.batch_size
        )
        if not same or not same_voxels(x.indices, first.indices):
            raise ValueError(
                f'{kind} needs the same voxels in all tensors, and those of tensor {n} are others than those of '
                'tensor 0: use AddTableMisaligned or sparse_add'
            )


class JoinTable(SparseModule):
    """Sparse tensors of the same voxels to one with the channels of all."""

    def forward(self, input: Sequence[SomeSparseTensor]) -> SomeSparseTensor:
        """Join.

        Args:
            input (Sequence[SparseConvTensor]): [N, C_i] features each.

        Returns:
            SparseConvTensor: [N, sum of C_i], of the first one's class and with all that it carries.

        Raises:
            ValueError: no tensors, or other voxels.
        """
        _check_same('JoinTable', input)
        return replace_feature(input[0], torch.cat([x.features for x in input], 1))


class AddTable(SparseModule):
    """Sum of sparse tensors of the same voxels."""

    def forward(self, input: Sequence[SomeSparseTensor]) -> SomeSparseTensor:
        """Add; arguments, result and errors are those of `JoinTable.forward`, with one number of channels."""
        _check_same('AddTable', input)
        features: Union[Tensor, int] = sum(x.features for x in input)
        return replace_feature(input[0], features)  # type: ignore[arg-type] # there is one at least


class AddTableMisaligned(SparseModule):
    """Sum of sparse tensors of one grid with different voxels, see `sparse_add`."""

    def forward(self, input: Sequence[SomeSparseTensor]) -> SomeSparseTensor:
        """Add."""
        return sparse_add(*input)


class ConcatTable(SparseModule):
    """The branches of a network: what each module makes of one input.

    Args:
        *modules (nn.Module): the branches.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for module in modules:
            self.add(module)

    def add(self, module: nn.Module) -> 'ConcatTable':
        """Add a branch.

        Returns:
            ConcatTable: this one.
        """
        self.add_module(str(len(self._modules)), module)
        return self

    def forward(self, input: Any) -> list:
        """A list of what the branches give."""
        return [module(input) for module in self._modules.values()]


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Write into every sparse layer where it is in the model, `_sparse_unique_name`."""
    for name, layer in module.named_modules():
        if isinstance(layer, SparseModule):
            layer._sparse_unique_name = name
