"""Sparse convolution: the rulebook and the convolution over it.

A sparse tensor is N occupied voxels of a grid: features [N, C] and indices int32 [N, ndim + 1], a row being the batch
index and the coordinates in the order of `spatial_shape`. Output o and kernel point k meet the voxel at
`o * stride - padding + k * dilation`, as in a dense convolution whose other cells are zero; a regular convolution has
an output wherever at least one voxel is met (Graham and van der Maaten, "Submanifold Sparse Convolutional Networks",
arXiv 1706.01307), a submanifold convolution at the input's own voxels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from .autocast import autocast
from .sizes import whole, wholes
from .tracing import apply, is_compiling


def output_shape(
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    subm: bool,
    transposed: bool,
) -> list[int]:
    """Cells of the output in each dimension, as `torch.nn.Conv3d` and `ConvTranspose3d` count them."""
    if subm:
        return list(spatial_shape)
    sizes = zip(spatial_shape, kernel_size, stride, padding, dilation, output_padding)
    if transposed:
        return [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, d, more in sizes]
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sizes]


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place. Inference tensors do not count it, and a trace sees no change."""
    return 0 if is_compiling() or tensor.is_inference() else tensor._version


# Voxels known to be in the order of their cells, and how often they had been changed by then.
_IN_ORDER: Any = WeakTensorKeyDictionary()


def mark_in_order(indices: Tensor) -> Tensor:
    """Tell that voxels are sorted by batch and coordinates, so that nobody waits for a device to find out.

    Args:
        indices (Tensor): int32 [N, ndim + 1]. A change in place ends it.

    Returns:
        Tensor: the same.
    """
    if not (is_compiling() or indices.is_inference()):
        _IN_ORDER[indices] = indices._version
    return indices


def _is_in_order(indices: Tensor) -> bool:
    return not indices.is_inference() and _IN_ORDER.get(indices) == indices._version


@dataclass(eq=False)
class Rulebook:
    """Which voxels a sparse convolution joins, and how; made by `build_rulebook`.

    Attributes:
        indices (Tensor): the input's voxels, int32 [N, ndim + 1].
        out_indices (Tensor): the output's voxels, int32 [M, ndim + 1]; of a submanifold convolution
            the input's own, else sorted by batch and coordinates.
        out_shape (tuple[int]): the output's grid.
        pairs (Tensor): int32 [P, 2], (input row, output row).
        bounds (Tensor): int64 [tiles, K + 1], where the pairs of a kernel point lie; the layout
            belongs to the device's kernels (csrc/ops/sparse_conv.h).
        geometry (dict): batch_size, spatial_shape, kernel_size, stride, padding, dilation,
            output_padding, subm, transposed.
    """

    indices: Tensor
    out_indices: Tensor
    out_shape: tuple[int, ...]
    pairs: Tensor
    bounds: Tensor
    geometry: dict
    # Kept by hand: functools.cached_property takes a lock, which torch.compile does not trace.
    _transpose: Optional[tuple[Tensor, Tensor]] = field(default=None, repr=False)
    _plan: Optional[Tensor] = field(default=None, repr=False)
    _versions: tuple[int, int] = field(init=False, repr=False)  # of indices and out_indices

    def __post_init__(self) -> None:
        self._versions = self._changes()

    def _changes(self) -> tuple[int, int]:
        return _version(self.indices), _version(self.out_indices)

    # A copy's tensors count from another number: what goes along is how often they were changed since.
    def __getstate__(self) -> dict:
        since = tuple(now - then for now, then in zip(self._changes(), self._versions))
        return {**self.__dict__, '_versions': since}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        since = state['_versions']
        self._versions = self._changes()[0] - since[0], self._changes()[1] - since[1]

    @property
    def counts_changes(self) -> bool:
        """Whether a change in place would be known. It is not of inference tensors, nor in a trace.

        False too for pairs that no gradient can use, as they were made in inference mode.
        """
        return not (is_compiling() or self.indices.is_inference() or self.pairs.is_inference())

    def is_from(self, indices: Tensor) -> Optional[bool]:
        """Whether the input's voxels are `indices`; None if only their values could tell, which are not read on NPUs.

        One tensor is the same voxels unless it was changed in place since.
        """
        return self._names(self.indices, self._versions[0], indices)

    def is_to(self, indices: Tensor) -> Optional[bool]:
        """Whether the output's voxels are `indices`, see `is_from`."""
        return self._names(self.out_indices, self._versions[1], indices)

    @staticmethod
    def _names(mine: Tensor, version: int, other: Tensor) -> Optional[bool]:
        if _version(mine) != version or mine.shape != other.shape or mine.device != other.device:
            return False
        if mine is other:
            return True
        return torch.equal(mine, other) if mine.device.type == 'cpu' else None

    @property
    def transpose(self) -> tuple[Tensor, Tensor]:
        """(pairs, bounds) with inputs and outputs exchanged, for the gradient of the input."""
        if self._transpose is None:
            self._transpose = torch.ops.mxd.sparse_conv_rulebook_transpose(
                self.pairs, self.bounds, self.indices.shape[0], trusted=True
            )
        return self._transpose

    @property
    def inverse(self) -> 'Rulebook':
        """The rulebook from this one's outputs back to its inputs, for an inverse convolution."""
        return Rulebook(
            self.out_indices,
            self.indices,
            self.geometry['spatial_shape'],
            *self.transpose,
            {**self.geometry, 'inverse_of': self.out_shape},
            _transpose=(self.pairs, self.bounds),  # known: no need to sort back
        )

    @property
    def back(self) -> tuple[Optional[Tensor], Optional[Tensor]]:
        """(pairs, bounds) with inputs and outputs exchanged, kernel points in any order; None for this one's own."""
        return (None, None) if self.symmetric else self.transpose

    def plan(self, features: Tensor, weight: Tensor, groups: int) -> Optional[Tensor]:
        """The pairs as an NPU's cube cores add their products, int32, if that serves such a convolution.

        Made once, for all layers that share a submanifold convolution's rulebook, and their gradients. `weight` is
        [K, in / groups, out].
        """
        if not self.symmetric or features.device.type == 'cpu' or is_compiling():
            return None
        if self._plan is None:
            plan = torch.ops.mxd.sparse_conv_plan(
                features,
                weight,
                self.pairs,
                self.bounds,
                self.out_indices.shape[0],
                groups,
                _is_in_order(self.indices),
            )
            self._plan = plan if plan.numel() else None
        return self._plan

    @property
    def symmetric(self) -> bool:
        """Whether exchanging inputs and outputs is the same as reversing the kernel."""
        odd = all(k % 2 for k in self.geometry['kernel_size'])
        return self.geometry['subm'] and odd and 'inverse_of' not in self.geometry


