"""MinkUNet and SPVCNN of mmdet3d on the sparse layers of this package, whatever library a config names for them.

mmdet3d builds them on torchsparse, MinkowskiEngine or spconv (`sparseconv_backend`). The three compute the same; they
differ in the names and layouts of the weights, which are converted here when a checkpoint is loaded, and in where the
batch index is in the coordinates.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmdet3d.models.backbones import MinkUNetBackbone as _MinkUNetBackbone
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..modules import SparseConvTensor
from ..modules.sparse_conv import SparseConvolution, SparseInverseConvolution
from ..modules.sparse_tensor import replace_feature
from ..ops import build_rulebook
from ..ops.dynamic_scatter import DynamicScatterFunction
from ..ops.tracing import apply

BACKENDS = 'torchsparse', 'minkowski', 'spconv'
# From the names of torchsparse's and MinkowskiEngine's modules in mmdet3d to those on spconv's.
_BLOCK = r'^(encoder\.\d+\.[1-9]\d*|decoder\.\d+\.1\.\d+)'
_NAMES = (
    (rf'{_BLOCK}\.net\.0\.', r'\1.conv1.'),
    (rf'{_BLOCK}\.net\.1\.', r'\1.bn1.'),
    (rf'{_BLOCK}\.net\.3\.', r'\1.conv2.'),
    (rf'{_BLOCK}\.net\.4\.', r'\1.bn2.'),
    (r'\.norm(\d)\.bn\.', r'.bn\1.'),
    (r'\.net\.(\d)\.bn\.', r'.\1.'),
    (r'\.net\.(\d)\.', r'.\1.'),
    (r'\.kernel$', '.weight'),
)


class MinkUNetBackbone(_MinkUNetBackbone):
    """mmdet3d's `MinkUNetBackbone`.

    Args:
        encoder_channels, decoder_channels (Sequence[int]): see mmdet3d; they are not changed, as they are there.
        block_type (str): 'basic'; with `sparseconv_backend='spconv'` also what else mmdet3d has.
        sparseconv_backend (str): 'torchsparse', 'minkowski' or 'spconv': whose initialisation is used, whose
            checkpoints load (beside those that this class saves, with spconv's names), and whose coordinates come in:
            (x, y, z, batch index) for torchsparse, else the batch index first.
        **kwargs: see mmdet3d.

    Raises:
        ValueError: another backend, or a block that it does not have here.
    """

    def __init__(
        self,
        *args: Any,
        encoder_channels: Sequence[int] = (32, 64, 128, 256),
        decoder_channels: Sequence[int] = (256, 128, 96, 96),
        block_type: str = 'basic',
        sparseconv_backend: str = 'torchsparse',
        **kwargs: Any,
    ) -> None:
        if sparseconv_backend not in BACKENDS:
            raise ValueError(
                f'sparseconv_backend must be one of {", ".join(BACKENDS)}, was {sparseconv_backend!r}'
            )
        if sparseconv_backend != 'spconv' and block_type != 'basic':
            raise ValueError(
                f"block_type must be 'basic' with {sparseconv_backend}, was {block_type!r}"
            )
        with warnings.catch_warnings():  # that its layers are mmcv's, which they are not
            warnings.filterwarnings('ignore', 'Spconv 2.x is not available')
            super().__init__(
                *args,
                encoder_channels=list(encoder_channels),
                decoder_channels=list(decoder_channels),
                block_type=block_type,
                sparseconv_backend='spconv',
                **kwargs,
            )
        self.sparseconv_backend = sparseconv_backend
        if sparseconv_backend != 'spconv':
            for layer in self.modules():
                if isinstance(layer, SparseConvolution):
                    _initialize(layer)

    def forward(self, voxel_features: Tensor, coors: Tensor) -> Tensor:
        """Features of the voxels.

        Args:
            voxel_features (Tensor): [N, in_channels].
            coors (Tensor): int32 [N, 4], each voxel once; the order of the columns is that of the backend.

        Returns:
            Tensor: [N, decoder_channels[-1]].
        """
        x, laterals = self._encode(self.sparse_tensor(voxel_features, coors))
        for decoder in self.decoder:
            x = self._decode(decoder, x, laterals.pop())
        return x.features

    def sparse_tensor(self, features: Tensor, coors: Tensor) -> SparseConvTensor:
        """The voxels of a batch as a sparse tensor; the host waits once for the size of the grid."""
        if self.sparseconv_backend == 'torchsparse':
            coors = torch.cat([coors[:, 3:], coors[:, :3]], 1)
        coors = coors.contiguous()
        last = coors.amax(0).tolist() if len(coors) else [0] * 4
        batch_size, *shape = (size + 1 for size in last)
        if self.sparseconv_backend != 'spconv':
            # Their grids have no end, where a window of two cells would lose the last one.
            step = 2**self.num_stages
            shape = [-(-size // step) * step for size in shape]
        return SparseConvTensor(features, coors, shape, batch_size)

    def _encode(self, x: SparseConvTensor) -> tuple[SparseConvTensor, list[SparseConvTensor]]:
        """The coarsest voxels, and the finer ones from fine to coarse."""
        laterals = [self.conv_input(x)]
        for encoder in self.encoder:
            laterals.append(encoder(laterals[-1]))
        return laterals.pop(), laterals

    @staticmethod
    def _decode(
        decoder: nn.ModuleList, x: SparseConvTensor, lateral: SparseConvTensor
    ) -> SparseConvTensor:
        x = decoder[0](x)
        return decoder[1](replace_feature(x, torch.cat([x.features, lateral.features], 1)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Convert names and layouts of torchsparse's and MinkowskiEngine's weights."""
        if self.sparseconv_backend != 'spconv':
            layers = dict(self.named_modules())
            for key in [key for key in state_dict if key.startswith(prefix)]:
                name = key[len(prefix) :]
                for pattern, to in _NAMES:
                    name = re.sub(pattern, to, name)
                value = state_dict.pop(key)
                if key.endswith('.kernel'):
                    layer = layers.get(name[: -len('.weight')])
                    value = _from_kernel(value, layer, self.sparseconv_backend)
                state_dict[prefix + name] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _initialize(layer: SparseConvolution) -> None:
    """Draw the weight as torchsparse and MinkowskiEngine do."""
    inverse = isinstance(layer, SparseInverseConvolution)
    channels = layer.out_channels if inverse else layer.in_channels
    bound = (channels * layer.weight[..., 0, 0].numel()) ** -0.5
    nn.init.uniform_(layer.weight, -bound, bound)


def _from_kernel(kernel: Tensor, layer: Optional[nn.Module], backend: str) -> Tensor:
    """A kernel [points, in, out] as the weight [x, y, z, in, out] of a layer.

    Both libraries let x run fastest over the points; only torchsparse, where their number is even, lets z.
    """
    if not isinstance(layer, SparseConvolution):  # the loading tells that nothing has this name
        return kernel
    sizes, channels = layer.kernel_size, kernel.shape[-2:]
    if kernel.numel() != layer.weight.numel():
        return kernel
    if backend == 'torchsparse' and layer.weight[..., 0, 0].numel() % 2 == 0:
        return kernel.reshape(*sizes, *channels)
    return kernel.reshape(*reversed(sizes), *channels).permute(2, 1, 0, 3, 4)


class InterpolateFunction(Function):
    """Sums of a few rows for each point, each row times a weight, with no tensor of all these rows.

    features are float32, float16 or bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """[M, C] to [N, C]; rows int64 and weights float32 [N, taps]. Sums are in float32."""
        ctx.save_for_backward(rows, weights)
        ctx.count, ctx.dtype = len(features), features.dtype
        out = torch.zeros(len(rows), features.shape[1], dtype=weights.dtype, device=rows.device)
        for row, weight in zip(rows.unbind(1), weights.unbind(1)):
            out += features[row] * weight[:, None]
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Each row gets the gradients of the points that took it, times its weights there."""
        rows, weights = ctx.saved_tensors
        out = torch.zeros(ctx.count, grad.shape[1], dtype=weights.dtype, device=grad.device)
        for row, weight in zip(rows.unbind(1), weights.unbind(1)):
            out.index_add_(0, row, grad * weight[:, None])
        return out.to(ctx.dtype), None, None


class Level:
    """How points meet the voxels of a coarser grid: interpolation there and averages back, as in SPVCNN.

    Args:
        points (Tensor): int32 [N, 4], batch index and cells of the points in the finest grid.
        voxels (SparseConvTensor): all voxels that a point is in, sorted, as a convolution with a stride leaves them.
        stride (int): cells of the finest grid in one of the voxels' grid, in each dimension.
    """

    def __init__(self, points: Tensor, voxels: SparseConvTensor, stride: int) -> None:
        cells = torch.div(points, stride, rounding_mode='floor')
        cells = torch.cat([points[:, :1], cells[:, 1:]], 1)
        _, *self._plan = torch.ops.mxd.dynamic_scatter_plan(cells)
        own = self._plan[0].long()
        corners = self._corners(voxels)[own]
        ahead = (points[:, 1:] - cells[:, 1:] * stride).float() / stride
        x, y, z = torch.stack([1 - ahead, ahead], 2).unbind(1)
        weights = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)
        weights = weights.masked_fill(corners < 0, 0)
        self._weights = weights / (weights.sum(1, keepdim=True) + 1e-8)
        self._rows = corners.clamp(min=0).long()

    @staticmethod
    def _corners(voxels: SparseConvTensor) -> Tensor:
        """For each voxel the rows of the 8 at it and ahead of it, z running fastest, -1 where there is none."""
        ones, indices = [1] * 3, voxels.indices
        rulebook = build_rulebook(
            *(indices, voxels.batch_size, voxels.spatial_shape),
            *([2] * 3, ones, [0] * 3, ones),
            subm=True,
        )
        here, there = rulebook.pairs.long().unbind(1)
        x, y, z = (indices[there, 1:] - indices[here, 1:]).unbind(1)
        table = torch.full((8 * len(indices),), -1, dtype=torch.int32, device=indices.device)
        table[here * 8 + (x * 4 + y * 2 + z)] = rulebook.pairs[:, 1]
        return table.view(-1, 8)

    def to_points(self, features: Tensor) -> Tensor:
        """Interpolate features [M, C] of the voxels between their corners: [N, C]."""
        return apply(InterpolateFunction, features, self._rows, self._weights)

    def to_voxels(self, features: Tensor) -> Tensor:
        """The means of the points' features [N, C] in each voxel: [M, C]."""
        return apply(DynamicScatterFunction, features, *self._plan, 'mean')


