"""Sparse convolution layers: mmcv's and spconv's tensors, containers, weights and conventions."""

import copy
import gc
import math
import os
import pickle
import subprocess
import sys
import weakref

import mmcv.ops
import pytest
import torch
from mmcv.cnn import build_conv_layer
from mmcv.ops import SparseConvTensor, SparseSequential
from torch import nn

from mxd_mmplugin import (
    SparseConv2d,
    SparseConv3d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubMConv2d,
    SubMConv3d,
)
from mxd_mmplugin import SparseConvTensor as OurSparseConvTensor
from mxd_mmplugin.ops import Rulebook, build_rulebook
from tests.conftest import ROOT
from tests.counting import Counting
from tests.ops import sparse_reference as reference
from tests.ops.sparse_problems import coordinates

LAYERS = {2: (SparseConv2d, SubMConv2d), 3: (SparseConv3d, SubMConv3d)}


def sparse_tensor(ndim=3, channels=4, count=30, size=6, batch_size=2):
    cells = torch.randperm(batch_size * size**ndim)[:count]
    shape = [size] * ndim
    indices = coordinates(cells, [batch_size, *shape])
    return SparseConvTensor(torch.randn(len(indices), channels), indices, shape, batch_size)


@pytest.mark.parametrize('ndim', [2, 3])
@pytest.mark.parametrize('subm', [False, True])
def test_layer_in_mmcv_sequential_equals_dense(ndim, subm):
    x = sparse_tensor(ndim)
    layer = LAYERS[ndim][subm](4, 6, 3, stride=2, padding=1, groups=2)
    net = SparseSequential(layer, nn.ReLU())
    dense = reference.scatter(x.features, x.indices, 2, x.spatial_shape)
    out = net(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2))
    assert type(out) is OurSparseConvTensor and isinstance(out, SparseConvTensor)
    assert torch.equal(
        out.dense(), reference.scatter(out.features, out.indices, 2, out.spatial_shape)
    )
    geometry = dict(stride=[2] * ndim, padding=[1] * ndim, dilation=[1] * ndim)
    kinds = dict(subm=subm, transposed=False, output_padding=[0] * ndim)
    expected = reference.convolve(
        dense, layer.weight, layer.bias, 2, kernel_size=[3] * ndim, **geometry, **kinds
    ).relu()
    torch.testing.assert_close(out.features, reference.gather(expected, out.indices))
    assert list(out.spatial_shape) == list(expected.shape[2:])


def test_state_dict_and_initialisation_are_mmcv_s():
    arguments = (5, 7, (3, 1, 2))
    torch.manual_seed(3)
    theirs = mmcv.ops.SparseConv3d(*arguments)
    torch.manual_seed(3)
    ours = SparseConv3d(*arguments)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)


def test_mode_spconv_changes_only_the_initialisation():
    layer = SubMConv3d(8, 8, 3, mode='spconv')
    bound = 1 / math.sqrt(8 * 27)
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.shape == (3, 3, 3, 8, 8)


@pytest.mark.parametrize('channels', [(4, 6), (6, 4), (3, 3)])
def test_loads_spconv_2_weights(channels):
    layer = SubMConv3d(*channels, 3, bias=False)
    weight = torch.randn(channels[1], 3, 3, 3, channels[0])
    state = SparseSequential(layer).state_dict()
    state['0.weight'] = weight
    for metadata in state._metadata.values():
        metadata['version'] = 2
    SparseSequential(layer).load_state_dict(state)
    torch.testing.assert_close(layer.weight.data, weight.permute(1, 2, 3, 4, 0))
    layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.weight.data, weight.permute(1, 2, 3, 4, 0))


def test_a_weight_that_fits_neither_layout_is_told():
    with pytest.raises(RuntimeError, match='size mismatch for weight'):
        SubMConv3d(4, 6, 3, bias=False).load_state_dict(dict(weight=torch.zeros(3, 3, 3, 5, 6)))


