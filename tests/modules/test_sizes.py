"""Numbers that become sizes, in every layer: whole floats and numpy's integers are taken, and nothing is cut off."""

import numpy as np
import pytest
import torch
from mmcv.ops import SparseConvTensor as MmcvSparseConvTensor

import mxd_mmplugin as mxd
from mxd_mmplugin import ops
from mxd_mmplugin.ops import fallback

NEARLY_15 = 0.3 / 0.1 * 5  # 14.999999999999998
NOT_WHOLE = [NEARLY_15, '3', None, float('nan'), float('inf'), 2.5]
KINDS = [np.int64, np.int32, float, np.float32, torch.tensor]
WINDOWS = ('SparseConv', 'SubMConv', 'SparseConvTranspose', 'SparseMaxPool')


def layer(kind, ndim, **options):
    """A layer of a kind, with the first arguments that it needs."""
    cls = getattr(mxd, f'{kind}{ndim}d')
    if 'Pool' in kind:
        return cls(options.pop('kernel_size', 3), **options)
    inverse = dict(indice_key='a') if 'Inverse' in kind else {}
    return cls(4, 4, options.pop('kernel_size', 3), **inverse, **options)


@pytest.mark.parametrize('ndim', [1, 2, 3, 4])
@pytest.mark.parametrize('kind', [*WINDOWS, 'SparseInverseConv'])
@pytest.mark.parametrize('name', ['kernel_size', 'stride', 'padding', 'dilation'])
def test_options_of_layers(kind, ndim, name):
    for number in KINDS:
        for value in (number(2), [number(2)] * ndim, (number(2),) * ndim):
            found = getattr(layer(kind, ndim, **{name: value}), name)
            assert found == (2,) * ndim and {type(x) for x in found} == {int}
    assert getattr(layer(kind, ndim, **{name: np.full(ndim, 3)}), name) == (3,) * ndim
    for value in NOT_WHOLE:
        if value is None and name != 'kernel_size':
            continue  # the default of some
        with pytest.raises(ValueError, match=f'{name} must be an integer'):
            layer(kind, ndim, **{name: value})


@pytest.mark.parametrize('kind', ['SparseConv3d', 'SubMConv3d', 'SparseConvTranspose3d'])
def test_channels(kind):
    cls = getattr(mxd, kind)
    for number in KINDS:
        conv = cls(number(4), number(6), 3, groups=number(2))
        assert conv.weight.shape == (3, 3, 3, 2, 6) and type(conv.in_channels) is int
    for value in NOT_WHOLE:
        with pytest.raises(ValueError, match='in_channels must be an integer'):
            cls(value, 4, 3)


@pytest.mark.parametrize('number', KINDS[:2])
@pytest.mark.parametrize('cls', [mxd.ModulatedDeformConv2dPack, mxd.DeformConv2dPack])
def test_deformable_convolutions(cls, number):
    conv = cls(number(4), number(6), number(3), stride=number(2), groups=number(2), bias=False)
    assert conv(torch.randn(1, 4, 9, 9)).shape == (1, 6, 4, 4)


@pytest.mark.parametrize('cls', [MmcvSparseConvTensor, mxd.SparseConvTensor])
@pytest.mark.parametrize('kind', WINDOWS)
def test_spatial_shape(cls, kind):
    indices = torch.tensor([[0, 8, 15, 14]]).int()
    args = torch.randn(1, 4), indices
    for shape in ([9, 16, 15.0], np.array([9, 16, 15]), [np.float64(9), np.int8(16), 15]):
        x = cls(*args, shape, np.int64(1))
        assert layer(kind, 3)(x).features.shape[1] == 4
    with pytest.raises(ValueError, match=r'spatial_shape must .*14\.999'):
        layer(kind, 3)(cls(*args, [9, 16, NEARLY_15], 1))
    with pytest.raises(ValueError, match=r'batch_size must .*1.5'):
        layer(kind, 3)(cls(*args, [9, 16, 15], 1.5))


def test_sizes_of_operators():
    indices, features = torch.zeros(1, 3).int(), torch.ones(1, 2)
    shape = [4, NEARLY_15]
    for call in (
        lambda: ops.sparse_union([indices], 1, shape),
        lambda: ops.sparse_to_dense(features, indices, 1, shape),
        lambda: ops.build_rulebook(indices, 1, shape, [3] * 2, [1] * 2, [0] * 2, [1] * 2),
    ):
        with pytest.raises(ValueError, match=r'spatial_shape must be a whole number, was 14\.999'):
            call()
    points = torch.rand(5, 4)
    area = [0.5] * 3, [0.0] * 3 + [4.0] * 3
    with pytest.raises(ValueError, match=r'max_points must be a whole number, was 2.5'):
        ops.hard_voxelize(points, *area, 2.5, 10)
    with pytest.raises(ValueError, match=r'max_num_voxels must be a whole number, was 2.5'):
        mxd.PointToVoxel(*area, 4, 2.5, 3)
    assert len(ops.hard_voxelize(points, *area, 5.0, np.int64(10)).coors) <= 5
    with pytest.raises(ValueError, match=r'H must be a whole number, was 2.5'):
        ops.bev_pool(points, torch.zeros(5, 4).int(), 1, 1, 2.5, 2)


