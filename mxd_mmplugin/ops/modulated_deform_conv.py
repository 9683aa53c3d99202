"""Modulated deformable convolution (DCN v2), and deformable convolution (DCN v1) as the case with no mask.

Every output (oh, ow) and kernel point k = (i, j) samples the input, bilinearly and as zero outside of the image, at

    y = oh * stride - padding + i * dilation + offset[2k],  x likewise with ow, j and offset[2k + 1]

in pixels, times mask[k]; the convolution's weight is applied to the samples (Zhu et al., "Deformable ConvNets v2: More
Deformable, Better Results", arXiv 1811.11168; without the mask Dai et al., arXiv 1703.06211).
"""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _pair

from .autocast import autocast
from .tracing import apply

Size = Union[int, Sequence[int]]


class ModulatedDeformConv2dFunction(Function):
    """Autograd of `modulated_deform_conv2d`, whose arguments `apply` takes in the same order."""

    @staticmethod
    def symbolic(
        g: Any,
        input: Any,
        offset: Any,
        mask: Any,
        weight: Any,
        bias: Any = None,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
    ) -> Any:
        """What PyTorch's exporter by tracing writes into an ONNX file: mmcv's operator."""
        inputs = [input, offset, mask, weight]
        return g.op(
            'mmcv::MMCVModulatedDeformConv2d',
            *inputs if bias is None else [*inputs, bias],
            stride_i=_pair(stride),
            padding_i=_pair(padding),
            dilation_i=_pair(dilation),
            groups_i=groups,
            deform_groups_i=deform_groups,
        )

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        offset: Tensor,
        mask: Optional[Tensor],
        weight: Tensor,
        bias: Optional[Tensor] = None,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
    ) -> Tensor:
        """Convolve."""
        input, offset, mask, weight, bias = autocast(input, offset, mask, weight, bias)
        ctx.save_for_backward(input, offset, mask, weight)
        ctx.geometry = _pair(stride), _pair(padding), _pair(dilation), groups, deform_groups
        return torch.ops.mxd.modulated_deform_conv2d(
            input, offset, mask, weight, bias, *ctx.geometry
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Gradients of the five tensors."""
        needed = ctx.needs_input_grad[:5]
        grads = torch.ops.mxd.modulated_deform_conv2d_backward(
            grad, *ctx.saved_tensors, *ctx.geometry, any(needed[:3]), any(needed[3:])
        )
        return (*(g if need else None for g, need in zip(grads, needed)), *[None] * 5)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Optional[Tensor],
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Modulated deformable convolution, DCN v2.

    Args:
        input (Tensor): [N, channels, height, width], float32, float64, float16 or bfloat16 (the last
            two are computed in float32). Follows autocast as `torch.nn.functional.conv2d` does.
        offset (Tensor): [N, deform_groups * kernel points * 2, out_height, out_width], in pixels: of
            each deform group and kernel point (row by row) first dy, then dx.
        mask (Tensor, optional): [N, deform_groups * kernel points, out_height, out_width], factors
            of the samples; None for DCN v1.
        weight (Tensor): [out_channels, channels / groups, kernel height, kernel width].
        bias (Tensor, optional): [out_channels].
        stride, padding, dilation (int or Sequence[int]): one number, or two (height, width).
        groups (int): channel groups, as in `torch.nn.Conv2d`.
        deform_groups (int): input channel c uses the offsets and the mask of deform group
            c // (channels / deform_groups).

    Returns:
        Tensor: [N, out_channels, out_height, out_width], sizes as of `torch.nn.Conv2d`.
        Differentiable once in the five tensors; bit-identical from run to run on the CPU, for any
        number of threads.

    Raises:
        ValueError: shapes or numbers that do not match; TypeError: dtypes that do not.
    """
    return apply(
        ModulatedDeformConv2dFunction,
        input,
        offset,
        mask,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        deform_groups,
    )


class _DeformConv2dFunction(Function):
    """Autograd of `deform_conv2d`, its arguments in the same order."""

    @staticmethod
    def symbolic(
        g: Any,
        input: Any,
        offset: Any,
        weight: Any,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        deform_groups: int,
        bias: bool,
        im2col_step: int,
    ) -> Any:
        """What PyTorch's exporter by tracing writes into an ONNX file: mmcv's operator."""
        return g.op(
            'mmcv::MMCVDeformConv2d',
            input,
            offset,
            weight,
            stride_i=_pair(stride),
            padding_i=_pair(padding),
            dilation_i=_pair(dilation),
            groups_i=groups,
            deform_groups_i=deform_groups,
            bias_i=bias,
            im2col_step_i=im2col_step,
        )

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        deform_groups: int,
        bias: bool,
        im2col_step: int,
    ) -> Tensor:
        """Convolve."""
        geometry = stride, padding, dilation, groups, deform_groups
        return ModulatedDeformConv2dFunction.forward(
            ctx, input, offset, None, weight, None, *geometry
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Gradients of the three tensors."""
        needed = ctx.needs_input_grad[:3]
        grad_input, grad_offset, _, grad_weight, _ = torch.ops.mxd.modulated_deform_conv2d_backward(
            grad, *ctx.saved_tensors, *ctx.geometry, any(needed[:2]), needed[2]
        )
        grads = grad_input, grad_offset, grad_weight
        return (*(g if need else None for g, need in zip(grads, needed)), *[None] * 7)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Deformable convolution, DCN v1: `modulated_deform_conv2d` with neither mask nor bias.

    Args:
        input, offset, weight, stride, padding, dilation, groups, deform_groups: see there.
        bias (bool): must be False, as in mmcv.
        im2col_step (int): not used, the batch may have any size; an ONNX file has it.

    Returns:
        Tensor: [N, out_channels, out_height, out_width].

    Raises:
        ValueError: shapes or numbers that do not match; TypeError: dtypes that do not.
    """
    if bias is not False:
        raise ValueError(f'bias must be False (modulated_deform_conv2d has one), was {bias!r}')
    return apply(
        _DeformConv2dFunction,
        input,
        offset,
        weight,
        stride,
        padding,
        dilation,
        groups,
        deform_groups,
        bias,
        im2col_step,
    )


class DeformConv2dFunction:
    """`deform_conv2d` as mmcv and mx_driving also call it: `DeformConv2dFunction.apply`."""

    apply = staticmethod(deform_conv2d)