def test_kernel_of_one_point_keeps_voxels_as_in_mmcv():
    x = sparse_tensor()
    ours = SparseConv3d(4, 6, 1, stride=2, padding=1)
    theirs = mmcv.ops.SparseConv3d(4, 6, 1, stride=2, padding=1)
    theirs.load_state_dict(ours.state_dict())
    out, expected = ours(x), theirs(x)
    torch.testing.assert_close(out.features, expected.features)
    assert out.indices is x.indices and list(out.spatial_shape) == list(expected.spatial_shape)
    grouped = SparseConv3d(4, 6, 1, groups=2)
    dense = grouped.weight.view(2, 6)
    wanted = torch.cat([x.features[:, :2] @ dense[:, :3], x.features[:, 2:] @ dense[:, 3:]], 1)
    torch.testing.assert_close(grouped(x).features, wanted + grouped.bias)


def test_indice_key_shares_one_rulebook():
    x = sparse_tensor()
    first, second = (SubMConv3d(4, 4, 3, indice_key='subm1') for _ in range(2))
    out = second(first(x))
    assert list(x.indice_dict) == ['subm1'] and out.indice_dict is x.indice_dict
    book = x.indice_dict['subm1']
    third = SubMConv3d(4, 4, 3, stride=2, padding=2, indice_key='subm1')
    third(out)
    assert x.indice_dict['subm1'] is book


@pytest.mark.parametrize(
    'cls, kernel_size, dilation, name',
    [
        (SubMConv3d, (1, 3, 3), 1, 'kernel_size'),
        (SubMConv3d, 3, 2, 'dilation'),
        (SparseConv3d, 3, 1, 'subm'),
    ],
)
def test_indice_key_mismatch(cls, kernel_size, dilation, name):
    x = sparse_tensor()
    SubMConv3d(4, 4, 3, padding=1, indice_key='a')(x)
    layer = cls(4, 4, kernel_size, padding=1, dilation=dilation, indice_key='a')
    with pytest.raises(ValueError, match=f"indice_key 'a' was made with {name} .* is reused with"):
        layer(x)


def test_indice_key_of_other_voxels_or_of_another_package():
    x = sparse_tensor()
    layer = SubMConv3d(4, 4, 3, indice_key='a')
    layer(x)
    other = SparseConvTensor(x.features, x.indices.flip(0), x.spatial_shape, 2)
    other.indice_dict = x.indice_dict
    with pytest.raises(ValueError, match='made for other voxels'):
        layer(other)
    x.indice_dict['a'] = (x.indices, x.indices, None, None, None)
    with pytest.raises(ValueError, match=r'another package made \(tuple\)'):
        layer(x)


def test_voxels_that_changed_in_place_share_no_rulebook():
    x = sparse_tensor()
    down, up = SparseConv3d(4, 4, 3, 2, 1, indice_key='a'), SparseInverseConv3d(4, 4, 3, 'a')
    out = down(x)
    book = x.indice_dict['a']
    # Of other devices the values are not read: a layer that cannot know builds its own.
    assert book.is_from(x.indices) and book.is_from(x.indices.clone()) and book.is_to(out.indices)
    elsewhere = book.indices.to('meta'), book.out_indices.to('meta'), *(None,) * 3
    assert Rulebook(*elsewhere, {}).is_from(x.indices.to('meta')) is None
    out.indices.add_(0)
    with pytest.raises(ValueError, match='leads to'):
        up(out)
    x.indices.add_(0)
    with pytest.raises(ValueError, match='made for other voxels'):
        down(x)


def built(call):
    """Rulebooks that a call builds, and what it gives."""
    with Counting() as counting:
        out = call()
    return counting.calls['mxd::sparse_conv_rulebook'], out


