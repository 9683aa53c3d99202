"""Containers and small layers for sparse tensors of mmcv, spconv and ours."""

from typing import Any, TypeVar

import torch
from mmcv.ops import SparseModule as MmcvSparseModule
from mmcv.ops import SparseSequential as MmcvSparseSequential
from torch import Tensor, nn

from ..ops.tracing import is_compiling
from ..packages import is_installed
from .sparse_tensor import (
    TENSORS,
    MmcvSparseConvTensor,
    SomeSparseTensor,
    SparseTensor,
    replace_feature,
)

T = TypeVar('T')

# A SparseSequential hands sparse tensors only to modules of its own package's class: be one of each.
if is_installed('spconv'):
    from spconv.pytorch import SparseModule as SpconvSparseModule

    _MODULES: tuple[type[nn.Module], ...] = (MmcvSparseModule, SpconvSparseModule)
else:
    _MODULES = (MmcvSparseModule,)


class SparseModule(*_MODULES):  # type: ignore[misc] # bases that are known at run time
    """Base of modules that take a sparse tensor; every SparseSequential knows them."""

    _version = 1  # mmdet3d marks spconv 2's layout as version 2
    # Not spconv's own loader, which mmdet3d replaces by one that permutes every weight.
    _load_from_state_dict = nn.Module._load_from_state_dict


class SparseSequential(MmcvSparseSequential, SparseModule):
    """A sequence of sparse and dense modules.

    Modules that take sparse tensors, those of mmcv, spconv and ours, get the tensor; any other gets its features, which
    the tensor that goes on has replaced. The input is not changed. Where there are no voxels the other modules are left
    out, as in mmcv and spconv; torch.compile and torch.export cannot know that, and what they made asks for two voxels.

    Args:
        *args (nn.Module): the modules, or one OrderedDict of them by name.
        **kwargs (nn.Module): further modules by name.
    """

    def forward(self, input: Any) -> Any:
        """Run the modules.

        Args:
            input (SparseConvTensor or Tensor or list): whatever the first module takes.

        Returns:
            What the last module gives.
        """
        tracing = is_compiling()
        for name, module in self._modules.items():
            if isinstance(module, _MODULES):
                if isinstance(input, MmcvSparseConvTensor) and not tracing:
                    self._sparity_dict[name] = input.sparity
                input = module(input)
            elif not isinstance(input, TENSORS):
                input = module(input)
            else:
                voxels = input.indices.shape[0]
                if tracing:  # a number that is known only when it runs cannot be branched on
                    torch._check(voxels > 1)
                if tracing or voxels:
                    input = replace_feature(input, module(input.features))
        return input

    def fused(self) -> 'SparseSequential':
        """A copy for inference with each BatchNorm1d folded into the convolution before it."""
        layers: list[nn.Module] = []
        for module in self._modules.values():
            with_norm = getattr(layers[-1], 'with_norm', None) if layers else None
            if isinstance(module, nn.BatchNorm1d) and with_norm:
                layers[-1] = with_norm(module)
            else:
                layers.append(module)
        return SparseSequential(*layers)


class ToDense(SparseModule):
    """A sparse tensor to the grid, [batch_size, channels, *spatial_shape]."""

    def forward(self, x: SparseTensor) -> Tensor:
        """See `SparseConvTensor.dense`."""
        return x.dense()


class RemoveGrid(SparseModule):
    """Drop the grid buffer that a tensor carries."""

    def forward(self, x: SomeSparseTensor) -> SomeSparseTensor:
        """The tensor itself."""
        x.grid = None
        return x


class Identity(nn.Module):
    """Its input."""

    def forward(self, input: T) -> T:
        """The input."""
        return input


def _on_features(base: type[nn.Module], name: str) -> type[nn.Module]:
    """A layer on numbers that takes sparse tensors too."""

    def forward(self: nn.Module, input: Any) -> Any:
        if isinstance(input, TENSORS):
            return replace_feature(input, base.forward(self, input.features))
        return base.forward(self, input)

    doc = f'`torch.nn.{base.__name__}` on a tensor, or on the features of a sparse tensor.'
    return type(name, (base,), dict(forward=forward, __doc__=doc, __module__=__name__))


SparseBatchNorm = _on_features(nn.BatchNorm1d, 'SparseBatchNorm')
SparseReLU = _on_features(nn.ReLU, 'SparseReLU')
SparseIdentity = _on_features(nn.Identity, 'SparseIdentity')
