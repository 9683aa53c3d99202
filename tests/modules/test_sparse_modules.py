"""Containers and small layers for sparse tensors, beside those of mmcv and of spconv."""

import copy
import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import mmcv.ops
import pytest
import torch
from mmdet3d.models.layers.sparse_block import SparseBasicBlock
from mmdet3d.models.middle_encoders import SparseEncoder
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from mxd_mmplugin import (
    Identity,
    RemoveGrid,
    SparseBatchNorm,
    SparseConv3d,
    SparseConvTensor,
    SparseIdentity,
    SparseInverseConv3d,
    SparseMaxPool3d,
    SparseModule,
    SparseReLU,
    SparseSequential,
    SparseSyncBatchNorm,
    SubMConv3d,
    ToDense,
)
from tests.conftest import ROOT
from tests.ops.sparse_problems import coordinates

CLASSES = [SparseConvTensor, mmcv.ops.SparseConvTensor]


def tensor(cls=SparseConvTensor, count=30, channels=4):
    cells = torch.randperm(2 * 6**3)[:count]
    indices = coordinates(cells, [2, 6, 6, 6])
    return cls(torch.randn(count, channels), indices, [6, 6, 6], 2)


@pytest.mark.parametrize('cls', CLASSES)
def test_layers_run_in_turn_and_the_input_stays(cls):
    x = tensor(cls)
    features, conv, linear = x.features, SubMConv3d(4, 5, 3), nn.Linear(5, 2)
    out = SparseSequential(nn.Tanh(), conv, SparseSequential(nn.ReLU(), linear))(x)
    same = cls(features.tanh(), x.indices, x.spatial_shape, 2)
    torch.testing.assert_close(out.features, linear(conv(same).features.relu()))
    assert type(out) is SparseConvTensor and isinstance(out, cls) and x.features is features


def test_it_is_filled_as_torch_s_and_goes_on_with_dense_modules():
    conv, relu, dense = SubMConv3d(4, 5, 3), nn.ReLU(), ToDense()
    for net in (
        SparseSequential(conv, relu, dense),
        SparseSequential(OrderedDict(conv=conv, relu=relu, dense=dense)),
        SparseSequential(conv=conv, relu=relu, dense=dense),
        SparseSequential(conv, relu=relu, dense=dense),
    ):
        assert len(net) == 3 and net[0] is conv and net[-1] is dense
        net.add(nn.Conv3d(5, 2, 3), 'last')
        assert net(tensor()).shape == (2, 2, 4, 4, 4)
        assert list(net._modules)[-1] == 'last' and set(net.sparity_dict) <= set(net._modules)
        with pytest.raises(IndexError):
            net[4]
    with pytest.raises(ValueError, match='name exists'):
        SparseSequential(OrderedDict(conv=conv), conv=conv)


@pytest.mark.parametrize('outer', [mmcv.ops.SparseSequential, SparseSequential])
@pytest.mark.parametrize('inner', [mmcv.ops.SparseSequential, SparseSequential])
@pytest.mark.parametrize('cls', CLASSES)
def test_ours_and_mmcv_s_go_into_each_other(outer, inner, cls):
    net = outer(inner(SubMConv3d(4, 4, 3), nn.ReLU()), SparseConv3d(4, 3, 3, 2), RemoveGrid())
    out = net(tensor(cls))
    assert type(out) is SparseConvTensor and isinstance(out, cls)
    assert out.features.shape[1] == 3 and out.grid is None
    assert isinstance(net[0], SparseModule) == (inner is SparseSequential)
    assert isinstance(net[0], mmcv.ops.SparseModule)


def test_modules_of_mmdet3d_take_ours():
    block = SparseBasicBlock(4, 4, conv_cfg=dict(type='SubMConv3d'), norm_cfg=dict(type='BN1d'))
    x = tensor()
    out = SparseSequential(block)(x)
    assert type(out) is SparseConvTensor and out.indices is x.indices
    encoder = SparseEncoder(
        4,
        [9, 16, 16],
        encoder_channels=((16,), (16,)),
        encoder_paddings=((1,), (1,)),
        output_channels=16,
    )
    assert encoder.conv_input(x).features.shape == (30, 16)


