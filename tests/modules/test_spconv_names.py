"""Code written for spconv 2 and for mx_driving, with only the import changed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mxd_mmplugin
import mxd_mmplugin.spconv as spconv
from mxd_mmplugin import fused, ops
from mxd_mmplugin.spconv import functional as Fsp
from tests.ops.sparse_problems import coordinates


def voxels(count, channels, shape, batch_size):
    cells = torch.randperm(batch_size * torch.tensor(shape).prod())[:count]
    coors = coordinates(cells, [batch_size, *shape]).long()
    return torch.randn(count, channels), coors


class Encoder(nn.Module):
    """spconv's guide: layers of each kind, then a dense one (with BatchNorm3d, where the guide has 1d)."""

    def __init__(self, shape):
        super().__init__()
        self.net = spconv.SparseSequential(
            spconv.SparseConv3d(32, 64, 3),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            spconv.SubMConv3d(64, 64, 3, indice_key='subm0'),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            spconv.SubMConv3d(64, 64, 3, indice_key='subm0'),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            spconv.SparseConvTranspose3d(64, 64, 3, 2),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            spconv.ToDense(),
            nn.Conv3d(64, 64, 3),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )
        self.shape = shape

    def forward(self, features, coors, batch_size):
        x = spconv.SparseConvTensor(features, coors.int(), self.shape, batch_size)
        return self.net(x)


def test_encoder():
    net = Encoder([6, 6, 6])
    out = net(*voxels(40, 32, [6, 6, 6], 2), 2)
    assert out.shape == (2, 64, 7, 7, 7)
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_inverse_convolution():
    net = spconv.SparseSequential(
        spconv.SparseConv3d(32, 64, 3, 2, indice_key='cp0'),
        spconv.SparseInverseConv3d(64, 32, 3, indice_key='cp0'),
    )
    features, coors = voxels(40, 32, [7, 7, 7], 2)
    out = net(spconv.SparseConvTensor(features, coors.int(), [7, 7, 7], 2))
    assert torch.equal(out.indices, coors.int()) and out.features.shape == (40, 32)


def test_two_encoders_are_inverted_from_the_inside_out():
    features, coors = voxels(40, 8, [9, 9, 9], 1)
    x = spconv.SparseConvTensor(features, coors.int(), [9, 9, 9], 1)
    algo = spconv.ConvAlgo.Native
    encoder = spconv.SparseConv3d(8, 8, kernel_size=3, stride=2, indice_key='cp1', algo=algo)
    inner = spconv.SparseConv3d(8, 8, kernel_size=3, stride=1, indice_key='cp2', algo=algo)
    back = spconv.SparseInverseConv3d(8, 8, kernel_size=3, indice_key='cp2', algo=algo)
    decoder = spconv.SparseInverseConv3d(8, 8, kernel_size=3, indice_key='cp1', algo=algo)
    encoded = inner(encoder(x))
    with pytest.raises(ValueError, match="indice_key 'cp1' leads to"):
        decoder(encoded)
    assert torch.equal(decoder(back(encoded)).indices, x.indices)


def test_sum_of_kernels_of_different_reach():
    features, coors = voxels(40, 8, [9, 9], 1)
    x = spconv.SparseConvTensor(features, coors.int(), [9, 9], 1)
    flat = spconv.SparseConv2d(8, 8, (1, 3), padding=(0, 1))(x)
    tall = spconv.SparseConv2d(8, 8, (3, 1), padding=(1, 0))(x)
    full = spconv.SparseConv2d(8, 8, 3, padding=1, indice_key='full')(x)
    out = Fsp.sparse_add(flat, tall, full)
    assert torch.equal(out.indices, full.indices)
    torch.testing.assert_close(out.dense(), flat.dense() + tall.dense() + full.dense())
    assert spconv.SparseInverseConv2d(8, 8, 3, 'full')(out).indices is x.indices
    assert torch.equal(Fsp.sparse_add_hash_based(flat, tall).dense(), (flat.dense() + tall.dense()))


class Digits(nn.Module):
    """spconv's MNIST example."""

    def __init__(self):
        super().__init__()
        self.net = spconv.SparseSequential(
            nn.BatchNorm1d(1),
            spconv.SubMConv2d(1, 32, 3, 1),
            nn.ReLU(),
            spconv.SubMConv2d(32, 64, 3, 1),
            nn.ReLU(),
            spconv.SparseMaxPool2d(2, 2),
            spconv.ToDense(),
        )
        self.fc = nn.Linear(14 * 14 * 64, 10)

    def forward(self, x):
        x = spconv.SparseConvTensor.from_dense(x.reshape(-1, 28, 28, 1))
        return F.log_softmax(self.fc(torch.flatten(self.net(x), 1)), dim=1)


