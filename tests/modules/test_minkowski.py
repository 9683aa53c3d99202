"""MinkowskiEngine's layers voxel by voxel, and mmdet3d's FCAF3D on them."""

import itertools
from pathlib import Path

import mmdet3d
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import DepthInstance3DBoxes, Det3DDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mxd_mmplugin.minkowski as ME  # as mmdet3d calls it

CONFIGS = Path(mmdet3d.__file__).parent / '.mim' / 'configs'


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sparse(count=60, channels=4, low=-5, high=6, stride=1):
    """Voxels of two samples with coordinates that are multiples of the stride."""
    place = torch.randint(low, high, (count, 3), dtype=torch.int32) * stride
    coordinates = torch.cat([torch.arange(count, dtype=torch.int32)[:, None] % 2, place], 1)
    return ME.SparseTensor(torch.randn(count, channels, dtype=torch.float64), coordinates)


def table(x):
    """{(batch, x, y, z): features}."""
    return {tuple(place): row for place, row in zip(x.C.tolist(), x.F)}


def assert_table(x, wanted):
    found = table(x)
    assert found.keys() == wanted.keys()
    for place, row in found.items():
        torch.testing.assert_close(row, wanted[place])


def cells_of(x, stride):
    return {(b, *(c // stride * stride for c in place)) for b, *place in x.C.tolist()}


def offsets(size):
    """Kernel points, x fastest, from the begin of an even kernel or the middle of an odd one."""
    begin = -(size // 2) if size % 2 else 0
    steps = range(begin, begin + size)
    return [(x, y, z) for z, y, x in itertools.product(steps, steps, steps)]


def test_of_equal_coordinates_the_first_is_kept():
    coordinates = torch.tensor([[0, 5, -7, 1], [0, 5, -7, 1], [1, 5, -7, 1]], dtype=torch.int32)
    x = ME.SparseTensor(torch.tensor([[1.0], [2], [3]]), coordinates)
    assert x.C.tolist() == [[0, 5, -7, 1], [1, 5, -7, 1]] and x.F.tolist() == [[1], [3]]
    assert [rows.tolist() for rows in x.decomposition_permutations] == [[0], [1]]
    assert [c.tolist() for c in x.decomposed_coordinates] == [[[5, -7, 1]]] * 2


@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('stride', [1, 2])
def test_convolution(size, stride):
    x = sparse()
    layer = ME.MinkowskiConvolution(4, 6, size, stride, bias=True, dimension=3).double()
    kernel = layer.kernel.view(size**3, 4, 6)
    inputs, wanted = table(x), {}
    for b, *place in cells_of(x, stride):
        total = layer.bias[0]
        for weight, step in zip(kernel, offsets(size)):
            row = inputs.get((b, *(c + d for c, d in zip(place, step))))
            total = total if row is None else total + row @ weight
        wanted[(b, *place)] = total
    out = layer(x)
    assert_table(out, wanted)
    assert out.tensor_stride == [stride] * 3


def test_strides_follow_each_other():
    """The cells of a coarser tensor are as far apart as its stride."""
    x = sparse()
    halved = ME.MinkowskiConvolution(4, 4, 3, 2, dimension=3).double()(x)
    layer = ME.MinkowskiConvolution(4, 6, 3, 2, dimension=3).double()
    inputs, out = table(halved), layer(halved)
    assert set(table(out)) == cells_of(x, 4)
    for (b, *place), row in table(out).items():
        total = 0
        for weight, step in zip(layer.kernel, offsets(3)):
            found = inputs.get((b, *(c + 2 * d for c, d in zip(place, step))))
            total = total if found is None else total + found @ weight
        torch.testing.assert_close(row, total)


def test_generative_transposed_convolution():
    x = ME.MinkowskiConvolution(4, 4, 1, 2, dimension=3).double()(sparse())
    layer = ME.MinkowskiGenerativeConvolutionTranspose(4, 6, 2, 2, dimension=3).double()
    wanted = {
        (b, *(c + d for c, d in zip(place, step))): row @ weight
        for (b, *place), row in table(x).items()
        for weight, step in zip(layer.kernel, offsets(2))
    }
    assert_table(layer(x), wanted)


def test_max_pooling():
    x = sparse()
    wanted = {}
    for (b, *place), row in table(x).items():
        cell = (b, *(c // 2 * 2 for c in place))
        wanted[cell] = torch.maximum(wanted.get(cell, row), row)
    assert_table(ME.MinkowskiMaxPooling(2, 2, dimension=3)(x), wanted)


def test_union_and_pruning():
    x = sparse()
    rows = torch.arange(len(x.F)) % 3 > 0
    part = ME.MinkowskiPruning()(x, rows)
    assert_table(part, dict(zip(map(tuple, x.C[rows].tolist()), x.F[rows])))
    other = ME.MinkowskiPruning()(x, torch.arange(len(x.F)) % 2 > 0)
    wanted = dict(table(part))
    for place, row in table(other).items():
        wanted[place] = wanted[place] + row if place in wanted else row
    assert_table(part + other, wanted)
    assert torch.equal((x + x).F, 2 * x.F)


def test_norms():
    x = sparse()
    norm = ME.MinkowskiInstanceNorm(4).double()
    wanted = {}
    for rows in x.decomposition_permutations:
        part = x.F[rows]
        scaled = (part - part.mean(0)) / (part.var(0, unbiased=False) + 1e-8).sqrt()
        wanted.update(zip(map(tuple, x.C[rows].tolist()), scaled))
    assert_table(norm(x), wanted)
    batch = ME.MinkowskiBatchNorm(4).double()
    assert next(iter(batch.state_dict())) == 'bn.weight'
    torch.testing.assert_close(
        batch(x).F, torch.nn.functional.batch_norm(x.F, None, None, training=True)
    )


def test_features_between_the_voxels():
    x = ME.MinkowskiConvolution(4, 4, 3, 2, dimension=3).double()(sparse())
    query = torch.cat([torch.randint(2, (50, 1)).double(), torch.rand(50, 3).double() * 14 - 7], 1)
    query[:20] = query[:20].round()
    voxels = table(x)
    found = x.features_at_coordinates(query)
    for (b, *place), row in zip(query.tolist(), found):
        total = torch.zeros(4, dtype=torch.float64)
        for step in itertools.product((0, 2), repeat=3):
            corner = tuple(int(c // 2) * 2 + d for c, d in zip(place, step))
            weight = 1.0
            for c, d in zip(place, corner):
                weight *= 1 - abs(c - d) / 2
            total += weight * voxels.get((int(b), *corner), torch.zeros(4).double())
        torch.testing.assert_close(row, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('layer', ['conv', 'pool', 'norm', 'block'])
def test_the_gradient(layer):
    layers = {
        'conv': lambda: ME.MinkowskiConvolution(2, 3, 3, 2, bias=True, dimension=3),
        'pool': lambda: ME.MinkowskiMaxPooling(2, 2, dimension=3),
        'norm': lambda: ME.MinkowskiInstanceNorm(2),
        'block': lambda: ME.Bottleneck(
            2, 2, 2, downsample=ME.MinkowskiConvolution(2, 8, 1, 2, dimension=3), dimension=3
        ),
    }  # fmt: skip
    x, module = sparse(14, 2, -2, 3), layers[layer]().double()
    leaf = x.F.clone().requires_grad_()
    inputs = leaf, *module.parameters()
    assert torch.autograd.gradcheck(
        lambda features, *_: module(x.with_features(features)).F, inputs
    )


def test_initialisation():
    kernel = torch.empty(27, 64, 128)
    ME.utils.kaiming_normal_(kernel, mode='fan_out', nonlinearity='relu')
    assert kernel.std().item() == pytest.approx((2 / (27 * 128)) ** 0.5, rel=0.02)
    assert ME.MinkowskiConvolution(4, 6, 1, dimension=3).kernel.shape == (4, 6)
    assert ME.MinkowskiConvolution(4, 6, 1, 2, dimension=3).kernel.shape == (1, 4, 6)


def test_points_of_samples_are_joined():
    points = torch.tensor([[-0.5, 0.5, 1.5], [2.0, 0, 0]])
    coordinates, features = ME.utils.batch_sparse_collate(
        [(points, points[:, :1]), (points[:1], points[:1, :1])]
    )
    assert coordinates.tolist() == [[0, -1, 0, 1], [0, 2, 0, 0], [1, -1, 0, 1]]
    assert coordinates.dtype == torch.int32 and features.flatten().tolist() == [-0.5, 2, -0.5]


@pytest.mark.parametrize('name', ['scannet-3d-18class', 'sunrgbd-3d-10class'])
def test_fcaf3d(name):
    """A small one of mmdet3d's own classes learns and predicts; its weights have MinkowskiEngine's names."""
    init_default_scope('mmdet3d')
    model = Config.fromfile(CONFIGS / 'fcaf3d' / f'fcaf3d_2xb8_{name}.py').model
    model.backbone.update(depth=18, num_stages=2)
    model.bbox_head.update(
        in_channels=(64, 128), out_channels=16, voxel_size=0.05, pts_prune_threshold=200
    )
    model = MODELS.build(model)
    named = {
        'backbone.conv1.kernel',
        'backbone.layer1.0.norm1.bn.weight',
        'bbox_head.up_block_1.0.kernel',
    }
    assert named <= set(model.state_dict())
    points = [torch.rand(2000, 6) * torch.tensor([3, 3, 1, 1, 1, 1]) - 1 for _ in range(2)]
    boxes = torch.tensor([[0.5, 0.5, -1, 2, 2, 1, 0.3]])
    samples = []
    for _ in points:
        sample = Det3DDataSample(metainfo=dict(box_type_3d=DepthInstance3DBoxes))
        upright = 'scannet' in name
        truth = DepthInstance3DBoxes(
            boxes[:, :6] if upright else boxes, box_dim=7 - upright, with_yaw=not upright
        )
        sample.gt_instances_3d = InstanceData(bboxes_3d=truth, labels_3d=torch.tensor([3]))
        samples.append(sample)
    batch = dict(inputs=dict(points=points), data_samples=samples)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        found = model(**model.data_preprocessor(batch, True), mode='loss')
        loss = sum(found.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert len(model.eval().test_step(batch)) == 2