def test_a_module_of_the_user_s_own():
    class Residual(SparseModule):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(3, 3))
            self.net = SparseSequential(SubMConv3d(4, 4, 3, indice_key='a'), nn.ReLU())

        def forward(self, x):
            return x + self.net(x)

    module = Residual()
    assert SparseSequential(module)(tensor()).features.shape == (30, 4)
    other = Residual()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.scale, module.scale)


@pytest.mark.parametrize('cls', CLASSES)
def test_without_voxels_the_other_modules_are_left_out(cls):
    net = SparseSequential(SubMConv3d(4, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), ToDense())
    assert torch.equal(net(tensor(cls, count=0)), torch.zeros(2, 5, 6, 6, 6))


@pytest.mark.parametrize('cls', CLASSES)
def test_layers_on_features(cls):
    x = tensor(cls)
    assert torch.equal(SparseReLU()(x).features, x.features.relu())
    assert torch.equal(SparseReLU()(x.features), x.features.relu())
    norm = SparseBatchNorm(4)
    assert torch.equal(
        SparseSequential(norm)(x).features, nn.BatchNorm1d(4)(x.features)
    ) and isinstance(norm, nn.BatchNorm1d)
    assert isinstance(SparseIdentity()(x), cls) and Identity()(x) is x


def test_fused_folds_batch_norms():
    down = SparseConv3d(4, 6, 3, 2, 1, bias=False, indice_key='d')
    up = SparseInverseConv3d(6, 4, 3, 'd')
    net = SparseSequential(
        down, nn.BatchNorm1d(6), nn.ReLU(), up, nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4)
    )
    for _ in range(3):
        net(tensor())
    fused = net.eval().fused()
    assert [type(layer).__name__ for layer in fused] == [
        'SparseConv3d',
        'ReLU',
        'SparseInverseConv3d',
    ]
    x = tensor()
    torch.testing.assert_close(
        fused(x).features, net(tensor_like(x)).features, rtol=1e-4, atol=1e-5
    )
    assert down.bias is None and fused[0].weight is not down.weight


@pytest.mark.parametrize('track', [True, False])
def test_fused_shares_nothing(track):
    norm = nn.BatchNorm1d(6, track_running_stats=track)
    net = SparseSequential(SubMConv3d(4, 6, 3), norm, nn.ReLU(), SubMConv3d(6, 4, 3), nn.Dropout())
    x = tensor()
    net(tensor_like(x))
    expected = net.eval()(tensor_like(x)).features
    fused = net.train().fused()
    assert not any(module.training for module in fused.modules()) and net.training
    assert [type(layer) for layer in fused].count(nn.BatchNorm1d) == (not track)
    torch.testing.assert_close(fused(tensor_like(x)).features, expected, rtol=1e-4, atol=1e-5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused.half()
    for parameter in fused.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    mine, theirs = ({id(m) for m in n.modules()} for n in (net, fused))
    assert not mine & theirs


class Doubled(nn.BatchNorm1d):
    """A norm of the user's own."""

    def forward(self, x):
        return 2 * super().forward(x)


def hooked(module):
    module.register_forward_hook(
        lambda _, args, out: (
            out * 3 if isinstance(out, torch.Tensor) else out.replace_feature(out.features * 3)
        )
    )
    return module


UNFOLDED = dict(
    relu=lambda: (SubMConv3d(4, 6, 3, act_type='ReLU'), nn.BatchNorm1d(6)),
    sigmoid=lambda: (SubMConv3d(4, 6, 1, act_type='Sigmoid'), SparseBatchNorm(6)),
    norm=lambda: (SubMConv3d(4, 6, 3), Doubled(6)),
    hook=lambda: (hooked(SubMConv3d(4, 6, 3)), nn.BatchNorm1d(6)),
    hook_of_norm=lambda: (SubMConv3d(4, 6, 3), hooked(nn.BatchNorm1d(6))),
    parametrized=lambda: (weight_norm(SubMConv3d(4, 6, 3)), nn.BatchNorm1d(6)),
)


@pytest.mark.parametrize('name', UNFOLDED)
def test_fused_leaves_what_it_cannot_fold(name):
    net = SparseSequential(*UNFOLDED[name]())
    for _ in range(3):
        net(tensor())
    x = tensor()
    expected = net.eval()(tensor_like(x)).features
    fused = net.fused()
    assert torch.equal(fused(tensor_like(x)).features, expected) and len(fused) == 2
    if 'norm' not in name:
        with pytest.raises(
            ValueError, match='without act_type, forward hooks and parametrizations'
        ):
            net[0].with_norm(nn.BatchNorm1d(6))


def test_a_norm_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r'norm must have 6 channels \(out_channels\), has 5'):
        SubMConv3d(4, 6, 3).with_norm(nn.BatchNorm1d(5))


