"""What mmcv's classes can beside computing, ours can too: a list of abilities, each asked of both."""

import copy
import io
import pickle

import mmcv.ops
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mxd_mmplugin.registry import DEFORM_LAYERS, SPARSE_LAYERS

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
