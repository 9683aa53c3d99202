"""Our SparseConvTensor, and the grid and back."""

import mmcv.ops
import pytest
import torch
from hypothesis import given
from mmdet3d.models.layers.sparse_block import replace_feature

from mxd_mmplugin import SparseConv3d, SparseConvTensor, SubMConv3d
from mxd_mmplugin.ops import fallback, sparse_from_dense, sparse_to_dense
from tests.ops import sparse_reference as reference
from tests.ops.sparse_problems import SETTINGS, coordinates, problems


def sparse_tensor(count=30, channels=4, shape=(5, 6, 7), batch_size=2, **arguments):
    cells = torch.randperm(batch_size * torch.tensor(shape).prod())[:count]
    indices = coordinates(cells, [batch_size, *shape])
    return SparseConvTensor(torch.randn(count, channels), indices, shape, batch_size, **arguments)


@SETTINGS
@given(problems(max_channels=40))
def test_grid_and_back(problem):
    indices, geometry, features, *_ = problem
    batch_size, shape = geometry['batch_size'], geometry['spatial_shape']
    expected = reference.scatter(features, indices, batch_size, shape)
    for channels_first, want in ((True, expected), (False, expected.movedim(1, -1))):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8):
            args = features.to(dtype), indices, batch_size, shape, channels_first
            dense = sparse_to_dense(*args)
            assert dense.is_contiguous() and torch.equal(dense, want.to(dtype))
            assert torch.equal(fallback.sparse_dense.to_dense(*args), dense)
            back = dense.mT.contiguous().mT, indices, channels_first
            assert torch.equal(sparse_from_dense(*back), features.to(dtype))
            assert torch.equal(fallback.sparse_dense.from_dense(*back), features.to(dtype))


@pytest.mark.parametrize('channels_first', [True, False])
def test_gradients_of_the_grid_and_back(channels_first):
    x = sparse_tensor(count=6, channels=2, shape=(3, 2))
    leaf = x.features.double().requires_grad_()

    def there(features):
        return sparse_to_dense(features, x.indices, 2, [3, 2], channels_first)

    def back(dense):
        return sparse_from_dense(dense, x.indices, channels_first)

    assert torch.autograd.gradcheck(there, leaf) and torch.autograd.gradgradcheck(there, leaf)
    grid = torch.randn_like(there(leaf)).requires_grad_()
    assert torch.autograd.gradcheck(back, grid) and torch.autograd.gradgradcheck(back, grid)


BACKENDS = {
    'kernel': (torch.ops.mxd.sparse_to_dense, torch.ops.mxd.sparse_from_dense),
    'pure PyTorch': (fallback.sparse_dense.to_dense, fallback.sparse_dense.from_dense),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(features=torch.randn(3)), ValueError, 'features must have shape'),
        (dict(features=torch.randn(2, 4)), ValueError, 'indices|features must have'),
        (dict(indices=torch.zeros(3, 3)), TypeError, 'indices must be int32'),
        (dict(indices=torch.zeros(3, 4).int()), ValueError, r'indices must have shape \[voxels, 3'),
        (dict(indices=torch.tensor([[2, 0, 0]] * 3).int()), ValueError, r'indices\[0\].*batch'),
        (dict(indices=torch.tensor([[0, 0, 5]] * 3).int()), ValueError, r'indices\[0\].*outside'),
        (dict(indices=torch.tensor([[0, -1, 0]] * 3).int()), ValueError, r'indices\[0\].*outside'),
    ],
)
def test_bad_input_of_the_grid(backend, change, error, message):
    good = dict(
        features=torch.randn(3, 4),
        indices=torch.zeros(3, 3).int(),
        batch_size=2,
        spatial_shape=[4, 5],
        channels_first=True,
    )
    to_dense, from_dense = BACKENDS[backend]
    with pytest.raises(error, match=message):
        to_dense(*{**good, **change}.values())
    if 'indices' in change:
        with pytest.raises(error, match=message):
            from_dense(torch.randn(2, 3, 4, 5), change['indices'], True)


def test_bad_grid():
    indices = torch.zeros(3, 3).int()
    for run in (torch.ops.mxd.sparse_from_dense, fallback.sparse_dense.from_dense):
        with pytest.raises(ValueError, match='dense must have a batch, a channel and spatial'):
            run(torch.randn(3, 4), indices, True)
    args = torch.randn(3, 4), indices
    with pytest.raises(ValueError, match='batch_size must be at least 0'):
        sparse_to_dense(*args, -1, [4, 5])
    with pytest.raises(ValueError, match='spatial_shape must have at least 1'):
        sparse_to_dense(*args, 1, [4, 0])
    with pytest.raises(ValueError, match=r'below 2\*\*63'):
        sparse_to_dense(*args, 1, [2**31, 2**31])
    with pytest.raises(TypeError, match='1, 2, 4 or 8 bytes'):
        sparse_to_dense(torch.zeros(3, 4, dtype=torch.complex128), indices, 1, [4, 5])