def test_fused_in_half_precision_stays_half():
    net = SparseSequential(SubMConv3d(4, 6, 3, bias=False), nn.BatchNorm1d(6)).bfloat16()
    assert {p.dtype for p in net.fused().parameters()} == {torch.bfloat16}


class Net(nn.Module):
    """Norms for sparse tensors at several depths."""

    def __init__(self):
        super().__init__()
        self.norm = SparseBatchNorm(4)
        self.net = SparseSequential(SubMConv3d(4, 4, 3), SparseBatchNorm(4), nn.BatchNorm1d(4))

    def forward(self, x):
        return self.net(self.norm(x))


CONVERSIONS = {
    'PyTorch': nn.SyncBatchNorm.convert_sync_batchnorm,
    'mmengine': convert_sync_batchnorm,
    'spconv': SparseSyncBatchNorm.convert_sync_batchnorm,
}


@pytest.mark.parametrize('by', CONVERSIONS)
def test_converted_norms_take_sparse_tensors(by):
    net = Net()
    x = tensor()
    net(tensor_like(x))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net.eval()(tensor_like(x)).features
    net = CONVERSIONS[by](net)
    assert type(net.norm) is type(net.net[1]) is SparseSyncBatchNorm
    assert type(net.net[2]) is nn.SyncBatchNorm and isinstance(net.norm, nn.SyncBatchNorm)
    assert net.state_dict().keys() == state.keys()
    for copied in (
        net,
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        revert_sync_batchnorm(net),
    ):
        assert torch.equal(copied.eval()(tensor_like(x)).features, expected)
        assert torch.equal(copied.norm(tensor_like(x).features), copied.norm(x).features)
    assert not isinstance(net.norm, nn.SyncBatchNorm)  # it is changed in place
    pickle.loads(pickle.dumps(net))


def test_a_norm_alone_is_converted_by_its_own_class():
    norm = SparseSyncBatchNorm.convert_sync_batchnorm(SparseBatchNorm(4))
    assert type(norm) is SparseSyncBatchNorm and norm.eval()(tensor()).features.shape == (30, 4)


@pytest.mark.parametrize('sequential', [SparseSequential, mmcv.ops.SparseSequential])
def test_parameters_take_part_without_voxels(sequential):
    """DistributedDataParallel waits for the gradient of each parameter on each process."""
    net = sequential(
        SubMConv3d(4, 6, 3),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        sequential(SparseConv3d(6, 6, 3, 2, 1, bias=False), nn.LayerNorm(6)),
        SparseMaxPool3d(3, 2, 1),
        sequential(nn.BatchNorm1d(6)),
        ToDense(),
    )
    for cls in CLASSES:
        net.zero_grad()
        net(tensor(cls, count=0)).sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    assert all(
        torch.equal(m.running_mean, torch.zeros(6))
        for m in net.modules()
        if isinstance(m, nn.BatchNorm1d)
    )
    again = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    again(tensor(count=0)).sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    with torch.no_grad():
        net(tensor(count=0))


def test_a_linear_layer_sets_the_channels_without_voxels():
    net = SparseSequential(SubMConv3d(4, 6, 3), nn.Linear(6, 9), SubMConv3d(9, 5, 3))
    assert net(tensor(count=0)).features.shape == (0, 5)


