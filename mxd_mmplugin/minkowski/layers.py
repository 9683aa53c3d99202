"""MinkowskiEngine's layers on the operators of this package, with its names, weights and initialisation."""

import math
from collections.abc import Callable
from typing import Optional

import torch
from torch import Tensor, nn

from ..ops import Rulebook, sparse_conv, sparse_max_pool
from ..ops.dynamic_scatter import DynamicScatterFunction
from ..ops.tracing import apply
from .tensor import SparseTensor, Voxels


class MinkowskiConvolution(nn.Module):
    """A convolution with an output at each cell of its stride that has a voxel in it.

    Args:
        in_channels, out_channels (int): feature channels.
        kernel_size, stride, dilation (int): one number for all dimensions. A kernel of odd size is centred, one of
            even size begins at the voxel.
        bias (bool): whether to add a learned bias [1, out_channels].
        dimension (int): 3.

    The weight `kernel` is [kernel points, in_channels, out_channels], x running fastest over the points; of a single
    point without a stride [in_channels, out_channels].
    """

    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = -1,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        dimension: int = -1,
    ) -> None:
        super().__init__()
        if dimension != 3:
            raise ValueError(f'dimension must be 3, was {dimension}')
        for name, value in dict(kernel_size=kernel_size, stride=stride, dilation=dilation).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} must be a positive whole number, was {value!r}')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        points = kernel_size**3
        channels = in_channels, out_channels
        shape = channels if points == stride == 1 else (points, *channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        bound = ((out_channels if self.transposed else in_channels) * points) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve."""
        if self.kernel.dim() == 2:
            features = x.features @ self.kernel
            return x.with_features(features if self.bias is None else features + self.bias)
        windows = x.coordinate_map_key.windows(self.kernel_size, self.stride, self.dilation)
        features = windows.outputs_of(self._convolve(x.features, windows.book))
        features = features if self.bias is None else features + self.bias
        return SparseTensor(features, coordinate_map_key=windows.outputs)

    def _convolve(self, features: Tensor, book: Rulebook) -> Tensor:
        weight = self.kernel.unflatten(0, [self.kernel_size] * 3).permute(2, 1, 0, 3, 4)
        return sparse_conv(features, weight, None, book)

    def extra_repr(self) -> str:
        """Arguments, for print(model)."""
        names = 'kernel_size', 'stride', 'dilation'
        rest = ', '.join(f'{name}={getattr(self, name)}' for name in names)
        return f'{self.in_channels}, {self.out_channels}, {rest}, bias={self.bias is not None}'


class MinkowskiGenerativeConvolutionTranspose(MinkowskiConvolution):
    """A transposed convolution to all cells that its kernel reaches, whether or not there was a voxel.

    Args:
        *args, **kwargs: see `MinkowskiConvolution`.
    """

    transposed = True

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve to cells `stride` times as fine."""
        book, voxels = x.coordinate_map_key.children(self.kernel_size, self.stride)
        features = self._convolve(x.features, book)
        features = features if self.bias is None else features + self.bias
        return SparseTensor(features, coordinate_map_key=voxels)


class MinkowskiMaxPooling(nn.Module):
    """The maxima of the voxels in each window.

    Args:
        kernel_size, stride (int): one number for all dimensions.
        dimension (int): 3.
    """

    def __init__(self, kernel_size: int, stride: int = 1, dimension: int = -1) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool."""
        windows = x.coordinate_map_key.windows(self.kernel_size, self.stride)
        features = windows.outputs_of(sparse_max_pool(x.features, windows.book))
        return SparseTensor(features, coordinate_map_key=windows.outputs)


class MinkowskiPruning(nn.Module):
    """Some of the voxels."""

    def forward(self, x: SparseTensor, mask: Tensor) -> SparseTensor:
        """Keep the voxels for which the mask bool [N] is true, in their order."""
        rows, voxels = mask.nonzero().flatten(), x.coordinate_map_key
        kept = Voxels(voxels.cells.index_select(0, rows), voxels.stride, voxels.grid)
        return SparseTensor(x.features.index_select(0, rows), coordinate_map_key=kept)


class MinkowskiBatchNorm(nn.Module):
    """`torch.nn.BatchNorm1d` of the features, as the module `bn`.

    Args:
        num_features (int): channels.
        eps, momentum, affine, track_running_stats: see there.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalize."""
        return x.with_features(self.bn(x.features))


class MinkowskiInstanceNorm(nn.Module):
    """Each channel of each sample with mean 0 and variance 1, then scaled and shifted.

    Args:
        num_features (int): channels.
    """

    eps = 1e-8

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, num_features))
        self.bias = nn.Parameter(torch.zeros(1, num_features))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalize."""
        plan = x.coordinate_map_key.samples
        sample = plan[0].long()

        def mean(rows: Tensor) -> Tensor:
            means = apply(DynamicScatterFunction, rows, *plan, 'mean')
            return means.index_select(0, sample)

        centred = x.features - mean(x.features)
        scale = (mean(centred.square()) + self.eps).rsqrt()
        return x.with_features(centred * scale * self.weight + self.bias)


class _Activation(nn.Module):
    """An activation of the features.

    Args:
        *args, **kwargs: those of the function.
    """

    function: Callable[..., nn.Module]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        self.module = type(self).function(*args, **kwargs)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply it."""
        return x.with_features(self.module(x.features))


class MinkowskiReLU(_Activation):
    """`torch.nn.ReLU` of the features."""

    function = nn.ReLU


class MinkowskiELU(_Activation):
    """`torch.nn.ELU` of the features."""

    function = nn.ELU


class BasicBlock(nn.Module):
    """Two convolutions with norms, and the input added to them.

    Args:
        inplanes, planes (int): channels.
        stride, dilation (int): of the convolutions; the second one has no stride.
        downsample (nn.Module, optional): what the input goes through before it is added.
        bn_momentum (float): of the norms.
        dimension (int): 3.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: Optional[nn.Module] = None,
        bn_momentum: float = 0.1,
        dimension: int = -1,
    ) -> None:
        super().__init__()
        sizes = self._sizes(inplanes, planes, stride)
        self.count = len(sizes)
        for number, (channels, out, size, step) in enumerate(sizes, 1):
            spread = dilation if size > 1 else 1
            conv = MinkowskiConvolution(channels, out, size, step, spread, dimension=dimension)
            setattr(self, f'conv{number}', conv)
            setattr(self, f'norm{number}', MinkowskiBatchNorm(out, momentum=bn_momentum))
        self.relu = MinkowskiReLU(inplace=True)
        self.downsample = downsample

    @staticmethod
    def _sizes(inplanes: int, planes: int, stride: int) -> list[tuple[int, int, int, int]]:
        """For each convolution channels in and out, kernel_size and stride."""
        return [(inplanes, planes, 3, stride), (planes, planes, 3, 1)]

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve and add."""
        out = x
        for number in range(1, self.count + 1):
            out = self.relu(out) if number > 1 else out
            out = getattr(self, f'norm{number}')(getattr(self, f'conv{number}')(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(BasicBlock):
    """Three convolutions, the middle one in fewer channels; see `BasicBlock`."""

    expansion = 4

    @staticmethod
    def _sizes(inplanes: int, planes: int, stride: int) -> list[tuple[int, int, int, int]]:
        wide = planes * Bottleneck.expansion
        return [(inplanes, planes, 1, 1), (planes, planes, 3, stride), (planes, wide, 1, 1)]


def kaiming_normal_(
    kernel: Tensor, a: float = 0, mode: str = 'fan_in', nonlinearity: str = 'leaky_relu'
) -> Tensor:
    """`torch.nn.init.kaiming_normal_` for the weight of a layer here.

    Args:
        kernel (Tensor): [points, in, out] or [in, out].
        a (float): see there.
        mode (str): 'fan_in' or 'fan_out'.
        nonlinearity (str): see there.
    """
    channels = kernel.shape[-2 if mode == 'fan_in' else -1]
    fan = channels * (kernel.shape[0] if kernel.dim() == 3 else 1)
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type] # PyTorch checks it
    return nn.init.normal_(kernel, std=gain / math.sqrt(fan))
