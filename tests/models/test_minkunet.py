"""MinkUNet and SPVCNN: checkpoints of torchsparse and MinkowskiEngine, and what they compute, against dense forms."""

import copy
import itertools

import numpy as np
import pytest
import torch
from mmdet3d.models import data_preprocessors
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, PointData

from mxd_mmplugin.models import minkunet
from mxd_mmplugin.models.data_preprocessor import Det3DDataPreprocessor
from tests.ops.sparse_reference import scatter

CHANNELS = dict(
    base_channels=6,
    encoder_channels=[6, 8, 8, 10],
    encoder_blocks=[1, 1, 1, 1],
    decoder_channels=[10, 8, 8, 6],
    decoder_blocks=[1, 1, 1, 1],
)


def cloud(samples=2, size=21, count=150):
    """Voxels (batch index, x, y, z) with features; those at the end of an odd grid are among them."""
    cells = [
        torch.cat([torch.randperm(size**3)[:count], torch.tensor([size**3 - 1])]).unique()
        for _ in range(samples)
    ]
    rows = [
        torch.stack([torch.full_like(c, b), c // size**2, c // size % size, c % size], 1)
        for b, c in enumerate(cells)
    ]
    coors = torch.cat(rows).int()
    return torch.randn(len(coors), 4), coors


def build(kind, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, **copy.deepcopy(CHANNELS), **kwargs)).eval()


@pytest.mark.parametrize('scope', ['', 'mmdet3d.'])
def test_the_names_of_stock_configs(scope):
    for kind in 'MinkUNetBackbone', 'MinkUNetBackboneV2', 'SPVCNNBackbone':
        assert MODELS.get(scope + kind) is getattr(minkunet, kind)


@pytest.mark.parametrize('backend', ['torchsparse', 'minkowski', 'spconv'])
def test_each_backend_trains(backend):
    features, coors = cloud()
    if backend == 'torchsparse':
        coors = coors.roll(-1, 1)
    net = build('MinkUNetBackbone', sparseconv_backend=backend).train()
    out = net(features, coors)
    assert out.shape == (len(features), 6)
    out.sin().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in net.parameters())
    with torch.autocast('cpu', torch.bfloat16):
        assert net(features, coors).isfinite().all()


def test_the_order_of_the_voxels_does_not_matter():
    features, coors = cloud()
    net = build('SPVCNNBackbone', drop_ratio=0.0)
    order = torch.randperm(len(coors))
    out = net(features, coors.roll(-1, 1))
    again = net(features[order], coors[order].roll(-1, 1))
    torch.testing.assert_close(again, out[order], rtol=1e-4, atol=1e-5)


def renamed(state, backend):
    """A state_dict as mmdet3d's modules on torchsparse or MinkowskiEngine have it."""
    found = {}
    for name, value in state.items():
        parts = name.split('.')
        if backend == 'torchsparse':
            inner = {'conv1': 'net.0', 'bn1': 'net.1', 'conv2': 'net.3', 'bn2': 'net.4'}
            parts = [inner.get(part, part) for part in parts]
        else:
            inner = {'bn1': 'norm1.bn', 'bn2': 'norm2.bn'}
            parts = [inner.get(part, part) for part in parts]
        *path, number, leaf = parts
        module = path[:1] == ['conv_input'] or path[2:] in ([], ['0']) or 'downsample' in path
        plain_block = backend == 'torchsparse' and 'downsample' in path
        if number.isdigit() and module and not plain_block and 'point_transforms' not in path:
            path += ['net', number]
            if backend == 'minkowski' and number == '1':
                path += ['bn']
        else:
            path += [number]
        if value.dim() == 5:
            leaf, (x, y, z) = 'kernel', value.shape[:3]
            odd = x * y * z % 2
            offsets = list(itertools.product(range(x), range(y), range(z)))
            if odd or backend == 'minkowski':  # x runs fastest
                offsets.sort(key=lambda offset: offset[::-1])
            value = torch.stack([value[offset] for offset in offsets])
            value = value[0] if x * y * z == 1 else value
        found['.'.join([*path, leaf])] = value
    return found


