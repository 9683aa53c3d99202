"""Containers and small layers for sparse tensors of mmcv, spconv and ours."""

import copy
from typing import Any, Optional, TypeVar

import torch
from mmcv.ops import SparseModule as MmcvSparseModule
from mmcv.ops import SparseSequential as MmcvSparseSequential
from mmcv.ops import SyncBatchNorm as MmcvSyncBatchNorm
from mmengine.model.utils import _BatchNormXd
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

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
    from spconv.pytorch import SparseSequential as SpconvSparseSequential

    _MODULES: tuple[type[nn.Module], ...] = (MmcvSparseModule, SpconvSparseModule)
    _SEQUENTIALS: tuple[type[nn.Module], ...] = (MmcvSparseSequential, SpconvSparseSequential)
else:
    _MODULES = (MmcvSparseModule,)
    _SEQUENTIALS = (MmcvSparseSequential,)


class SparseModule(*_MODULES):  # type: ignore[misc] # bases that are known at run time
    """Base of modules that take a sparse tensor; every SparseSequential knows them."""

    _version = 1  # mmdet3d marks spconv 2's layout as version 2
    # Not spconv's own loader, which mmdet3d replaces by one that permutes every weight.
    _load_from_state_dict = nn.Module._load_from_state_dict


class SparseSequential(MmcvSparseSequential, SparseModule):
    """A sequence of sparse and dense modules.

    Modules that take sparse tensors, those of mmcv, spconv and ours, get the tensor; any other gets its features, which
    the tensor that goes on has replaced. The input is not changed. Where there are no voxels the other modules run too
    (mmcv and spconv leave them out), so that their parameters have a gradient on each process of a distributed
    training; norms leave their statistics as they are. What torch.compile and torch.export made asks for two voxels.

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
                if tracing:  # a norm refuses a single voxel, which cannot be asked now
                    torch._check(input.indices.shape[0] > 1)
                input = replace_feature(input, module(input.features))
        return input

    def fused(self) -> 'SparseSequential':
        """A copy in eval mode with each batch norm folded into the convolution before it.

        It shares nothing with this one. A norm stays a layer of its own without running statistics, after an
        activation (`act_type`) or a parametrized weight, and where a hook or a class of the user's own steps in.
        """
        layers: list[nn.Module] = []
        for module in copy.deepcopy(self)._modules.values():
            before: Any = layers[-1] if layers else None
            if getattr(before, 'takes_norm', False) and _can_be_folded(module):
                layers[-1] = before.with_norm(module)
            else:
                layers.append(module)
        return SparseSequential(*layers).eval()


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


class SparseSyncBatchNorm(_on_features(nn.SyncBatchNorm, 'SparseSyncBatchNorm')):  # type: ignore[misc]
    """`torch.nn.SyncBatchNorm` on a tensor, or on the features of a sparse tensor."""

    @classmethod
    def convert_sync_batchnorm(
        cls, module: nn.Module, process_group: Optional[object] = None
    ) -> nn.Module:
        """As `torch.nn.SyncBatchNorm.convert_sync_batchnorm`; norms of sparse tensors stay that."""
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        return _keep_sparse(module, converted)


# Not their subclasses, which may do something else.
_FOLDED = nn.BatchNorm1d, nn.SyncBatchNorm, SparseBatchNorm, SparseSyncBatchNorm


def _can_be_folded(module: nn.Module) -> bool:
    """Whether a module is a batch norm with running statistics and nothing else."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) in _FOLDED and module.running_mean is not None and not hooks


# What a norm of sparse tensors becomes when it is converted, and what that one is for sparse tensors.
_SPARSE_NORMS: dict[type, type] = {
    nn.SyncBatchNorm: SparseSyncBatchNorm,
    MmcvSyncBatchNorm: _on_features(MmcvSyncBatchNorm, 'SparseMmcvSyncBatchNorm'),
    _BatchNormXd: _on_features(_BatchNormXd, 'SparseBatchNormXd'),
}
SparseMmcvSyncBatchNorm, SparseBatchNormXd = [*_SPARSE_NORMS.values()][1:]  # where pickle looks


def _keep_sparse(before: Optional[nn.Module], norm: Any) -> Any:
    """Let a converted norm take sparse tensors where the one before it does."""
    if isinstance(before, (SparseBatchNorm, *_SPARSE_NORMS.values())):
        norm.__class__ = _SPARSE_NORMS.get(type(norm), type(norm))
    return norm


def _keep_sparse_in_parent(parent: nn.Module, name: str, child: Optional[nn.Module]) -> None:
    _keep_sparse(parent._modules.get(name), child)


def convert_norms_of_sparse_tensors() -> bool:
    """Let `convert_sync_batchnorm`, PyTorch's and mmengine's, and the way back keep norms that take sparse tensors."""
    register_module_module_registration_hook(_keep_sparse_in_parent)
    return True


def _take_part(sequential: nn.Module, args: tuple, out: Any) -> Any:
    """Without voxels mmcv and spconv leave out all but the sparse layers: give their parameters a gradient, zero."""
    x = args[0] if args else None
    if is_compiling() or not isinstance(x, TENSORS) or x.indices.shape[0]:
        return out
    weights = [weight for weight in sequential.parameters() if weight.requires_grad]
    if not weights or not torch.is_grad_enabled():
        return out
    nothing = sum((weight.sum() * 0 for weight in weights), weights[0].new_zeros(()))
    if isinstance(out, TENSORS):
        return replace_feature(out, out.features + nothing.to(out.features.dtype))
    return out + nothing.to(out.dtype) if isinstance(out, Tensor) else out


def _take_part_in(parent: nn.Module, name: str, child: Optional[nn.Module]) -> None:
    foreign = isinstance(parent, _SEQUENTIALS) and not isinstance(parent, SparseSequential)
    if foreign and _take_part not in parent._forward_hooks.values():
        parent.register_forward_hook(_take_part)


def let_all_parameters_take_part() -> bool:
    """Let every parameter in mmcv's and spconv's SparseSequential have a gradient where a process has no voxel.

    DistributedDataParallel waits for it.
    """
    register_module_module_registration_hook(_take_part_in)
    return True


SparseReLU = _on_features(nn.ReLU, 'SparseReLU')
SparseIdentity = _on_features(nn.Identity, 'SparseIdentity')