RULEBOOKS = {'kernel': torch.ops.mxd.sparse_conv_rulebook, 'PyTorch': fallback.sparse_conv.rulebook}
LARGEST = 2**31 - 1


@pytest.mark.parametrize('backend', RULEBOOKS)
@pytest.mark.parametrize('dimension', [0, 1, 2])
@pytest.mark.parametrize(
    'change',
    [
        dict(kernel_size=4, stride=2, padding=2, transposed=True),
        dict(kernel_size=3, padding=1, output_padding=1, transposed=True),
        dict(kernel_size=3, dilation=2**30, padding=0, transposed=True),
        dict(stride=LARGEST, transposed=True),
        dict(kernel_size=1, padding=1),
        dict(kernel_size=1, padding=LARGEST),
        dict(kernel_size=2**14, dilation=LARGEST, padding=LARGEST, stride=LARGEST, transposed=True),
    ],
)
def test_an_output_that_int32_cannot_number_is_refused(backend, dimension, change):
    names = 'kernel_size', 'stride', 'padding', 'dilation', 'output_padding'
    options = {name: [0, 0, 0] if 'padding' in name else [1, 1, 1] for name in names}
    for name, value in change.items():
        if name in options:
            options[name][dimension] = value
    shape = [7, 7, 7]
    shape[dimension] = LARGEST
    args = torch.zeros(1, 4).int(), 1, shape, *options.values()
    with pytest.raises(ValueError, match=r'2\*\*31 - 1|must leave an output'):
        RULEBOOKS[backend](*args, False, change.get('transposed', False))


@pytest.mark.parametrize('backend', RULEBOOKS)
@pytest.mark.parametrize('name', range(2, 8))
def test_a_size_that_int32_cannot_hold_is_refused(backend, name):
    args = [torch.zeros(1, 2).int(), 1, [9], [1], [1], [0], [1], [0]]
    args[name] = [2**31]
    with pytest.raises(ValueError, match=r'2\*\*31 - 1|at most 32768 points'):
        RULEBOOKS[backend](*args, False, True)


@pytest.mark.parametrize('backend', RULEBOOKS)
def test_the_largest_grid_works(backend):
    """The last cell of the largest grid is reached, and the coordinates are right."""
    indices = torch.tensor([[0, LARGEST - 1], [0, 0]]).int()
    args = indices, 1, [LARGEST], [3], [1], [1], [1], [0], False, False
    out, pairs, _ = RULEBOOKS[backend](*args)
    assert sorted(out[:, 1].tolist()) == [0, 1, LARGEST - 2, LARGEST - 1] and len(pairs) == 4
    with pytest.raises(ValueError, match='at most 32768 points'):
        RULEBOOKS[backend](indices, 1, [LARGEST], [2**15 + 1], *args[4:])


def test_layers_refuse_outputs_that_are_too_large():
    x = mxd.SparseConvTensor(torch.ones(1, 4), torch.zeros(1, 4).int(), [LARGEST, 100, 100], 1)
    with pytest.raises(ValueError, match=r'must have at most 2\*\*31 - 1 cells.*has 4294967292'):
        mxd.SparseConvTranspose3d(4, 4, 4, 2, 2)(x)
    assert mxd.SparseConv3d(4, 4, 3, 1, 1)(x).spatial_shape == [LARGEST, 100, 100]


@pytest.mark.parametrize(
    'dtype', [torch.int64, torch.int16, torch.uint8, torch.float32, torch.bool]
)
def test_other_dtypes_of_indices_tell_how_to_convert(dtype):
    indices, features = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4)
    whole = dtype in (torch.int64, torch.int16, torch.uint8)
    for call in (
        lambda: mxd.SparseConvTensor(features, indices, [9, 9, 9], 1),
        lambda: mxd.SubMConv3d(4, 4, 3)(MmcvSparseConvTensor(features, indices, [9, 9, 9], 1)),
        lambda: ops.sparse_to_dense(features, indices, 1, [9, 9, 9]),
        lambda: ops.sparse_union([indices], 1, [9, 9, 9]),
    ):
        with pytest.raises(TypeError, match=r'indices must be .*int32') as error:
            call()
        assert ('.int()' in str(error.value)) == whole


def test_points_may_be_an_array_of_numpy():
    points = torch.rand(40, 4) * 4
    make = mxd.PointToVoxel(np.full(3, 0.5), np.array([0, 0, 0, 4, 4, 4.0]), 4, 20, np.int64(3))
    for kind in (points.numpy(), points.numpy()[::-1][::-1]):
        for ours, theirs in zip(
            make.generate_voxel_with_id(kind), make.generate_voxel_with_id(points)
        ):
            assert torch.equal(ours, theirs)
    double = make(points.numpy().astype(np.float64))
    assert torch.equal(double[1], make(points)[1])