@pytest.mark.parametrize('training', [True, False])
def test_submanifold_layers_without_keys_share_one_rulebook(training):
    first, second, third, fourth = (SubMConv3d(4, 4, 3) for _ in range(4))
    other = SubMConv3d(4, 4, 3, dilation=2)
    keyed = SubMConv3d(4, 4, 3, indice_key='a')
    layers = [first, other, keyed, second, other, third]
    x = sparse_tensor()

    def run(apart):
        parameters = [p for layer in layers for p in layer.parameters()]
        x.features.requires_grad_(training)
        out = x
        for layer in layers:
            if apart:
                out = SparseConvTensor(out.features, out.indices.clone(), x.spatial_shape, 2)
            out = layer(out)
        beside = fourth(SparseConvTensor(x.features, x.indices, x.spatial_shape, 2) if apart else x)
        numbers = out.features, beside.features
        if training:
            numbers += torch.autograd.grad(out.features.square().sum(), [x.features, *parameters])
        return numbers

    with torch.set_grad_enabled(training):
        (shared, together), (fresh, apart) = built(lambda: run(False)), built(lambda: run(True))
    assert (shared, fresh) == (2, 7)
    assert all(map(torch.equal, together, apart))


def test_a_shared_rulebook_is_of_these_voxels_and_this_geometry():
    layer, x = SubMConv3d(4, 4, 3), sparse_tensor()
    out = layer(x)
    assert built(lambda: layer(out))[0] == 0
    for others in (
        SubMConv3d(4, 4, (1, 3, 3)),
        SubMConv3d(4, 4, 3, dilation=2),
        SparseConv3d(4, 4, 3, 1, 1),
    ):
        assert built(lambda layer=others: layer(out))[0] == 1
    out.spatial_shape = [7, 6, 6]
    assert built(lambda: layer(out))[0] == 1

    out = layer(x)
    few = out.select_by_index(torch.arange(9))
    count, less = built(lambda: layer(few))
    assert count == 1 and torch.equal(less.indices, x.indices[:9])

    out.indices[:, 1:] = 5 - out.indices[:, 1:]  # the voxels are mirrored
    count, turned = built(lambda: layer(out))
    fresh = SparseConvTensor(out.features, out.indices.clone(), x.spatial_shape, 2)
    assert count == 1 and torch.equal(turned.features, layer(fresh).features)
    assert built(lambda: layer(turned))[0] == 0


def test_a_batch_size_in_a_tensor_is_read_once():
    x = sparse_tensor()
    x.batch_size = x.indices[:, 0].max() + 1
    with Counting() as counting:
        out = SubMConv3d(4, 4, 3)(x)
        SparseConv3d(4, 4, 3, 2, 1)(x)
        assert out.batch_size == 2 and counting.waits == 1


def test_no_rulebook_is_shared_where_changes_are_not_counted():
    layer, x = SubMConv3d(4, 4, 3), sparse_tensor()
    with torch.inference_mode():
        out = layer(x)
        assert built(lambda: layer(out))[0] == 1
    assert built(lambda: layer(x))[0] == 1  # and no gradient can use what was made there
    layer(x).features.sum().backward()


def test_a_shared_rulebook_ends_with_the_voxels():
    layer, x = SubMConv3d(4, 4, 3), sparse_tensor()
    out = layer(layer(x))
    ends = [weakref.ref(x.indices), weakref.ref(*out._rulebooks.values())]
    down = SparseConv3d(4, 4, 3, 2, 1)(out)
    gc.disable()
    try:
        del x, out
        assert [end() for end in ends] == [None, None]
    finally:
        gc.enable()
    assert layer(down).features.shape == down.features.shape


@pytest.mark.parametrize('key', [None, 'a'])
@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_the_rulebook_of_their_voxels(key, copied):
    layer, x = SubMConv3d(4, 4, 3, indice_key=key), sparse_tensor()
    x.indices.add_(0)
    x.features = layer(x).features.detach()
    twin = copied(x)
    count, out = built(lambda: layer(twin))
    assert count == 0 and torch.equal(out.features, layer(x).features)
    x.indices.add_(0)
    for late in (copied(x), twin):
        late.indices.add_(0)
        if key is None:
            assert built(lambda late=late: layer(late))[0] == 1
        else:
            with pytest.raises(ValueError, match='made for other voxels'):
                layer(late)


