"""Deformable convolution, v2 and v1, beside mmcv's CPU kernels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Callable

import mmcv.ops
import torch
from torch import Tensor

from .. import ops
from .case import Case

# Forward and backward.
Calls = tuple[Callable, Callable]


@dataclass(frozen=True)
class Size:
    """A convolution with a 3x3 kernel and padding 1; `modulated` is v2, with a bias."""

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int
    stride: int = 1
    groups: int = 1
    modulated: bool = True


SIZES = {
    'small': [Size(1, 32, 32, 25, 44)],
    'model': [
        Size(4, 64, 64, 100, 200, stride=2),
        Size(1, 256, 256, 50, 88),  # ResNet-50's third stage, a camera of 800x1408
        Size(1, 512, 512, 25, 44),  # and its fourth
        Size(4, 64, 64, 128, 128, groups=4, modulated=False),  # CenterPoint's head
    ],
    'large': [Size(batch, 64, 64, 100, 200, stride=2) for batch in (1, 2, 4, 8)],
}


def _calls(size: Size, seed: int = 0) -> tuple[Calls, Calls, int]:
    """Ours and mmcv's on the same tensors.

    Returns:
        tuple[tuple, tuple, int]: (forward, backward) of ours, of mmcv's; output positions.
    """
    generator = torch.Generator().manual_seed(seed)
    out = [(n - 1) // size.stride + 1 for n in (size.height, size.width)]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = [
        random(size.batch, size.inputs, size.height, size.width),
        random(size.batch, 18, *out),
        random(size.batch, 9, *out).sigmoid(),
        random(size.outputs, size.inputs // size.groups, 3, 3) / 24,
        random(size.outputs),
    ]
    name = 'modulated_deform_conv2d'
    if not size.modulated:
        name, tensors = 'deform_conv2d', [tensors[0], tensors[1], tensors[3]]
    for tensor in tensors:
        tensor.requires_grad_()
    grad = random(size.batch, size.outputs, *out)

    def calls_of(package: ModuleType) -> Calls:
        function = getattr(package, name)

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*tensors, size.stride, 1, 1, size.groups, 1)

        @lru_cache(maxsize=1)
        def recorded() -> Tensor:
            return function(*tensors, size.stride, 1, 1, size.groups, 1)

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(recorded(), tensors, grad, retain_graph=True)

        return forward, backward

    return calls_of(ops), calls_of(mmcv.ops), size.batch * out[0] * out[1]


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'; backward is of all gradients."""
    for size in SIZES[shapes]:
        ours, theirs, positions = _calls(size)
        flop = 2.0 * 9 * positions * size.outputs * (size.inputs // size.groups)
        name = f'{"DCNv2" if size.modulated else "DCN"} {size.inputs}->{size.outputs}'
        name += f', {size.batch}x{size.height}x{size.width}, stride {size.stride}'
        if size.groups > 1:
            name += f', groups {size.groups}'
        for n, step in enumerate(('forward', 'backward')):
            yield Case(
                name, step, ours[n], {'mmcv': theirs[n]}, flop=(n + 1) * flop, size=positions
            )