@pytest.mark.parametrize(
    'kind, backend',
    [
        ('MinkUNetBackbone', 'torchsparse'),
        ('MinkUNetBackbone', 'minkowski'),
        ('MinkUNetBackboneV2', 'torchsparse'),
        ('SPVCNNBackbone', 'torchsparse'),
    ],
)
def test_checkpoints_load(kind, backend):
    net = build(kind, sparseconv_backend=backend)
    state = net.state_dict()
    theirs = renamed(state, backend)
    # Names as mmdet3d's modules make them.
    block = {'torchsparse': 'encoder.0.1.net.3.kernel', 'minkowski': 'encoder.0.1.conv2.kernel'}
    for name in (
        *('conv_input.1.net.0.kernel', 'encoder.3.0.net.0.kernel', 'decoder.2.0.net.0.kernel'),
        block[backend],
        {'torchsparse': 'decoder.0.1.0.downsample.0.kernel'}.get(
            backend, 'decoder.0.1.0.downsample.net.0.kernel'
        ),
        {'torchsparse': 'decoder.3.1.0.net.1.running_mean'}.get(
            backend, 'decoder.3.1.0.norm1.bn.running_mean'
        ),
    ):
        assert name in theirs, sorted(theirs)
    torch.manual_seed(1)
    other = MODELS.build(dict(type=kind, **copy.deepcopy(CHANNELS), sparseconv_backend=backend))
    assert other.load_state_dict(theirs, strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name
    other.load_state_dict(state, strict=True)  # its own


def test_a_voxel_at_the_end_of_an_odd_grid_counts():
    """The grids of torchsparse have no end; the windows of spconv's layers leave the last cell of an odd one out."""
    features, coors = torch.randn(1, 4), torch.tensor([[4, 4, 4, 0]]).int()
    net = build('MinkUNetBackbone')
    assert (net(features, coors) != net(2 * features, coors)).any()
    x, _ = net._encode(net.sparse_tensor(features, coors))
    assert x.indices.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize('stride', [2, 4])
def test_a_level_interpolates_and_averages(stride):
    _, points = cloud()
    coarse = torch.cat([points[:, :1], points[:, 1:] // stride], 1).unique(
        dim=0, return_inverse=True
    )
    indices, parent = coarse
    size = 21 // stride + 2
    voxels = minkunet.SparseConvTensor(torch.zeros(len(indices), 1), indices, [size] * 3, 2)
    level = minkunet.Level(points, voxels, stride)
    features = torch.randn(len(indices), 5, requires_grad=True)

    grid = scatter(features, indices, 2, [size] * 3)
    there = scatter(torch.ones(len(indices), 1), indices, 2, [size] * 3)
    total, weight = 0, 0
    for corner in itertools.product((0, 1), repeat=3):
        at = [points[:, i + 1] // stride + corner[i] for i in range(3)]
        ahead = [points[:, i + 1] % stride / stride for i in range(3)]
        factor = torch.ones(len(points))
        for bit, part in zip(corner, ahead):
            factor = factor * (part if bit else 1 - part)
        place = (points[:, 0].long(), slice(None), *(x.long() for x in at))
        total = total + grid[place] * factor[:, None]
        weight = weight + there[place] * factor[:, None]
    expected = total / weight
    found = level.to_points(features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(found.sin().sum(), features),
        torch.autograd.grad(expected.sin().sum(), features),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    rows = torch.randn(len(points), 3)
    mean = torch.stack([rows[parent == i].mean(0) for i in range(len(indices))])
    torch.testing.assert_close(level.to_voxels(rows), mean)


def test_wrong_arguments():
    with pytest.raises(ValueError, match='sparseconv_backend must be one of'):
        build('MinkUNetBackbone', sparseconv_backend='other')
    with pytest.raises(ValueError, match="block_type must be 'basic'"):
        build('MinkUNetBackbone', block_type='bottleneck')
    with pytest.raises(ValueError, match="sparseconv_backend must be 'torchsparse'"):
        build('SPVCNNBackbone', sparseconv_backend='spconv')


def samples(points):
    found = []
    for rows in points:
        sample = Det3DDataSample()
        sample.gt_pts_seg = PointData(pts_semantic_mask=torch.randint(0, 19, (len(rows),)))
        found.append(sample)
    return found


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('batch_first', [True, False])
def test_the_voxels_are_mmdet3ds(monkeypatch, training, batch_first):
    monkeypatch.setattr(torch.Tensor, 'cuda', lambda self: self)
    options = dict(
        voxel=True,
        voxel_type='minkunet',
        batch_first=batch_first,
        max_voxels=300,
        voxel_layer=dict(
            max_num_points=-1,
            point_cloud_range=[-100, -100, -20, 100, 100, 20],
            voxel_size=[0.05, 0.05, 0.05],
            max_voxels=(-1, -1),
        ),
    )
    points = [torch.rand(500, 4), torch.rand(200, 4) - 0.5]
    found = []
    for cls in data_preprocessors.Det3DDataPreprocessor, Det3DDataPreprocessor:
        torch.manual_seed(0)
        np.random.seed(0)
        mine = samples(points)
        voxels = cls(**options).train(training).voxelize(points, mine)
        found.append((voxels, mine))
    (stock, theirs), (ours, mine) = found
    for name in 'voxels', 'coors':
        assert torch.equal(stock[name], ours[name])
    for a, b in zip(theirs, mine):
        assert torch.equal(a.batch_idx, b.batch_idx)
        assert torch.equal(a.point2voxel_map, b.point2voxel_map)
        assert torch.equal(a.gt_pts_seg.voxel_semantic_mask, b.gt_pts_seg.voxel_semantic_mask)
    assert ours['coors'].dtype == torch.int32
