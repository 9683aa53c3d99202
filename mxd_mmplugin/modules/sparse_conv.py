"""Sparse convolution layers for the sparse tensors and containers of mmcv, spconv and ours."""

import copy
import math
from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..ops import Rulebook, sparse_conv
from .sparse_layer import Sizes, SparseLayer, count, layer_class
from .sparse_tensor import SomeSparseTensor, SparseTensor, like, same_voxels

# By the names of spconv's enumeration; alpha is the slope below 0.
ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    'None_': lambda x, alpha: x,
    'ReLU': lambda x, alpha: x.relu(),
    'Sigmoid': lambda x, alpha: x.sigmoid(),
    'LeakyReLU': nn.functional.leaky_relu,
}


class SparseConvolution(SparseLayer):
    """Base of the sparse convolution layers; a class for each kind and `ndim` follows.

    It takes a `SparseConvTensor` of mmcv, spconv or ours (N voxels: features [N, in_channels], indices
    int32 [N, ndim + 1] of batch index and coordinates) and answers with ours, which passes for the others.

    Args:
        in_channels, out_channels (int): feature channels.
        kernel_size, stride, padding, dilation (int or Sequence[int]): one number, or one for each
            dimension in the order of `spatial_shape`. A kernel of one point is a matrix product on
            the input's own voxels and does not use stride and padding, as in mmcv.
        groups (int): as in `torch.nn.Conv3d`.
        bias (bool): whether to add a learned bias.
        indice_key (str, optional): layers with the same key share one rulebook.
        output_padding (int or Sequence[int]): of a transposed layer, as in
            `torch.nn.ConvTranspose3d`.
        mode (str): 'mmcv' or 'spconv': whose initialisation of the weight to use. The state_dict is
            mmcv's in both, weight [*kernel_size, in_channels / groups, out_channels]; spconv 2's,
            [out_channels, *kernel_size, in_channels], is converted when it is loaded.
        act_type (optional): an activation after the layer, by the name of spconv's enumeration: 'None_', 'ReLU',
            'Sigmoid' or 'LeakyReLU', or its member.
        act_alpha (float): slope of LeakyReLU below 0.
        act_beta (float): not used.
        **options: `algo`, `fp32_accum`, `large_kernel_fast_algo`, `record_voxel_count` and `name` of
            spconv, which choose among its CUDA kernels or serve its profiler: without effect here.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: Optional[str] = None,
        mode: str = 'mmcv',
        output_padding: Sizes = 0,
        act_type: object = None,
        act_alpha: float = 0.0,
        act_beta: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(
            kernel_size, stride, padding, dilation, output_padding, indice_key, options
        )
        self.act_type = str(getattr(act_type, 'name', act_type) or 'None_')
        self.act_alpha, self.act_beta = act_alpha, act_beta
        if self.act_type not in ACTIVATIONS:
            raise ValueError(f'act_type must be one of {", ".join(ACTIVATIONS)}, was {act_type!r}')
        self.in_channels = count('in_channels', in_channels)
        self.out_channels = count('out_channels', out_channels)
        self.groups = count('groups', groups)
        self.conv1x1 = math.prod(self.kernel_size) == 1
        self.mode = mode
        in_channels, out_channels, groups = self.in_channels, self.out_channels, self.groups
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f'groups must divide in_channels {in_channels} and out_channels {out_channels}, '
                f'was {groups}'
            )
        if mode not in ('mmcv', 'spconv'):
            raise ValueError(f"mode must be 'mmcv' or 'spconv', was {mode!r}")
        self.weight = nn.Parameter(
            torch.empty(*self.kernel_size, in_channels // groups, out_channels)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter('bias', None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight as mmcv or spconv 2 do, and the bias as both do."""
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        if self.mode == 'mmcv':
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        else:
            nn.init.uniform_(self.weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: SomeSparseTensor) -> SomeSparseTensor:
        """Convolve a sparse tensor.

        Args:
            x (SparseConvTensor): of mmcv, spconv or ours.

        Returns:
            SparseConvTensor: ours, or of x's class if that is a user's own, with out_channels channels and x's
                indice_dict.
        """
        self._check_input(x)
        activate = ACTIVATIONS[self.act_type]
        if self.conv1x1:
            features = activate(self._multiply(x.features), self.act_alpha)
            return like(x, features, x.indices, x.spatial_shape)
        rulebook = self._rulebook(x)
        features = sparse_conv(x.features, self.weight, self.bias, rulebook, self.groups)
        features = activate(features, self.act_alpha)
        return like(x, features, rulebook.out_indices, list(rulebook.out_shape))

    def _check_input(self, x: SparseTensor) -> None:
        if x.features.dim() != 2 or x.features.shape[1] != self.in_channels:
            raise ValueError(
                f'features must have shape [voxels, {self.in_channels}] (in_channels), '
                f'was {list(x.features.shape)}'
            )
        if x.features.shape[0] != x.indices.shape[0]:
            raise ValueError(
                f'indices must have a row for each of the {x.features.shape[0]} features, '
                f'was {list(x.indices.shape)}'
            )

    def _multiply(self, features: Tensor) -> Tensor:
        rows = features.reshape(features.shape[0], self.groups, self.in_channels // self.groups)
        weight = self.weight.reshape(rows.shape[2], self.groups, -1)
        out = torch.einsum('ngi,igo->ngo', rows, weight).flatten(1)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    @property
    def takes_norm(self) -> bool:
        """Whether a norm after this layer can become part of it: nothing comes between, and the weight is its own."""
        between = self.act_type != 'None_' or bool(self._forward_hooks)
        return not between and not is_parametrized(self)

    def with_norm(self, norm: nn.BatchNorm1d) -> 'SparseConvolution':
        """A layer that does what this one and a batch norm in eval mode do together.

        Raises:
            ValueError: the norm has no running statistics or other channels, or something comes between.
        """
        if not self.takes_norm:
            raise ValueError(
                'a norm can only be folded into a layer without act_type, forward hooks and parametrizations'
            )
        if norm.num_features != self.out_channels:
            raise ValueError(
                f'norm must have {self.out_channels} channels (out_channels), has {norm.num_features}'
            )
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                'norm must have track_running_stats, without it there is nothing to fold'
            )
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = 0 if norm.bias is None else norm.bias
        bias = 0 if self.bias is None else self.bias
        layer = copy.deepcopy(self)
        with torch.no_grad():
            layer.weight.mul_(scale)
            folded = (bias - norm.running_mean) * scale + shift
            layer.bias = nn.Parameter(folded.to(layer.weight.dtype))
        return layer.eval()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        weight = state_dict.get(prefix + 'weight')
        if weight is not None and weight.dim() == self.ndim + 2:
            spconv2 = weight.permute(*range(1, weight.dim()), 0)
            marked = local_metadata.get('version') == 2
            if spconv2.shape == self.weight.shape and (marked or weight.shape != self.weight.shape):
                state_dict[prefix + 'weight'] = spconv2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        """Arguments, for print(model)."""
        names = ['kernel_size', 'stride', 'padding', 'dilation', 'groups', 'indice_key']
        rest = ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
        return f'{self.in_channels}, {self.out_channels}, {rest}, bias={self.bias is not None}'