class SPVCNNBackbone(MinkUNetBackbone):
    """mmdet3d's `SPVCNNBackbone`: the same arguments, and torchsparse's weights.

    A voxel is a point of its own here, as it is there. So what goes from the finest voxels to points and back is left
    as it is.

    Args:
        base_channels, encoder_channels, decoder_channels, drop_ratio, sparseconv_backend, **kwargs: see mmdet3d.
    """

    def __init__(
        self,
        in_channels: int = 4,
        base_channels: int = 32,
        encoder_channels: Sequence[int] = (32, 64, 128, 256),
        decoder_channels: Sequence[int] = (256, 128, 96, 96),
        drop_ratio: float = 0.3,
        sparseconv_backend: str = 'torchsparse',
        **kwargs: Any,
    ) -> None:
        if sparseconv_backend != 'torchsparse':
            raise ValueError(
                f"sparseconv_backend must be 'torchsparse', was {sparseconv_backend!r}"
            )
        if len(encoder_channels) != 4 or kwargs.get('num_stages', 4) != 4:
            raise ValueError(f'SPVCNN has 4 stages, encoder_channels was {[*encoder_channels]}')
        super().__init__(
            in_channels=in_channels,
            base_channels=base_channels,
            encoder_channels=encoder_channels,
            decoder_channels=decoder_channels,
            **kwargs,
        )
        sizes = (base_channels, encoder_channels[-1], decoder_channels[1], decoder_channels[3])
        self.point_transforms = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(True))
            for a, b in zip(sizes, sizes[1:])
        )
        self.dropout = nn.Dropout(drop_ratio)

    def forward(self, voxel_features: Tensor, coors: Tensor) -> Tensor:
        """See `MinkUNetBackbone.forward`."""
        x, laterals = self._encode(self.sparse_tensor(voxel_features, coors))
        finest = laterals[0]
        points, cells = finest.features, finest.indices
        x, points = self._exchange(Level(cells, x, 16), x, points, 0)
        for number, decoder in enumerate(self.decoder):
            x = self._decode(decoder, x, laterals.pop())
            if number == 1:
                x, points = self._exchange(Level(cells, x, 4), x, points, 1)
        return x.features + self.point_transforms[2](points)

    def _exchange(
        self, level: Level, x: SparseConvTensor, points: Tensor, number: int
    ) -> tuple[SparseConvTensor, Tensor]:
        """The points take the voxels' features in, and the voxels take the points' means."""
        points = level.to_points(x.features) + self.point_transforms[number](points)
        return replace_feature(x, self.dropout(level.to_voxels(points))), points


