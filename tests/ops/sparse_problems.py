"""Random sparse tensors and windows over them, for the tests of the sparse operators."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)


def coordinates(cells, shape):
    """Coordinates [N, len(shape)], int32, of cells numbered row by row; torch.unravel_index came with 2.2."""
    columns = []
    for size in reversed(shape):
        columns.insert(0, cells % size)
        cells = cells // size
    return torch.stack(columns, 1).int()


@st.composite
def problems(draw, max_dims=3, max_channels=70):
    """A sparse tensor and a convolution that fits it, voxels in any order, also none at all."""
    ndim = draw(st.integers(1, max_dims))

    def numbers(least, most):
        return draw(st.lists(st.integers(least, most), min_size=ndim, max_size=ndim))

    kernel, stride, padding, dilation = numbers(1, 4), numbers(1, 3), numbers(0, 3), numbers(1, 3)
    kind = draw(st.sampled_from(['regular', 'subm', 'transposed']))
    shape = numbers(1, 9)
    for n, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation)):
        if kind == 'transposed':
            shape[n] = max(min(shape[n], 5), (2 * p - d * (k - 1) - 1) // s + 2)
        else:
            shape[n] = max(shape[n], d * (k - 1) + 1 - 2 * p)
    batch_size, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    cells = batch_size * int(torch.tensor(shape).prod())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = draw(st.integers(0, min(cells, 200)))
    chosen = torch.randperm(cells, generator=generator)[:count]
    indices = coordinates(chosen, [batch_size, *shape])
    inputs = groups * draw(st.integers(1, max(1, max_channels // groups)))
    outputs = groups * draw(st.integers(1, max(1, max_channels // groups)))
    geometry = dict(
        batch_size=batch_size,
        spatial_shape=shape,
        kernel_size=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=numbers(0, 2) if kind == 'transposed' else [0] * ndim,
        subm=kind == 'subm',
        transposed=kind == 'transposed',
    )
    features = torch.randn(count, inputs, dtype=torch.float64, generator=generator)
    weight = torch.randn(
        *kernel, inputs // groups, outputs, dtype=torch.float64, generator=generator
    )
    bias = torch.randn(outputs, dtype=torch.float64, generator=generator)
    bias = draw(st.sampled_from([None, bias]))
    return indices, geometry, features, weight, bias, groups


def with_grad(*tensors):
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


def gradients(out, *tensors):
    inputs = [t for t in tensors if t is not None]
    grad = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out)
    return torch.autograd.grad(out, inputs, grad.to(out.dtype))


def line(count, grid=1000):
    """`count` voxels in a row of a 1-D grid."""
    return torch.stack([torch.zeros(count), torch.arange(count)], 1).int(), [grid]
