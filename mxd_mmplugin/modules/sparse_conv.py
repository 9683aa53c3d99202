"""Sparse convolution layers for mmcv's and spconv's sparse tensors and containers."""

import importlib.util
import math

import torch
from mmcv.ops.sparse_modules import SparseModule as MmcvSparseModule
from torch import Tensor, nn

from ..ops import Rulebook, build_rulebook, sparse_conv

# A SparseSequential hands sparse tensors only to modules of its own package's class: be one of each.
if importlib.util.find_spec('spconv'):
    from spconv.pytorch import SparseModule as SpconvSparseModule

    class _SparseModule(MmcvSparseModule, SpconvSparseModule):
        pass
else:
    _SparseModule = MmcvSparseModule

# What the sparse tensors of mmcv and spconv carry besides features, indices, spatial_shape and batch_size.
_CARRIED = (
    'indice_dict',
    'grid',
    'voxel_num',
    'benchmark',
    'benchmark_record',
    'thrust_allocator',
    '_timer',
    'force_algo',
    'int8_scale',
)


def _numbers(name: str, value, ndim: int, least: int) -> tuple:
    """`value` as `ndim` integers, each at least `least`."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * ndim
    if len(values) != ndim or any(not isinstance(v, int) or v < least for v in values):
        raise ValueError(
            f'{name} must be an integer of at least {least} or {ndim} of them, was {value!r}'
        )
    return values


def _count(name: str, value) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer of at least 1, was {value!r}')
    return value


class SparseConvolution(_SparseModule):
    """Base of the sparse convolution layers; a class for each kind and `ndim` follows.

    It takes a `SparseConvTensor` of mmcv or spconv (N voxels: features [N, in_channels], indices
    int32 [N, ndim + 1] of batch index and coordinates) and answers with one of the same class.

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
    """

    ndim: int
    subm = False  # submanifold: voxels stay, stride and padding are not used
    transposed = False
    _version = 1  # mmdet3d marks spconv 2's layout as version 2

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        indice_key=None,
        mode='mmcv',
        output_padding=0,
    ):
        super().__init__()
        self.in_channels = _count('in_channels', in_channels)
        self.out_channels = _count('out_channels', out_channels)
        self.kernel_size = _numbers('kernel_size', kernel_size, self.ndim, 1)
        self.stride = _numbers('stride', stride, self.ndim, 1)
        self.padding = _numbers('padding', padding, self.ndim, 0)
        self.dilation = _numbers('dilation', dilation, self.ndim, 1)
        self.output_padding = _numbers('output_padding', output_padding, self.ndim, 0)
        self.groups = _count('groups', groups)
        self.conv1x1 = math.prod(self.kernel_size) == 1
        self.indice_key = indice_key
        self.mode = mode
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

    def forward(self, x):
        """Convolve a sparse tensor.

        Args:
            x (SparseConvTensor): of mmcv or spconv.

        Returns:
            SparseConvTensor: of x's class, with out_channels channels and x's indice_dict.
        """
        self._check_input(x)
        if self.conv1x1:
            return self._like(x, self._multiply(x.features), x.indices, x.spatial_shape)
        rulebook = self._rulebook(x)
        features = sparse_conv(x.features, self.weight, self.bias, rulebook, self.groups)
        return self._like(x, features, rulebook.out_indices, list(rulebook.out_shape))

    def _check_input(self, x) -> None:
        if x.features.dim() != 2 or x.features.shape[1] != self.in_channels:
            raise ValueError(
                f'features must have shape [voxels, {self.in_channels}] (in_channels), '
                f'was {list(x.features.shape)}'
            )
        if len(x.features) != len(x.indices):
            raise ValueError(
                f'indices must have a row for each of the {len(x.features)} features, '
                f'was {list(x.indices.shape)}'
            )

    def _multiply(self, features: Tensor) -> Tensor:
        rows = features.reshape(len(features), self.groups, -1)
        weight = self.weight.reshape(self.in_channels // self.groups, self.groups, -1)
        out = torch.einsum('ngi,igo->ngo', rows, weight).flatten(1)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _rulebook(self, x) -> Rulebook:
        geometry = dict(
            batch_size=int(x.batch_size),
            spatial_shape=tuple(int(size) for size in x.spatial_shape),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            output_padding=self.output_padding,
            subm=self.subm,
            transposed=self.transposed,
        )
        rulebook = x.find_indice_pair(self.indice_key)
        if rulebook is not None:
            self._check_shared(rulebook, geometry, x.indices)
            return rulebook
        rulebook = build_rulebook(x.indices, **geometry)
        if self.indice_key is not None:
            x.indice_dict[self.indice_key] = rulebook
        return rulebook

    def _check_ours(self, rulebook) -> str:
        key = f'indice_key {self.indice_key!r}'
        if not isinstance(rulebook, Rulebook):
            raise ValueError(
                f'{key} holds what a layer of another package made ({type(rulebook).__name__}); '
                'let all layers that share a key be of one package'
            )
        return key

    def _check_shared(self, rulebook, geometry: dict, indices: Tensor) -> None:
        key = self._check_ours(rulebook)
        unused = ('stride', 'padding', 'output_padding') if self.subm else ()
        for name in (name for name in geometry if name not in unused):
            if rulebook.geometry[name] != geometry[name]:
                raise ValueError(
                    f'{key} was made with {name} {rulebook.geometry[name]} and is reused with '
                    f'{geometry[name]}: give the layers different keys'
                )
        if indices is not rulebook.indices and not torch.equal(indices, rulebook.indices):
            raise ValueError(
                f'{key} was made for other voxels ({len(rulebook.indices)}, now {len(indices)}): '
                'give the layers different keys'
            )

    def _like(self, x, features: Tensor, indices: Tensor, spatial_shape):
        out = type(x)(features, indices, spatial_shape, x.batch_size)
        for name in _CARRIED:
            if hasattr(x, name):
                setattr(out, name, getattr(x, name))
        return out

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        weight = state_dict.get(prefix + 'weight')
        if weight is not None and weight.dim() == self.ndim + 2:
            spconv2 = weight.permute(*range(1, weight.dim()), 0)
            marked = local_metadata.get('version') == 2
            if spconv2.shape == self.weight.shape and (marked or weight.shape != self.weight.shape):
                state_dict[prefix + 'weight'] = spconv2
        # Not spconv's own loader, which mmdet3d replaces by one that permutes every weight.
        nn.Module._load_from_state_dict(self, state_dict, prefix, local_metadata, *args)

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
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, indice_key=None, bias=True, mode='mmcv'
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key, mode=mode
        )
        if indice_key is None:
            raise ValueError('indice_key must be that of the layer to invert, was None')

    def _rulebook(self, x) -> Rulebook:
        rulebook = x.find_indice_pair(self.indice_key)
        if rulebook is None:
            raise ValueError(
                f'indice_key {self.indice_key!r} must be that of an earlier layer, '
                f'and these are there: {list(x.indice_dict)}'
            )
        key = self._check_ours(rulebook)
        if rulebook.geometry['kernel_size'] != self.kernel_size:
            raise ValueError(
                f'{key} was made with kernel_size {rulebook.geometry["kernel_size"]} and is inverted '
                f'with {self.kernel_size}: give both layers the same kernel_size'
            )
        out = rulebook.out_indices
        if x.indices is not out and not torch.equal(x.indices, out):
            raise ValueError(
                f'{key} leads to {len(out)} voxels and not to these {len(x.indices)}: '
                'invert it where they are the same'
            )
        return rulebook.inverse


def _class(kind: str, ndim: int, base: type, **attributes) -> type:
    name = f'{kind}{ndim}d'
    doc = f'`{base.__name__}` of a {ndim}-D grid; the arguments are told there.'
    return type(name, (base,), dict(attributes, ndim=ndim, __doc__=doc, __module__=__name__))


SparseConv1d, SparseConv2d, SparseConv3d, SparseConv4d = (
    _class('SparseConv', ndim, SparseConvolution) for ndim in (1, 2, 3, 4)
)
SubMConv1d, SubMConv2d, SubMConv3d, SubMConv4d = (
    _class('SubMConv', ndim, SparseConvolution, subm=True) for ndim in (1, 2, 3, 4)
)
SparseConvTranspose1d, SparseConvTranspose2d, SparseConvTranspose3d = (
    _class('SparseConvTranspose', ndim, SparseConvolution, transposed=True) for ndim in (1, 2, 3)
)
SparseInverseConv1d, SparseInverseConv2d, SparseInverseConv3d = (
    _class('SparseInverseConv', ndim, SparseInverseConvolution) for ndim in (1, 2, 3)
)