class SparseInverseConvolution(SparseConvolution):
    """Base of the inverse convolution layers: back to the voxels that an earlier layer came from.

    Args:
        in_channels, out_channels (int): feature channels.
        kernel_size (int or Sequence[int]): that of the earlier layer.
        indice_key (str): the earlier layer's.
        bias (bool): whether to add a learned bias.
        mode (str): 'mmcv' or 'spconv', see `SparseConvolution`.
        groups (int): as in `torch.nn.Conv3d`.
        stride, padding, dilation (int or Sequence[int], optional): mx_driving's signature has them; where they are
            given they must be those of the earlier layer.
        **options: see `SparseConvolution`.
    """

    inverse = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        indice_key: Optional[str] = None,
        bias: bool = True,
        mode: str = 'mmcv',
        groups: int = 1,
        stride: Optional[Sizes] = None,
        padding: Optional[Sizes] = None,
        dilation: Optional[Sizes] = None,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            1 if stride is None else stride,
            0 if padding is None else padding,
            1 if dilation is None else dilation,
            groups,
            bias,
            indice_key,
            mode,
            **options,
        )
        given = dict(stride=stride, padding=padding, dilation=dilation)
        self._given = [name for name, value in given.items() if value is not None]
        if indice_key is None:
            raise ValueError('indice_key must be that of the layer to invert, was None')

    def _rulebook(self, x: SparseTensor) -> Rulebook:
        rulebook = x.find_indice_pair(self.indice_key)
        if rulebook is None:
            raise ValueError(
                f'indice_key {self.indice_key!r} must be that of an earlier layer, '
                f'and these are there: {list(x.indice_dict)}'
            )
        key = self._check_ours(rulebook)
        for name in ('kernel_size', *self._given):
            made, mine = rulebook.geometry[name], getattr(self, name)
            if made != mine:
                raise ValueError(
                    f'{key} was made with {name} {made} and is inverted with {mine}: '
                    f'give both layers the same {name}'
                )
        out = rulebook.out_indices
        same = rulebook.is_to(x.indices)
        if not (same_voxels(x.indices, out) if same is None else same):
            raise ValueError(
                f'{key} leads to {len(out)} voxels and not to these {len(x.indices)}: '
                'invert it where they are the same'
            )
        return rulebook.inverse


SparseConv1d, SparseConv2d, SparseConv3d, SparseConv4d = (
    layer_class('SparseConv', ndim, SparseConvolution) for ndim in (1, 2, 3, 4)
)
SubMConv1d, SubMConv2d, SubMConv3d, SubMConv4d = (
    layer_class('SubMConv', ndim, SparseConvolution, subm=True) for ndim in (1, 2, 3, 4)
)
(
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
) = (
    layer_class('SparseConvTranspose', ndim, SparseConvolution, transposed=True)
    for ndim in (1, 2, 3, 4)
)
SparseInverseConv1d, SparseInverseConv2d, SparseInverseConv3d, SparseInverseConv4d = (
    layer_class('SparseInverseConv', ndim, SparseInverseConvolution) for ndim in (1, 2, 3, 4)
)