def test_a_tensor_of_the_user_s_own_class_stays_one():
    class Own(SparseConvTensor):
        pass

    x = sparse_tensor()
    out = SubMConv3d(4, 4, 3)(Own(x.features, x.indices, x.spatial_shape, 2))
    assert type(out) is Own


@pytest.mark.parametrize('ndim', [2, 3])
def test_transposed_layer_equals_dense(ndim):
    cls = {2: SparseConvTranspose2d, 3: SparseConvTranspose3d}[ndim]
    dense_cls = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[ndim]
    x = sparse_tensor(ndim)
    layer = cls(4, 6, 3, stride=2, padding=1, output_padding=1)
    dense = dense_cls(4, 6, 3, stride=2, padding=1, output_padding=1)
    dense.weight.data = layer.weight.data.movedim(-2, 0).movedim(-1, 1)
    dense.bias.data = layer.bias.data
    out, expected = layer(x), dense(reference.scatter(x.features, x.indices, 2, x.spatial_shape))
    assert list(out.spatial_shape) == list(expected.shape[2:])
    torch.testing.assert_close(out.features, reference.gather(expected, out.indices))


def test_inverse_layer_returns_to_the_voxels_of_its_partner():
    x = sparse_tensor()
    down = SparseConv3d(4, 6, 3, stride=2, padding=1, indice_key='down')
    up = SparseInverseConv3d(6, 5, 3, indice_key='down')
    out = up(SubMConv3d(6, 6, 3, indice_key='subm')(down(x)))
    assert torch.equal(out.indices, x.indices) and list(out.spatial_shape) == [6, 6, 6]
    assert out.features.shape == (len(x.features), 5)


def test_bad_inverse():
    x = sparse_tensor()
    with pytest.raises(
        ValueError, match='indice_key must be that of the layer to invert, was None'
    ):
        SparseInverseConv3d(6, 4, 3)
    with pytest.raises(
        ValueError, match=r"indice_key 'down' must be that of an earlier layer.*\[\]"
    ):
        SparseInverseConv3d(4, 4, 3, 'down')(x)
    out = SparseConv3d(4, 6, 3, stride=2, padding=1, indice_key='down')(x)
    with pytest.raises(ValueError, match='give both layers the same kernel_size'):
        SparseInverseConv3d(6, 4, (3, 3, 1), 'down')(out)
    x.features = torch.randn(len(x.features), 6)
    with pytest.raises(ValueError, match=f'leads to {len(out.indices)} voxels and not to these 30'):
        SparseInverseConv3d(6, 4, 3, 'down')(x)


