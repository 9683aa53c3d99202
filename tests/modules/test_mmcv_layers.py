"""mmcv's own sparse layers, imported by name, on our operators; against dense convolution and pooling."""

import mmcv.ops
import mmcv.ops.sparse_conv
import pytest
import torch
import torch.nn.functional as F

import mxd_mmplugin
from tests.ops.sparse_reference import convolve, gather, scatter

BATCH, SHAPE = 2, [6, 9, 7]
OUT = [(6 + 2 - 3) // 2 + 1, (9 + 2 - 3) // 2 + 1, (7 + 2 - 3) // 2 + 1]
WINDOW = dict(padding=[1, 1, 1], dilation=[1, 1, 1], output_padding=[0, 0, 0], transposed=False)


def voxels(count=60, channels=5, shape=SHAPE):
    cells = torch.randperm(BATCH * int(torch.tensor(shape).prod()))[:count]
    columns = []
    for size in reversed(shape):
        columns.insert(0, cells % size)
        cells = cells // size
    indices = torch.stack([cells, *columns], 1).int()
    return torch.randn(count, channels, requires_grad=True), indices


def tensor(features, indices, shape=SHAPE):
    return mmcv.ops.SparseConvTensor(features, indices, shape, BATCH)


def assert_same(out, expected, *inputs):
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(out.sin().sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad(expected.sin().sum(), inputs, retain_graph=True)
    for mine, theirs in zip(found, wanted):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def dense(layer, features, indices, **window):
    grid = scatter(features, indices, BATCH, SHAPE)
    return convolve(grid, layer.weight, layer.bias, 1, **{**WINDOW, **window})


@pytest.mark.parametrize('kernel', [(3, 3, 3), (1, 3, 3), (2, 2, 2)])
def test_submanifold(kernel):
    features, indices = voxels()
    layer = mmcv.ops.SubMConv3d(5, 4, kernel, padding=1, indice_key='a')
    out = layer(tensor(features, indices))
    assert type(out) is mmcv.ops.SparseConvTensor and out.indices is indices
    window = dict(kernel_size=kernel, stride=[1, 1, 1], subm=True)
    expected = gather(dense(layer, features, indices, **window), indices)
    assert_same(out.features, expected, features, layer.weight, layer.bias)


@pytest.mark.parametrize('count', [60, 700])
def test_there_and_back(count):
    """A convolution with a stride and its inverse, in one tile of outputs and in several."""
    features, indices = voxels(count)
    down = mmcv.ops.SparseConv3d(5, 4, 3, stride=2, padding=1, bias=False, indice_key='a')
    up = mmcv.ops.SparseInverseConv3d(4, 3, 3, indice_key='a', bias=False)
    middle = down(tensor(features, indices))
    assert list(middle.spatial_shape) == OUT
    window = dict(kernel_size=[3, 3, 3], stride=[2, 2, 2], subm=False)
    grid = dense(down, features, indices, **window)
    assert_same(middle.features, gather(grid, middle.indices), features, down.weight)

    out = up(middle)
    assert out.indices is indices and list(out.spatial_shape) == SHAPE
    # Back: each input gathers from the outputs of its windows, which a transposed convolution does.
    lifted = scatter(middle.features, middle.indices, BATCH, OUT)
    weight = up.weight.movedim(-2, 0).movedim(-1, 1)
    extra = [n - ((m - 1) * 2 - 2 + 3) for n, m in zip(SHAPE, OUT)]
    full = F.conv_transpose3d(lifted, weight, None, 2, 1, extra)
    assert_same(out.features, gather(full, indices), features, down.weight, up.weight)


def test_a_key_is_shared_by_kernels_of_other_shapes():
    """As Cylinder3D does: whoever comes second takes the first one's pairs, with its own weights."""
    features, indices = voxels()
    first = mmcv.ops.SubMConv3d(5, 5, (1, 3, 3), bias=False, indice_key='a')
    second = mmcv.ops.SubMConv3d(5, 5, (3, 1, 3), bias=False, indice_key='a')
    out = second(first(tensor(features, indices)))
    twin = mmcv.ops.SubMConv3d(5, 5, (1, 3, 3), bias=False)
    twin.weight.data = second.weight.data.view_as(twin.weight)
    expected = twin(first(tensor(features, indices)))
    assert torch.equal(out.features, expected.features)


def test_a_key_is_shared_by_a_kernel_with_more_points():
    """As Cylinder3D does too: in mmcv's CUDA code the first points of its weight are used, the others are not."""
    features, indices = voxels()
    first = mmcv.ops.SubMConv3d(5, 5, (1, 3, 3), bias=False, indice_key='a')
    second = mmcv.ops.SubMConv3d(5, 4, 3, bias=False, indice_key='a')
    out = second(first(tensor(features, indices))).features
    twin = mmcv.ops.SubMConv3d(5, 4, (1, 3, 3), bias=False)
    twin.weight.data = second.weight.data.flatten(0, 2)[:9].view_as(twin.weight)
    expected = twin(first(tensor(features, indices))).features
    assert torch.equal(out, expected)
    (found,) = torch.autograd.grad(out.sin().sum(), second.weight)
    (wanted,) = torch.autograd.grad(expected.sin().sum(), twin.weight)
    assert torch.equal(found.flatten(0, 2)[:9], wanted.flatten(0, 2))
    assert not found.flatten(0, 2)[9:].any()


@pytest.mark.parametrize('count', [60, 700])
def test_max_pooling(count):
    features, indices = voxels(count)
    out = mmcv.ops.SparseMaxPool3d(3, 2, 1)(tensor(features, indices))
    grid = scatter(features, indices, BATCH, SHAPE)
    empty = scatter(torch.ones(count, 1), indices, BATCH, SHAPE) == 0
    expected = F.max_pool3d(grid.masked_fill(empty, -torch.inf), 3, 2, 1)
    assert_same(out.features, gather(expected, out.indices), features)


@pytest.mark.parametrize('ndim', [2, 4])
def test_other_dimensions(ndim):
    shape = [5, 6, 4, 3][:ndim]
    features, indices = voxels(30, 3, shape)
    layer = getattr(mmcv.ops.sparse_conv, f'SubMConv{ndim}d')(3, 4, 3, bias=False)
    mine = getattr(mxd_mmplugin, f'SubMConv{ndim}d')(3, 4, 3, bias=False)
    mine.load_state_dict(layer.state_dict())
    x = tensor(features, indices, shape)
    assert torch.equal(layer(x).features, mine(tensor(features, indices, shape)).features)


def test_no_voxel():
    features, indices = voxels(0)
    down = mmcv.ops.SparseConv3d(5, 4, 3, stride=2, padding=1, indice_key='a')
    up = mmcv.ops.SparseInverseConv3d(4, 3, 3, indice_key='a')
    out = up(down(tensor(features, indices)))
    assert out.features.shape == (0, 3)
    out.features.sum().backward()
    assert down.weight.grad.abs().sum() == 0
    assert mmcv.ops.SparseMaxPool3d(3, 2)(tensor(features, indices)).features.shape == (0, 5)


def test_autocast():
    features, indices = voxels()
    layer = mmcv.ops.SubMConv3d(5, 4, 3, indice_key='a')
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(tensor(features, indices)).features
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == features.grad.dtype == torch.float32
    plain = layer(tensor(features, indices)).features
    torch.testing.assert_close(out.float(), plain, rtol=0.05, atol=0.05)


def test_a_grid_that_mmcv_counts_otherwise_is_refused():
    layer = mmcv.ops.SparseConvTranspose3d(5, 4, 3, dilation=2)
    with pytest.raises(ValueError, match='use the layer of a registry'):
        layer(tensor(*voxels()))


def test_a_layer_of_ours_refuses_the_key_of_one_of_mmcvs():
    features, indices = voxels()
    x = mmcv.ops.SubMConv3d(5, 5, 3, indice_key='a')(tensor(features, indices))
    with pytest.raises(ValueError, match='of another package'):
        mxd_mmplugin.SubMConv3d(5, 5, 3, indice_key='a')(x)
