"""Modulated deformable convolution in plain PyTorch, on any device: pixels are gathered, one image at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain import compute_dtype, plain_form


def _full(tensor: Tensor) -> Tensor:
    return tensor.to(compute_dtype(tensor.dtype))


@dataclass
class _Samples:
    """An image's samples, D deform groups with S = kernel points * output positions each.

    Attributes:
        pixels (Tensor): int64 [4, D, S], the pixels around each sample, row by row; height * width
            stands for all that is outside of the image.
        weights (Tensor): [4, D, S], their bilinear weights.
        below, right (Tensor): [D, S], the share of the lower row and of the right column.
        mask (Tensor): [D, S].
    """

    pixels: Tensor
    weights: Tensor
    below: Tensor
    right: Tensor
    mask: Tensor


class _Convolution:
    """The arguments of an operator, images padded by a pixel of zeros, and work on one image."""

    def __init__(
        self,
        input: Tensor,
        offset: Tensor,
        mask: Optional[Tensor],
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        deform_groups: int,
    ) -> None:
        self.size, self.kernel = input.shape[2:], weight.shape[2:]
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.deform_groups = groups, deform_groups
        self.images = F.pad(_full(input).flatten(2), (0, 1))
        self.offset = _full(offset)
        self.mask = None if mask is None else _full(mask)
        self.weight = _full(weight).reshape(groups, len(weight) // groups, -1)

    def _axis(self, dim: int, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low neighbour, share of the high one, and whether it is inside, of samples in y or x."""
        steps = torch.arange(offset.shape[3 + dim], device=offset.device)
        points = torch.arange(self.kernel[dim], device=offset.device)
        steps = steps * self.stride[dim] - self.padding[dim]
        points = points * self.dilation[dim]
        # offset is [D, kernel height, kernel width, out_height, out_width].
        shape = [1, 1, 1, 1, 1]
        shape[1 + dim], shape[3 + dim] = len(points), len(steps)
        at = (points[:, None] + steps).view(shape) + offset
        inside = (at > -1) & (at < self.size[dim])
        at = torch.where(inside, at, torch.zeros_like(at)).flatten(1)
        low = at.floor()
        return low.long(), at - low, inside.flatten(1)

    def samples(self, n: int) -> _Samples:
        """Where image n is sampled."""
        height, width = self.size
        offset = self.offset[n].unflatten(0, (self.deform_groups, *self.kernel, 2))
        top, below, inside_y = self._axis(0, offset[:, :, :, 0])
        left, right, inside_x = self._axis(1, offset[:, :, :, 1])
        pixels, weights = [], []
        for row, share_y in ((top, 1 - below), (top + 1, below)):
            for column, share_x in ((left, 1 - right), (left + 1, right)):
                there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                pixel = (row * width + column).masked_fill(
                    ~(there & inside_y & inside_x), height * width
                )
                pixels.append(pixel)
                weights.append(share_y * share_x)
        mask = torch.ones_like(below) if self.mask is None else self.mask[n].reshape(below.shape)
        return _Samples(torch.stack(pixels), torch.stack(weights), below, right, mask)

    def around(self, n: int, samples: _Samples) -> Iterator[Tensor]:
        """Image n at the four pixels around each sample, one after the other, [D, channels / D, S]."""
        image = self.images[n].unflatten(0, (self.deform_groups, -1))
        for pixels in samples.pixels:
            yield image.gather(2, pixels[:, None].expand(-1, image.shape[1], -1))

    def columns(self, n: int, samples: _Samples) -> Tensor:
        """The samples of image n, [groups, channels / groups * kernel points, positions]."""
        weights = samples.weights * samples.mask
        columns = sum(v * w[:, None] for v, w in zip(self.around(n, samples), weights))
        return columns.reshape(self.groups, self.weight.shape[2], -1)


@plain_form('modulated_deform_conv2d')
def forward(
    input: Tensor,
    offset: Tensor,
    mask: Optional[Tensor],
    weight: Tensor,
    bias: Optional[Tensor],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """See `mxd_mmplugin.ops.modulated_deform_conv2d`."""
    work = _Convolution(
        input, offset, mask, weight, stride, padding, dilation, groups, deform_groups
    )
    shape = len(weight), *offset.shape[2:]
    out = input.new_empty(len(input), *shape)
    for n in range(len(input)):
        image = (work.weight @ work.columns(n, work.samples(n))).view(shape)
        out[n] = image if bias is None else image + bias[:, None, None]
    return out


@plain_form('modulated_deform_conv2d_backward')
def backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Optional[Tensor],
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deform_groups: int,
    of_data: bool,
    of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, offset and mask where `of_data`, of weight and bias where `of_parameters`."""
    grad_input, grad_offset, grad_mask, grad_weight, grad_bias = (
        input.new_empty(0) for _ in range(5)
    )
    if of_data:
        grad_input, grad_offset = torch.empty_like(input), torch.empty_like(offset)
        if mask is not None:
            grad_mask = torch.empty_like(mask)
    work = _Convolution(
        input, offset, mask, weight, stride, padding, dilation, groups, deform_groups
    )
    sum_weight = torch.zeros_like(work.weight)
    for n in range(len(input)):
        samples = work.samples(n)
        grad_out = _full(grad[n]).reshape(groups, -1, grad[n, 0].numel())
        if of_parameters:
            sum_weight += grad_out @ work.columns(n, samples).transpose(1, 2)
        if not of_data:
            continue
        columns = work.weight.transpose(1, 2) @ grad_out
        columns = columns.reshape(deform_groups, -1, samples.mask.shape[1])
        image = torch.zeros_like(work.images[n]).unflatten(0, (deform_groups, -1))
        weights = samples.weights * samples.mask
        for pixels, weight_of in zip(samples.pixels, weights):
            index = pixels[:, None].expand_as(columns)
            image.scatter_add_(2, index, columns * weight_of[:, None])
        grad_input[n] = image.flatten(0, 1)[:, :-1].view(input.shape[1:])
        a, b, c, d = ((columns * value).sum(1) for value in work.around(n, samples))
        top, bottom = torch.lerp(a, b, samples.right), torch.lerp(c, d, samples.right)
        left, right = torch.lerp(a, c, samples.below), torch.lerp(b, d, samples.below)
        slope = torch.stack([bottom - top, right - left], 1) * samples.mask[:, None]
        slope = slope.unflatten(2, (-1, grad_out.shape[2])).transpose(1, 2)
        grad_offset[n] = slope.reshape(offset.shape[1:])
        if mask is not None:
            grad_mask[n] = torch.lerp(top, bottom, samples.below).view(mask.shape[1:])
    if of_parameters:
        grad_weight = sum_weight.view(weight.shape).to(weight.dtype)
        grad_bias = _full(grad).sum((0, 2, 3)).to(weight.dtype)
    return grad_input, grad_offset, grad_mask, grad_weight, grad_bias