def test_the_interface_of_mmcv():
    x, theirs = sparse_tensor(), mmcv.ops.SparseConvTensor
    same = theirs(x.features, x.indices, x.spatial_shape, x.batch_size)
    assert isinstance(x, theirs) and x.spatial_shape == [5, 6, 7]
    for name in ('spatial_size', 'sparity', 'batch_size', 'indice_dict', 'grid'):
        assert getattr(x, name) == getattr(same, name) or name == 'grid'
    for channels_first in (True, False):
        assert torch.equal(x.dense(channels_first), same.dense(channels_first))
    assert x.find_indice_pair(None) is None and x.find_indice_pair('a') is None
    SubMConv3d(4, 4, 3, indice_key='a')(x)
    assert x.find_indice_pair('a') is x.indice_dict['a']
    x.features = x.features * 2
    assert torch.equal(x.features, same.features * 2)
    assert replace_feature(x, same.features).features is same.features  # mmdet3d's
    assert repr(x) == 'SparseConvTensor(features=(30, 4), spatial_shape=[5, 6, 7], batch_size=2)'


def test_the_interface_of_spconv():
    x = sparse_tensor(indice_dict=dict(a=1), benchmark=True, voxel_num=7)
    y = x.replace_feature(torch.randn(30, 9))
    assert type(y) is SparseConvTensor and y.features.shape == (30, 9) and x.features.shape[1] == 4
    copy = x.shadow_copy()
    assert copy is not x and copy.features is x.features and copy.indices is x.indices
    for z in (y, copy):
        assert z.indice_dict is x.indice_dict and z.benchmark and z.voxel_num == 7
    chosen = x.select_by_index(torch.arange(30) % 3 == 0)
    assert torch.equal(chosen.indices, x.indices[::3]) and chosen.indice_dict == {}
    assert x.indice_dict == dict(a=1)
    assert torch.equal(x.minus().features, -x.features)
    assert torch.equal((x + x).features, 2 * x.features)
    assert torch.equal((x + torch.ones(4)).features, x.features + 1)
    before = x.features.clone()
    x += copy.minus().minus()
    assert torch.equal(x.features, 2 * before)
    with pytest.raises(ValueError, match=r'needs the same voxels on both sides.*use sparse_add'):
        x + sparse_tensor()


def test_from_dense():
    dense = torch.randn(2, 4, 3, 5, 6) * (torch.rand(2, 4, 3, 5, 1) < 0.3)
    dense.requires_grad_()
    x = SparseConvTensor.from_dense(dense)
    assert x.batch_size == 2 and x.spatial_shape == [4, 3, 5]
    assert len(x.indices) == (dense != 0).any(-1).sum()
    assert torch.equal(x.dense(channels_first=False), dense)
    (x.features * 3).sum().backward()
    assert torch.equal(dense.grad, 3.0 * (dense != 0))
    empty = SparseConvTensor.from_dense(torch.zeros(1, 4, 3, 2))
    assert empty.dense().shape == (1, 2, 4, 3) and empty.dense().abs().sum() == 0


def test_layers_answer_with_it():
    out = SparseConv3d(4, 6, 3, 2, 1, indice_key='a')(sparse_tensor())
    assert type(out) is SparseConvTensor and out.spatial_shape == [3, 3, 4]
    assert out.features.shape == (len(out.indices), 6) and list(out.indice_dict) == ['a']


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(features=[1, 2]), TypeError, 'features must be a tensor, was list'),
        (dict(features=torch.randn(3)), ValueError, r'features must have shape \[3, channels\]'),
        (dict(features=torch.randn(4, 2)), ValueError, r'features must .* was \[4, 2\]'),
        (dict(features=torch.randn(3, 2, device='meta')), ValueError, 'must be on one device'),
        (
            dict(indices=torch.zeros(3, 3)),
            TypeError,
            'indices must be an int32 tensor, was torch.f',
        ),
        (dict(indices=[[0, 0, 0]]), TypeError, 'indices must be an int32 tensor, was list'),
        (dict(indices=torch.zeros(3, 4).int()), ValueError, r'indices must have shape \[voxels, 3'),
        (dict(indices=torch.zeros(3).int()), ValueError, r'indices must have shape \[voxels, 3'),
        (dict(spatial_shape=[4, 0]), ValueError, 'spatial_shape must be at least 1, was 0'),
        (dict(spatial_shape=[4, 2.5]), ValueError, 'spatial_shape must hold integers'),
        (dict(batch_size=0), ValueError, 'batch_size must be at least 1, was 0'),
        (dict(batch_size='2'), ValueError, "batch_size must hold integers of at least 1, had '2'"),
    ],
)
def test_bad_arguments(change, error, message):
    good = dict(
        features=torch.randn(3, 2),
        indices=torch.zeros(3, 3).int(),
        spatial_shape=[4, 5],
        batch_size=2,
    )
    with pytest.raises(error, match=message):
        SparseConvTensor(**{**good, **change})


def test_a_shadow_copy_may_become_another_tensor():
    """In the order of spconv's layers: features, indices, indice_dict, spatial_shape."""
    x = sparse_tensor()
    out = x.shadow_copy().replace_feature(torch.randn(3, 7))
    out.indices, out.spatial_shape = x.indices[:3], [9, 9, 9]
    assert out.features.shape == (3, 7) and out.dense().shape[1] == 7 and len(x.features) == 30
    with pytest.raises(ValueError, match='indices must have a row for each'):
        SubMConv3d(7, 4, 3)(x.shadow_copy().replace_feature(torch.randn(3, 7)))


def test_bad_features_later():
    x = sparse_tensor()
    with pytest.raises(ValueError, match=r'features must have shape \[30, channels\]'):
        x.features = torch.randn(29, 4)
    with pytest.raises(ValueError, match=r'features must have shape \[30, channels\]'):
        x.replace_feature(torch.randn(29, 4))
