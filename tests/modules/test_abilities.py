"""What mmcv's classes can beside computing, ours can too: a list of abilities, each asked of both."""

import copy
import io
import pickle
from functools import partial

import mmcv.ops
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from mxd_mmplugin import SparseConvTensor
from mxd_mmplugin.registry import DEFORM_LAYERS, SPARSE_LAYERS
from tests.conftest import on_cpu, run

X = torch.randn(2, 4, 8, 8)
WINDOW = dict(kernel_size=3, padding=1)


def theirs_of(name):
    """Mmcv's class of a registered name."""
    if name in DEFORM_LAYERS:
        return dict(DCN=mmcv.ops.DeformConv2dPack, DCNv2=mmcv.ops.ModulatedDeformConv2dPack)[name]
    return (
        getattr(mmcv.ops, name, None)
        or getattr(mmcv.ops.sparse_pool, name, None)
        or getattr(mmcv.ops.sparse_conv, name, None)
    )


PAIRS = {name: (cls, theirs_of(name)) for name, cls in {**SPARSE_LAYERS, **DEFORM_LAYERS}.items()}
PAIRS = {name: pair for name, pair in PAIRS.items() if pair[1] is not None}


def make(name, cls):
    if 'Pool' in name:
        return cls(3)
    inverse = dict(indice_key='a') if 'Inverse' in name else {}
    bias = {} if name == 'DCN' else dict(bias=False)
    return cls(4, 6, 3, **inverse, **bias)


def test_every_swapped_layer_is_here():
    assert {*DEFORM_LAYERS} < {*PAIRS} and sum('3d' in name for name in PAIRS) >= 5