@pytest.mark.parametrize('subm', [False, True])
def test_empty_tensor(subm):
    x = sparse_tensor(count=0)
    x.features.requires_grad_()
    layer = LAYERS[3][subm](4, 6, 3, padding=1)
    out = SparseSequential(layer, nn.BatchNorm1d(6), nn.ReLU())(x)
    assert out.features.shape == (0, 6) and out.dense().shape == (2, 6, 6, 6, 6)
    out.features.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_batch_without_voxels():
    x = sparse_tensor(batch_size=1)
    x.batch_size = 3
    assert SparseConv3d(4, 6, 3, padding=1)(x).dense()[1:].abs().sum() == 0


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(kernel_size=0), 'kernel_size must be an integer of at least 1 or 3 of them, was 0'),
        (dict(kernel_size=(3, 3)), r'kernel_size must be .* 3 of them, was \(3, 3\)'),
        (dict(kernel_size=2.5), 'kernel_size must be an integer'),
        (dict(stride=0), 'stride must be an integer of at least 1'),
        (dict(padding=-1), 'padding must be an integer of at least 0'),
        (dict(dilation=(1, 1, 0)), 'dilation must be an integer of at least 1'),
        (dict(groups=3), 'groups must divide in_channels 4 and out_channels 6, was 3'),
        (dict(groups=0), 'groups must be an integer of at least 1'),
        (dict(in_channels=0), 'in_channels must be an integer of at least 1'),
        (dict(mode='torch'), "mode must be 'mmcv' or 'spconv', was 'torch'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseConv3d(**{**dict(in_channels=4, out_channels=6, kernel_size=3), **arguments})


def test_bad_input():
    x = sparse_tensor()
    with pytest.raises(ValueError, match=r'features must have shape \[voxels, 5\] \(in_channels\)'):
        SubMConv3d(5, 6, 3)(x)
    with pytest.raises(ValueError, match='indices must have a row for each of the 30 features'):
        SubMConv3d(4, 6, 3)(SparseConvTensor(x.features, x.indices[:9], x.spatial_shape, 2))
    x.indices = x.indices.long()
    with pytest.raises(TypeError, match='indices must be int32'):
        SubMConv3d(4, 6, 3)(x)


def test_registered_under_the_stock_and_the_explicit_names():
    for name, cls in (('SubMConv3d', SubMConv3d), ('SparseConv3d', SparseConv3d)):
        for registered in (name, f'Mxd{name}'):
            assert type(build_conv_layer(dict(type=registered), 4, 6, 3)) is cls


SPCONV_SCRIPT = """
import torch, mxd_mmplugin, spconv.pytorch as spconv
from mmcv.cnn import build_conv_layer
from mmdet3d.models.layers import make_sparse_convmodule
from mmdet3d.models.middle_encoders import SparseEncoder

torch.manual_seed(0)
indices = torch.unique(torch.randint(0, 8, (90, 3)), dim=0)
indices = torch.cat([torch.zeros(len(indices), 1, dtype=torch.long), indices], 1).int()
features = torch.randn(len(indices), 4)
def tensor():
    return spconv.SparseConvTensor(features, indices, [8, 8, 8], 1)

for name, kwargs in (('SubMConv3d', {}), ('SparseConv3d', dict(stride=2, padding=1))):
    ours = build_conv_layer(dict(type=name), 4, 6, 3, bias=False, **kwargs)
    assert type(ours).__module__.startswith('mxd_mmplugin'), type(ours)
    theirs = getattr(spconv, name)(4, 6, 3, bias=False, **kwargs).eval()
    net = spconv.SparseSequential(ours, torch.nn.ReLU())
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        out, expected = net(tensor()), theirs(tensor())
    assert isinstance(out, spconv.SparseConvTensor)
    torch.testing.assert_close(out.dense(), expected.dense().relu(), rtol=1e-4, atol=1e-5)

encoder = SparseEncoder(4, [9, 16, 16], encoder_channels=((16,), (16,)), encoder_paddings=((1,), (1,)),
                        output_channels=16)
print('spconv', encoder(features, indices, 1).shape)
"""


def test_beside_spconv():
    """With spconv installed mmdet3d uses its tensors and containers; our layers fit into these too."""
    rivals = ROOT / '.rivals'
    if not (rivals / 'spconv').is_dir():
        pytest.skip('spconv is not in .rivals: `make test` puts it there')
    run = subprocess.run(
        [sys.executable, '-c', SPCONV_SCRIPT],
        env={**os.environ, 'PYTHONPATH': str(rivals)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and run.stdout.startswith('spconv'), run.stderr


def test_rulebook_names_its_geometry():
    x = sparse_tensor()
    layer = SparseConv3d(4, 6, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0), indice_key='down')
    out = layer(x)
    book = x.indice_dict['down']
    assert book.geometry['stride'] == (2, 1, 1) and book.out_shape == tuple(out.spatial_shape)
    again = build_rulebook(x.indices, **book.geometry)
    assert torch.equal(again.pairs, book.pairs)
