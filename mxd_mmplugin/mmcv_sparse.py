"""The functions below mmcv's own sparse layers run on our operators, wherever no GPU serves them.

Models that import `SubMConv3d`, `SparseConv3d`, `SparseInverseConv3d` or `SparseMaxPool3d` from `mmcv.ops`, as
mmdet3d's Cylinder3D and Part-A2 do, get mmcv's classes and not those of a registry. The classes take their compiled
functions from `mmcv._ext` at each call: those of the table below are exchanged there. The classes stay as they are, and
so does what they do with an `indice_key`: whoever comes second takes the first one's pairs, also for another kernel. Of
a kernel with more points than the first one's the points beyond are not used, as in mmcv's CUDA code.

mmcv's classes hand on the two tensors that say which voxels meet, and ask only the length of the first. So these hold a
rulebook (see csrc/ops/sparse_conv.h) and not mmcv's lists:

    indice_pairs     int64 [K, tiles]  where the pairs of each kernel point begin
    indice_pair_num  int32 [P, 2]      pairs of (input row, output row)
"""

import functools
from collections.abc import Sequence
from typing import Any, Callable

import torch
from torch import Tensor

from .ops import build_rulebook
from .ops.autocast import autocast, promoted
from .ops.sparse_conv import input_gradient
from .packages import is_installed

Pairs = tuple[Tensor, Tensor]


def _get_indice_pairs(
    indices: Tensor,
    batch_size: int,
    out_shape: Sequence[int],
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    subm: int,
    transposed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = spatial_shape, kernel_size, stride, padding, dilation
    rulebook = build_rulebook(
        indices, batch_size, *sizes, bool(subm), bool(transposed), output_padding
    )
    expected = tuple(int(size) for size in out_shape)
    if rulebook.out_shape != expected:
        raise ValueError(
            f'the output of a transposed convolution with dilation {tuple(dilation)} has the grid '
            f'{rulebook.out_shape}, and mmcv counts {expected}: use the layer of a registry'
        )
    return rulebook.out_indices, rulebook.bounds[:, :-1].t(), rulebook.pairs


def _rulebook(starts: Tensor, pairs: Tensor) -> Pairs:
    """(pairs, bounds) from what `_get_indice_pairs` gave."""
    starts = starts.t()
    ends = torch.cat([starts[1:, :1], starts.new_full((min(1, len(starts)), 1), len(pairs))])
    return pairs, torch.cat([starts, ends], 1)


def _transpose(rulebook: Pairs, num_in: int) -> Pairs:
    return torch.ops.mxd.sparse_conv_rulebook_transpose(*rulebook, num_in, trusted=True)


def _weight(filters: Tensor, starts: Tensor) -> Tensor:
    """[K, in, out]: the part of a weight that the pairs are for."""
    return filters.flatten(0, -3)[: len(starts)]


def _indice_conv(
    features: Tensor,
    filters: Tensor,
    starts: Tensor,
    pairs: Tensor,
    num_out: int,
    inverse: int,
    subm: int,
) -> Tensor:
    rulebook = _rulebook(starts, pairs)
    if inverse:
        rulebook = _transpose(rulebook, num_out)
    features, weight = promoted(*autocast(features, _weight(filters, starts)))
    out = torch.ops.mxd.sparse_conv(features, weight, None, *rulebook, num_out, 1)
    return out.clone() if out._is_view() else out  # mmcv adds the bias in place


def _indice_conv_backward(
    features: Tensor,
    filters: Tensor,
    grad: Tensor,
    starts: Tensor,
    pairs: Tensor,
    inverse: int,
    subm: int,
) -> list[Tensor]:
    rulebook = _rulebook(starts, pairs)
    # The size of the kernel is odd in each dimension where the number of its points is.
    symmetric = bool(subm) and len(starts) % 2 == 1
    if inverse:
        back, rulebook = rulebook, _transpose(rulebook, len(grad))
    else:
        back = rulebook if symmetric else _transpose(rulebook, len(features))
    features, weight, grad = promoted(features, _weight(filters, starts), grad)
    grad_features = input_gradient(grad, weight, back, len(features), 1, symmetric)
    grad_weight = torch.ops.mxd.sparse_conv_weight_grad(features, grad, *rulebook, 1)
    grad_filters = grad_weight.new_zeros(filters.shape)
    grad_filters.flatten(0, -3)[: len(starts)] = grad_weight
    return [grad_features, grad_filters]


def _fused_indice_conv(
    features: Tensor, filters: Tensor, bias: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    out = _indice_conv(features, filters, *args, **kwargs)
    return out + bias.to(out.dtype)


def _indice_maxpool(features: Tensor, starts: Tensor, pairs: Tensor, num_out: int) -> Tensor:
    return torch.ops.mxd.sparse_max_pool(features, *_rulebook(starts, pairs), num_out)[0]


def _indice_maxpool_backward(
    features: Tensor, out: Tensor, grad: Tensor, starts: Tensor, pairs: Tensor
) -> Tensor:
    rulebook = _rulebook(starts, pairs)
    argmax = torch.ops.mxd.sparse_max_pool(features, *rulebook, len(out))[1]
    back = _transpose(rulebook, len(features))
    return torch.ops.mxd.sparse_max_pool_backward(grad, argmax, *back, len(features))


FUNCTIONS: dict[str, Callable] = {
    **{f'get_indice_pairs_{ndim}d_forward': _get_indice_pairs for ndim in (2, 3, 4)},
    'indice_conv_forward': _indice_conv,
    'indice_conv_backward': _indice_conv_backward,
    'fused_indice_conv_forward': _fused_indice_conv,
    'indice_maxpool_forward': _indice_maxpool,
    'indice_maxpool_backward': _indice_maxpool_backward,
}


def _without_gpu(mmcvs: Callable, ours: Callable) -> Callable:
    """`ours`, for tensors on a GPU mmcv's."""

    @torch.no_grad()
    def function(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        # Not is_cuda, which transfer_to_npu lets answer for NPUs.
        on_gpu = tensor.device.type == 'cuda'
        return (mmcvs if on_gpu else ours)(tensor, *args, **kwargs)

    return function


@functools.cache
def serve_sparse() -> bool:
    """Exchange the functions.

    Returns:
        bool: whether mmcv is installed with its operators.
    """
    if not is_installed('mmcv._ext'):
        return False
    import mmcv._ext as extension

    for name, ours in FUNCTIONS.items():
        setattr(extension, name, _without_gpu(getattr(extension, name), ours))
    return True