@pytest.mark.parametrize('name', PAIRS)
def test_attributes(name):
    ours, theirs = (make(name, cls) for cls in PAIRS[name])
    for key, value in vars(theirs).items():
        if key.startswith('_') or key in ('fused_bn', 'return_indices'):
            continue
        mine = getattr(ours, key)
        same = [*mine] == [*value] if isinstance(value, (list, tuple)) else bool(mine == value)
        assert same, (key, mine, value)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert all(a.shape == b.shape for a, b in zip(ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize('name', PAIRS)
def test_copies_states_and_hooks(name):
    ours, theirs = (make(name, cls) for cls in PAIRS[name])
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    called = []
    for layer in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        copy.deepcopy(ours).double().float(),
    ):
        assert repr(layer) and type(layer) is type(ours)
        for a, b in zip(layer.parameters(), ours.parameters()):
            assert torch.equal(a, b)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    assert type(torch.load(buffer, weights_only=False)) is type(ours)
    if name in DEFORM_LAYERS:
        ours.register_forward_hook(lambda *_: called.append('forward'))
        ours.register_forward_pre_hook(lambda *_: called.append('before'))
        ours.register_full_backward_hook(lambda *_: called.append('backward'))
        ours(X.requires_grad_()).sum().backward()
        assert called == ['before', 'forward', 'backward']
        ours.apply(lambda m: None).requires_grad_(False).to(memory_format=torch.channels_last)


class Block(nn.Module):
    """A deformable convolution as a model uses it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.after = layer, nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.after(self.layer(x).relu())


def exported(model, monkeypatch):
    """Operators of an ONNX graph made by tracing, with their attributes: what PyTorch hands to `onnx`."""
    utils = pytest.importorskip('torch.onnx.utils')
    if not hasattr(utils, '_model_to_graph'):
        utils = pytest.importorskip('torch.onnx._internal.torchscript_exporter.utils')
    globals_ = pytest.importorskip('torch.onnx._internal.torchscript_exporter._globals')
    monkeypatch.setattr(globals_.GLOBALS, 'export_onnx_opset_version', 17)
    graph, *_ = utils._model_to_graph(model, (X.detach(),))
    found = []
    for node in graph.nodes():
        if node.kind().startswith('mmcv::'):
            inputs = len([*node.inputs()])
            attributes = {n: getattr(node, node.kindOf(n))(n) for n in node.attributeNames()}
            found.append((node.kind(), inputs, attributes))
    return found


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('DCN', dict(padding=1)),
        ('DCN', dict(stride=2, groups=2, deform_groups=2, im2col_step=16)),
        ('DCNv2', dict(padding=1, bias=False)),
        ('DCNv2', dict(stride=(2, 1), padding=(1, 2), dilation=2, deform_groups=2)),
    ],
)
@pytest.mark.parametrize('grad', [True, False])
def test_deformable_convolutions_export_as_mmcv_s(name, options, grad, monkeypatch):
    ours, theirs = (Block(cls(4, 6, 3, **options)).eval() for cls in PAIRS[name])
    kind = dict(DCN='mmcv::MMCVDeformConv2d', DCNv2='mmcv::MMCVModulatedDeformConv2d')[name]
    with torch.set_grad_enabled(grad):
        mine = exported(ours, monkeypatch)
        assert [x[0] for x in mine] == [kind]
        try:
            expected = exported(theirs, monkeypatch)
        except BaseException as error:  # mmcv without its operators
            pytest.skip(f'mmcv does not run: {error}')
    assert mine == expected


@pytest.mark.parametrize('name', DEFORM_LAYERS)
def test_deformable_convolutions_trace(name):
    """torch.jit.trace keeps mmcv's as calls of Python, ours too."""
    ours = Block(make(name, PAIRS[name][0])).eval()
    with torch.no_grad():
        traced = torch.jit.trace(ours, X.detach(), check_trace=False)
        assert torch.allclose(traced(X.detach() + 1), ours(X.detach() + 1))


def test_registered_names_build_them():
    for name, (ours, _) in PAIRS.items():
        assert MODELS.get(name) is ours


class ToSparse(nn.Module):
    """Features [voxels, 4] to a sparse tensor of a grid of 6 cells along each of so many dimensions."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, features):
        cells = torch.arange(len(features)) * 5 % 6**self.dims
        places = [cells // 6**d % 6 for d in range(self.dims)]
        indices = torch.stack([cells * 0, *places], 1).int()
        return SparseConvTensor(features, indices, [6] * self.dims, 1)


class Features(nn.Module):
    """Those of a sparse tensor."""

    def forward(self, x):
        return x.features


def model_of(name, cls):
    """A model with the layer, and its input; an inverse layer follows the one that it inverts."""
    if name in DEFORM_LAYERS:
        return Block(make(name, cls)), X.detach()
    dims = int(name[-2])
    before = (
        [
            MODELS.build(
                dict(
                    type=f'SparseConv{dims}d',
                    in_channels=4,
                    out_channels=4,
                    kernel_size=3,
                    indice_key='a',
                )
            )
        ]
        if 'Inverse' in name
        else []
    )
    return nn.Sequential(ToSparse(dims), *before, make(name, cls), Features()), torch.randn(6, 4)


def gradients(run, model, x):
    x = x.clone().requires_grad_()
    out = run(x)
    model.zero_grad()
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


def same(run, other, model, x):
    assert all(map(torch.equal, gradients(run, model, x), gradients(other, model, x)))


def fx(model, x):
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return '.' in name or name in ('layer', *map(str, range(9)))

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    same(traced, model, model, x)


def average(model, x):
    mean = ExponentialMovingAverage(model, momentum=0.5)
    old = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    for _ in range(2):
        mean.update_parameters(model)
    for mine, before in zip(mean.module.parameters(), old):
        assert torch.allclose(mine, before + 0.5) or torch.allclose(mine, before + 1)
    again = ExponentialMovingAverage(copy.deepcopy(model))
    again.load_state_dict(mean.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), mean(x))


def recomputed(model, x):
    for reentrant in (True, False):
        same(partial(checkpoint, model, use_reentrant=reentrant), model, model, x)


def channels_last(model, x):
    with torch.no_grad():
        expected = model(x)
        wide = any(weight.dim() == 5 for weight in model.parameters())
        model.to(memory_format=torch.channels_last_3d if wide else torch.channels_last)
        x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
        assert torch.allclose(model(x), expected, atol=1e-5)


def copied(model, x):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(other(x), model(x))
            for weight in other.parameters():
                weight.zero_()
        assert any(p.abs().sum() for p in model.parameters()) or not [*model.parameters()]


ABILITIES = {f.__name__: f for f in (fx, average, recomputed, channels_last, copied)}


@pytest.mark.parametrize('ability', ABILITIES)
@pytest.mark.parametrize('name', PAIRS)
def test_abilities(name, ability):
    """Each of our layers has each of them; so the original's are there, too."""
    model, x = model_of(name, PAIRS[name][0])
    ABILITIES[ability](model.eval(), x)


FORK = """
import os, torch, mxd_mmplugin as mxd
torch.set_num_threads(4)
layer = mxd.SubMConv3d(4, 6, 3)
coors = torch.stack([torch.zeros(4000), *(torch.arange(4000) // 20**d % 20 for d in range(3))], 1).int()
run = lambda: layer(mxd.SparseConvTensor(torch.ones(4000, 4), coors, [20] * 3, 1)).features
run().sum().backward()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as a data loader's worker does
    run().sum().backward()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
run().sum().backward()
print('done')
"""


def test_a_fork_after_openmp(tmp_path):
    assert run(tmp_path, '-c', FORK, env=on_cpu()).strip() == 'done'


def test_the_inverse_of_a_pooling():
    x = ToSparse(3)(torch.randn(40, 4))
    pool = PAIRS['SparseMaxPool3d'][0](2, 2, indice_key='p')
    inverse = PAIRS['SparseInverseConv3d'][0](4, 6, 2, indice_key='p')
    out = inverse(pool(x))
    assert torch.equal(out.indices, x.indices) and out.features.shape == (40, 6)
    out.features.sum().backward()
    assert inverse.weight.grad.isfinite().all()