def build_rulebook(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    subm: bool = False,
    transposed: bool = False,
    output_padding: Optional[Sequence[int]] = None,
) -> Rulebook:
    """Find the output voxels of a sparse convolution and the pairs of voxels that it joins.

    Time and memory grow with the number of voxels, not with the grid. The result is the same from
    run to run.

    Args:
        indices (Tensor): int32 [N, ndim + 1], batch index and 1 to 4 coordinates, each voxel once,
            in any order.
        batch_size (int): batch indices are 0 to batch_size - 1.
        spatial_shape (Sequence[int]): cells of the grid in each dimension.
        kernel_size, stride, padding, dilation (Sequence[int]): one number a dimension.
        subm (bool): submanifold: outputs are the input's voxels, the kernel is centred, stride and
            padding are not used.
        transposed (bool): voxel i and kernel point k meet output `i * stride - padding + k *
            dilation`, as in `torch.nn.ConvTranspose3d`.
        output_padding (Sequence[int], optional): cells more at the end of a transposed convolution's
            output.

    Returns:
        Rulebook: see there.

    Raises:
        ValueError: a voxel outside of the grid or the batch, or there twice; a kernel that does not
            fit; a geometry number out of its range.
        TypeError: indices that are not int32.
    """
    lists = (
        wholes('spatial_shape', spatial_shape),
        wholes('kernel_size', kernel_size),
        wholes('stride', stride),
        wholes('padding', padding),
        wholes('dilation', dilation),
        wholes('output_padding', output_padding or [0] * len(spatial_shape)),
    )
    flags = bool(subm), bool(transposed)
    batch_size = whole('batch_size', batch_size)
    out_indices, pairs, bounds = torch.ops.mxd.sparse_conv_rulebook(
        indices, batch_size, *lists, *flags
    )
    names = 'spatial_shape', 'kernel_size', 'stride', 'padding', 'dilation', 'output_padding'
    geometry = {
        **dict(zip(names, lists)),  # PyTorch 2.6 traces no dict() of pairs and keywords
        'batch_size': batch_size,
        'subm': flags[0],
        'transposed': flags[1],
    }
    out_shape = tuple(output_shape(*lists, *flags))
    out_indices = indices if subm else mark_in_order(out_indices)
    return Rulebook(indices, out_indices, out_shape, pairs, bounds, geometry)