def test_digits_learns():
    net, labels = Digits(), torch.arange(8)
    images = torch.rand(8, 28, 28, 1) * (torch.rand(8, 28, 28, 1) < 0.2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        loss = F.nll_loss(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize('name', ['SparseMaxPool1d', 'SparseMaxPool2d', 'SparseMaxPool3d'])
def test_a_pool_of_spconv_moves_by_its_kernel(name):
    assert getattr(spconv, name)(3).stride == getattr(spconv, name)(3, None).stride
    assert getattr(spconv, name)(3).stride[0] == 3 and getattr(mxd_mmplugin, name)(3).stride[0] == 1
    assert getattr(spconv, name)(3, 2, indice_key='a').stride[0] == 2
    assert isinstance(getattr(spconv, name)(3), getattr(mxd_mmplugin, name))


def test_arguments_that_mean_nothing_here():
    options = dict(fp32_accum=True, large_kernel_fast_algo=True, name='stem')
    algo = spconv.ConvAlgo.MaskImplicitGemm
    for layer in (
        spconv.SubMConv3d(4, 4, 3, algo=algo, **options),
        spconv.SparseConv3d(4, 4, 3, algo=algo, record_voxel_count=True, **options),
        spconv.SparseInverseConv3d(4, 4, 3, 'a', algo=algo, **options),
        spconv.SparseMaxPool3d(2, algo=algo, record_voxel_count=True, name='pool'),
    ):
        assert isinstance(layer, spconv.SparseModule)
    with pytest.raises(TypeError, match="SubMConv3d got an unexpected keyword argument 'padd'"):
        spconv.SubMConv3d(4, 4, 3, padd=1)


def test_names():
    for name in spconv.__all__:
        own = name in ('Activation', 'ConvAlgo', 'functional', 'utils')
        own |= name.startswith(('SparseMaxPool', 'SparseInverseConv'))
        if not own:
            assert getattr(spconv, name) is getattr(mxd_mmplugin, name)
    assert {'SparseConv3d', 'SubMConv3d', 'SparseInverseConv3d', 'SparseConvolution'} <= set(
        spconv.__all__
    )
    assert spconv.utils.PointToVoxel is mxd_mmplugin.PointToVoxel
    assert 'DeformConv2d' not in spconv.__all__
    assert {'SparseConvTensor', 'SparseModule', 'SparseSequential'} <= set(spconv.__all__)
    for name in fused.__all__:
        assert getattr(fused, name) is getattr(ops, name)


def generate_indices(batch, height, width, depth, count):
    """As mx_driving's pages make them: rows of batch, height, width, depth in ascending order."""
    cells = np.sort(np.random.permutation(batch * height * width * depth)[:count])
    parts = np.unravel_index(cells, (batch, height, width, depth))
    return torch.from_numpy(np.stack(parts)).int().transpose(0, 1).contiguous()


@pytest.mark.parametrize('name', ['SparseConv3d', 'SubMConv3d'])
def test_pages_of_mx_driving(name):
    batch, shape, count = 4, [9, 9, 9], 20
    feature = torch.rand(count, 16, requires_grad=True)
    x = mxd_mmplugin.SparseConvTensor(feature, generate_indices(batch, *shape, count), shape, batch)
    net = getattr(mxd_mmplugin, name)(in_channels=16, out_channels=32, kernel_size=3)
    out = net(x)
    out.features.backward(torch.ones_like(out.features))
    assert out.features.shape == (len(out.indices), 32) and feature.grad.abs().sum() > 0


def test_page_of_mx_driving_for_the_inverse():
    # Its page asks for 1529 voxels a sample of a grid of 729 cells; 300 fit.
    shape, channels, batch_size, count = [9, 9, 9], (24, 32), 4, 300
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in shape]), -1).reshape(-1, 3)
    rows = []
    for sample in range(batch_size):
        chosen = np.random.permutation(grid)[:count]
        rows.append(np.pad(chosen, ((0, 0), (0, 1)), constant_values=sample))
    coors = torch.from_numpy(np.concatenate(rows)[:, [3, 0, 1, 2]]).int()
    voxel_features = torch.rand(len(coors), channels[0])
    down = mxd_mmplugin.SparseConv3d(
        in_channels=channels[0], out_channels=channels[1], kernel_size=3, stride=2, indice_key='t'
    )
    up = mxd_mmplugin.SparseInverseConv3d(
        in_channels=channels[1], out_channels=channels[0], kernel_size=3, stride=2, indice_key='t'
    )
    x = mxd_mmplugin.SparseConvTensor(voxel_features, coors, shape, batch_size)
    out = up(down(x))
    assert out.features.shape == voxel_features.shape and torch.equal(out.indices, coors)
    other = mxd_mmplugin.SparseInverseConv3d(32, 24, 3, indice_key='t', stride=1)
    with pytest.raises(ValueError, match=r'made with stride \(2, 2, 2\) and is inverted with \(1,'):
        other(down(mxd_mmplugin.SparseConvTensor(voxel_features, coors, shape, batch_size)))