class MinkUNetBackboneV2(MinkUNetBackbone):
    """mmdet3d's `MinkUNetBackboneV2`: MinkUNet with features of several levels, interpolated.

    Args:
        **kwargs: see `MinkUNetBackbone`.

    Raises:
        ValueError: another backend than torchsparse.
    """

    def __init__(self, sparseconv_backend: str = 'torchsparse', **kwargs: Any) -> None:
        if sparseconv_backend != 'torchsparse':
            raise ValueError(
                f"sparseconv_backend must be 'torchsparse', was {sparseconv_backend!r}"
            )
        super().__init__(sparseconv_backend=sparseconv_backend, **kwargs)

    def forward(self, voxel_features: Tensor, coors: Tensor) -> Tensor:
        """Features of the voxels.

        Args:
            voxel_features (Tensor): [N, in_channels].
            coors (Tensor): int32 [N, 4], x, y, z, batch index, each voxel once.

        Returns:
            Tensor: [N, channels], those of the coarsest voxels and of every second decoder side by side.
        """
        x, laterals = self._encode(self.sparse_tensor(voxel_features, coors))
        cells, stride = laterals[0].indices, 2**self.num_stages
        found = [Level(cells, x, stride).to_points(x.features)]
        for number, decoder in enumerate(self.decoder):
            x, stride = self._decode(decoder, x, laterals.pop()), stride // 2
            if number % 2 and stride > 1:
                found.append(Level(cells, x, stride).to_points(x.features))
            elif number % 2:
                found.append(x.features)
        return torch.cat(found, 1)