def check_features(features: Tensor, rulebook: Rulebook) -> None:
    """Refuse features that cannot be those of the rulebook's voxels."""
    if features.dim() != 2 or features.shape[0] != rulebook.indices.shape[0]:
        raise ValueError(
            f'features must have a row for each of the {rulebook.indices.shape[0]} voxels of the '
            f'rulebook, [{rulebook.indices.shape[0]}, channels], was {list(features.shape)}'
        )


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    back: Sequence[Tensor],
    num_in: int,
    groups: int,
    symmetric: bool,
    plan: Optional[Tensor] = None,
) -> Tensor:
    """The input's gradient is a convolution of the output's with the kernel transposed.

    Args:
        grad (Tensor): [M, out], of the output.
        weight (Tensor): [K, in / groups, out].
        back (Sequence[Tensor]): (pairs, bounds) from outputs to inputs, or if `symmetric` the forward's own.
        num_in (int): N, the input's voxels.
        groups (int): channel groups.
        symmetric (bool): whether exchanging inputs and outputs is the same as reversing the kernel.
        plan (Tensor, optional): of these pairs, see `Rulebook.plan`.

    Returns:
        Tensor: [N, in].
    """
    volume, inputs, outputs = weight.shape
    turned = weight.reshape(volume, inputs, groups, outputs // groups)
    turned = turned.permute(0, 3, 2, 1).reshape(volume, outputs // groups, groups * inputs)
    if symmetric:
        turned = turned.flip(0)
    return torch.ops.mxd.sparse_conv(grad, turned, None, *back, num_in, groups, plan)


class SparseConvFunction(Function):
    """Autograd of `sparse_conv`; weight is [K, in / groups, out].

    `plan` is that of the pairs, and of both gradients where the rulebook is symmetric; else None.

    `back_pairs` and `back_bounds` are the rulebook of the input's gradient. They are None where no such gradient is
    asked for, and where it is the forward's own, with the kernel reversed if `symmetric`. (torch.compile takes no
    tensor twice, and PyTorch 2.7 confuses the tensors of a tuple with dynamic sizes.)
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Optional[Tensor],
        pairs: Tensor,
        bounds: Tensor,
        back_pairs: Optional[Tensor],
        back_bounds: Optional[Tensor],
        plan: Optional[Tensor],
        num_out: int,
        groups: int,
        symmetric: bool,
    ) -> Tensor:
        """Convolve over the rulebook's pairs."""
        back = (pairs, bounds) if back_pairs is None else (back_pairs, back_bounds)
        ctx.save_for_backward(features, weight, pairs, bounds, *back, plan)
        ctx.groups, ctx.symmetric = groups, symmetric
        return torch.ops.mxd.sparse_conv(
            features, weight, bias, pairs, bounds, num_out, groups, plan
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """See `input_gradient`; the weight's sums products over the pairs."""
        (features, weight, pairs, bounds, *back, plan), groups = ctx.saved_tensors, ctx.groups
        grad_features = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_features = input_gradient(
                grad, weight, back, features.shape[0], groups, ctx.symmetric, plan
            )
        if ctx.needs_input_grad[1]:
            grad_weight = torch.ops.mxd.sparse_conv_weight_grad(
                features, grad, pairs, bounds, groups, plan
            )
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_features, grad_weight, grad_bias, *[None] * 8


def sparse_conv(
    features: Tensor, weight: Tensor, bias: Optional[Tensor], rulebook: Rulebook, groups: int = 1
) -> Tensor:
    """Sparse convolution of any kind over its rulebook.

    Args:
        features (Tensor): [N, in_channels], float32, float64, float16 or bfloat16 (the last two are
            summed in float32). Follows autocast as `torch.nn.functional.conv3d` does.
        weight (Tensor): [*kernel_size, in_channels / groups, out_channels], mmcv's layout.
        bias (Tensor, optional): [out_channels].
        rulebook (Rulebook): of the voxels that the features belong to.
        groups (int): channel groups, as in `torch.nn.Conv3d`.

    Returns:
        Tensor: [M, out_channels], M being the rulebook's output voxels. Differentiable once in
        features, weight and bias; bit-identical from run to run on the CPU.

    Raises:
        ValueError: shapes that do not match; TypeError: dtypes that do not.
    """
    kernel_size = rulebook.geometry['kernel_size']
    if tuple(weight.shape[:-2]) != kernel_size:
        raise ValueError(
            f'weight must have the kernel_size {kernel_size} of the rulebook, was {tuple(weight.shape)}'
        )
    check_features(features, rulebook)
    features, weight, bias = autocast(features, weight, bias)
    # Sought here and not in the backward: what is cached there, torch.compile could not trace.
    wanted = torch.is_grad_enabled() and features.requires_grad
    weight = weight.flatten(0, -3)
    return apply(
        SparseConvFunction,
        features,
        weight,
        bias,
        rulebook.pairs,
        rulebook.bounds,
        *(rulebook.back if wanted else (None, None)),
        rulebook.plan(features, weight, groups),
        rulebook.out_indices.shape[0],
        groups,
        rulebook.symmetric,
    )


if hasattr(torch.library, 'register_fake'):  # PyTorch 2.4: tracing with sizes that depend on data

    @torch.library.register_fake('mxd::sparse_conv_rulebook')
    def _rulebook_fake(
        indices: Tensor,
        batch_size: int,
        spatial_shape: Sequence[int],
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        output_padding: Sequence[int],
        subm: bool,
        transposed: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sizes = torch.library.get_ctx()
        volume = 1
        for k in kernel_size:
            volume *= k
        rows = indices.shape[0] if subm else sizes.new_dynamic_size()
        return (
            indices.new_empty(rows, indices.shape[1]),
            indices.new_empty(sizes.new_dynamic_size(), 2),
            indices.new_empty(sizes.new_dynamic_size(), volume + 1, dtype=torch.int64),
        )

    @torch.library.register_fake('mxd::sparse_conv_rulebook_transpose')
    def _rulebook_transpose_fake(
        pairs: Tensor, bounds: Tensor, num_in: int, trusted: bool = False
    ) -> tuple[Tensor, Tensor]:
        tiles = torch.library.get_ctx().new_dynamic_size()
        return torch.empty_like(pairs), bounds.new_empty(tiles, bounds.shape[1])