@pytest.mark.parametrize('ndim', [1, 2, 3])
@pytest.mark.parametrize(
    'options', [dict(), dict(stride=1, padding=1), dict(dilation=2), dict(subm=True)]
)
def test_average_pools_count_what_is_there(ndim, options):
    shape, conv = [9] * ndim, (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    features, coors = voxels(6**ndim // 2 + 2, 4, shape, 1) if ndim > 1 else voxels(5, 4, shape, 1)
    features = features.double().requires_grad_()
    x = spconv.SparseConvTensor(features, coors.int(), shape, 1)
    pool = getattr(spconv, f'SparseAvgPool{ndim}d')(3, **options)
    out = pool(x)
    assert pool.stride == (options.get('stride', 3),) * ndim
    window = dict(stride=options.get('stride', 3), padding=options.get('padding', 0))
    window = dict(stride=1, padding=1) if options.get('subm') else window
    window['dilation'] = options.get('dilation', 1)
    ones = torch.ones(4, 1, *[3] * ndim, dtype=torch.float64)
    there = spconv.SparseConvTensor(torch.ones_like(features), coors.int(), shape, 1).dense()
    total, count = (conv(dense, ones, groups=4, **window) for dense in (x.dense(), there))
    mean = total / count.clamp(min=1)
    if options.get('subm'):
        mean = mean * there
    torch.testing.assert_close(out.dense(), mean)
    assert torch.autograd.gradcheck(lambda f: pool(x.replace_feature(f)).features, features)
    half = pool(x.replace_feature(features.detach().half())).features
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), out.features, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize('kind', ['Max', 'Avg'])
def test_global_pools(kind):
    features, coors = voxels(30, 4, [5, 5, 5], 3)
    coors[:, 0] = torch.arange(30) % 2  # nothing in sample 2
    features = features.double().requires_grad_()
    x = spconv.SparseConvTensor(features, coors.int(), [5, 5, 5], 3)
    pool = getattr(spconv, f'SparseGlobal{kind}Pool')()
    out = pool(x)
    for sample in (0, 1):
        mine = features[coors[:, 0] == sample]
        torch.testing.assert_close(out[sample], mine.amax(0) if kind == 'Max' else mine.mean(0))
    assert out.shape == (3, 4) and not out[2].any()
    assert torch.autograd.gradcheck(lambda f: pool(x.replace_feature(f)), features)
    empty = spconv.SparseConvTensor(features[:0], coors[:0].int(), [5, 5, 5], 2)
    assert not pool(empty).any() and pool(empty).shape == (2, 4)


def test_tables():
    features, coors = voxels(20, 4, [5, 5, 5], 1)
    x = spconv.SparseConvTensor(features, coors.int(), [5, 5, 5], 1)
    net = spconv.SparseSequential(
        spconv.ConcatTable()
        .add(spconv.SubMConv3d(4, 4, 3, indice_key='a'))
        .add(spconv.SparseIdentity()),
        spconv.AddTable(),
    )
    (conv, _), y = net[0].children(), net(x)
    torch.testing.assert_close(y.features, conv(x).features + features)
    both = spconv.JoinTable()(spconv.ConcatTable(conv, conv)(x))
    assert both.features.shape == (20, 8) and both.indice_dict is x.indice_dict
    down = spconv.SparseConv3d(4, 4, 3, 2)(x)
    for table in (spconv.JoinTable(), spconv.AddTable()):
        with pytest.raises(ValueError, match=f'{type(table).__name__} needs the same voxels'):
            table([x, down])
        with pytest.raises(ValueError, match='at least one tensor'):
            table([])
    other = spconv.SparseConvTensor(features[:3], coors.int()[:3], [5, 5, 5], 1)
    assert torch.equal(spconv.AddTableMisaligned()([x, other]).features[:3], features[:3] * 2)
    spconv.assign_name_for_sparse_modules(net)
    assert conv._sparse_unique_name == '0.0' and net[1]._sparse_unique_name == '1'


def test_activations_of_convolutions():
    features, coors = voxels(20, 4, [5, 5, 5], 1)
    for name, function in (
        ('None_', lambda v: v),
        ('ReLU', F.relu),
        ('Sigmoid', torch.sigmoid),
        ('LeakyReLU', lambda v: F.leaky_relu(v, 0.2)),
    ):
        for size in (3, 1):
            x = spconv.SparseConvTensor(features, coors.int(), [5, 5, 5], 1)
            conv = spconv.SubMConv3d(4, 6, size, act_type=spconv.Activation[name], act_alpha=0.2)
            plain = spconv.SubMConv3d(4, 6, size)
            plain.load_state_dict(conv.state_dict())
            assert torch.equal(conv(x).features, function(plain(x).features))
            assert spconv.SubMConv3d(4, 6, size, act_type=name).act_type == name
    with pytest.raises(ValueError, match=r"act_type must be one of None_, ReLU, .*, was 'Tanh'"):
        spconv.SubMConv3d(4, 6, 3, act_type='Tanh')


def test_arguments_of_inverse_convolutions_in_both_orders():
    cls = spconv.SparseInverseConv3d
    mine = cls(4, 6, 3, 'a', False)  # spconv's
    assert mine.indice_key == 'a' and mine.bias is None and mine.stride == (1, 1, 1)
    theirs = cls(4, 6, 3, 2, 1, 1, 1, False, True, 'b', 'spconv')  # mx_driving's
    assert (theirs.stride, theirs.padding, theirs.indice_key) == ((2, 2, 2), (1, 1, 1), 'b')
    assert theirs.bias is None and theirs.mode == 'spconv'
    assert cls(4, 6, 3, [2, 2, 2], indice_key='b').stride == (2, 2, 2)
    assert cls(4, 6, kernel_size=3, indice_key='b', inverse=True).indice_key == 'b'
    assert isinstance(mine, mxd_mmplugin.SparseInverseConv3d)
    features, coors = voxels(40, 4, [7, 7, 7], 1)
    x = spconv.SparseConvTensor(features, coors.int(), [7, 7, 7], 1)
    down = spconv.SparseConv3d(4, 4, 3, 2, 1, indice_key='b')(x)
    assert torch.equal(theirs(down).indices, x.indices)
    with pytest.raises(TypeError, match="two values for 'indice_key'"):
        cls(4, 6, 3, 'a', indice_key='b')
    with pytest.raises(TypeError, match='arguments at most'):
        cls(4, 6, 3, 'a', *[None] * 9)


@pytest.mark.parametrize('layout', ['XYZ', 'ZYX'])
def test_voxelization_of_mx_driving(layout):
    points = torch.rand(60, 5) * torch.tensor([2.0, 4, 8, 1, 1])
    args = [0.5, 0.5, 0.5], [0, 0, 0, 2, 4, 8], 3, 40
    plain = mxd_mmplugin.Voxelization(*args)(points)
    count, found, coors, sizes = mxd_mmplugin.Voxelization(*args, layout=layout)(points)
    assert count == len(found) and type(count) is int
    assert torch.equal(found, plain[0]) and torch.equal(sizes, plain[2])
    assert torch.equal(coors, plain[1].flip(1) if layout == 'XYZ' else plain[1])
    dynamic = mxd_mmplugin.Voxelization(*args[:2], -1, layout=layout)(points)
    each = mxd_mmplugin.dynamic_voxelize(points, *args[:2])
    assert torch.equal(dynamic, each.flip(1) if layout == 'XYZ' else each)
    with pytest.raises(ValueError, match="layout must be 'XYZ' or 'ZYX', was 'xyz'"):
        mxd_mmplugin.Voxelization(*args, layout='xyz')
    assert mxd_mmplugin.npu_dynamic_scatter is mxd_mmplugin.dynamic_scatter