def tensor_like(x):
    return SparseConvTensor(x.features, x.indices, x.spatial_shape, x.batch_size)


SPCONV_SCRIPT = """
import torch, spconv.pytorch as spconv, mxd_mmplugin as mxd
from spconv.pytorch import functional
torch.manual_seed(0)
torch.set_num_threads(1)  # on two, spconv's transposed convolution loses a sum now and then
indices = torch.unique(torch.randint(0, 8, (90, 3)), dim=0)
indices = torch.cat([torch.zeros(len(indices), 1, dtype=torch.long), indices], 1).int()
args = torch.randn(len(indices), 4), indices, [8, 8, 8], 1

for sequential in (spconv.SparseSequential, mxd.SparseSequential):
    for cls in (spconv.SparseConvTensor, mxd.SparseConvTensor):
        x = cls(*args)
        assert isinstance(x, spconv.SparseConvTensor)
        inner = mxd.SparseSequential(mxd.SubMConv3d(4, 4, 3), torch.nn.ReLU())
        out = sequential(inner, torch.nn.ReLU(), mxd.SparseMaxPool3d(2, 2))(x)
        assert type(out) is mxd.SparseConvTensor and isinstance(out, cls), out
        assert out.spatial_shape == [4, 4, 4]
        same = cls(args[0], indices.flip(0), [8, 8, 8], 1)
        assert type(mxd.sparse_add(x, same)) is mxd.SparseConvTensor
        torch.testing.assert_close(mxd.sparse_add(x, same).features, args[0] + args[0].flip(0))

theirs = spconv.SubMConv3d(4, 6, 3, bias=False).eval()
ours = mxd.SubMConv3d(4, 6, 3, bias=False)
ours.load_state_dict(theirs.state_dict())
with torch.no_grad():
    a, b = theirs(mxd.SparseConvTensor(*args)), ours(mxd.SparseConvTensor(*args))
    torch.testing.assert_close(a.dense(), b.dense(), rtol=1e-4, atol=1e-5)
    positive = [args[0].abs(), *args[1:]]  # theirs starts at 0
    a = spconv.SparseMaxPool3d(3, 2)(spconv.SparseConvTensor(*positive))
    b = mxd.SparseMaxPool3d(3, 2)(mxd.SparseConvTensor(*positive))
    torch.testing.assert_close(a.dense(), b.dense())
    mirrored = (indices - torch.tensor([0, 7, 7, 7], dtype=torch.int32)).abs()[:9]
    other = spconv.SparseConvTensor(args[0][:9], mirrored, [8, 8, 8], 1)
    # Its strided layers replace the features of our tensor before its indices. On a CPU it adds no bias.
    for layer in (
        spconv.SparseConv3d(4, 4, 3, 2, 1, bias=False, indice_key='a'),
        spconv.SparseMaxPool3d(3, 2),
        spconv.SparseConvTranspose3d(4, 4, 3, 2, bias=False),
        spconv.SparseSequential(
            spconv.SparseConv3d(4, 4, 3, 2, bias=False, indice_key='b'),
            spconv.SparseInverseConv3d(4, 4, 3, 'b', bias=False),
        ),
    ):
        a, b = (layer.eval()(cls(*positive)) for cls in (spconv.SparseConvTensor, mxd.SparseConvTensor))
        assert type(b) is mxd.SparseConvTensor and list(b.spatial_shape) == list(a.spatial_shape)
        torch.testing.assert_close(b.dense(), a.dense())
        assert mxd.SubMConv3d(4, 4, 3)(b).features.shape == b.features.shape
    a = functional.sparse_add(spconv.SparseConvTensor(*args), other)
    b = mxd.sparse_add(spconv.SparseConvTensor(*args), other)
    torch.testing.assert_close(a.dense(), b.dense())
print('fits')
"""


def test_beside_spconv():
    rivals = ROOT / '.rivals'
    if not (rivals / 'spconv').is_dir():
        pytest.skip('spconv is not in .rivals: `make test` puts it there')
    run = subprocess.run(
        [sys.executable, '-c', SPCONV_SCRIPT],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(rivals), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == 'fits', run.stderr
