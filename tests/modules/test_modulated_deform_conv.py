"""The deformable convolution layers beside mmcv's, and in a stock CenterPoint head."""

import copy
from importlib.util import find_spec
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmcv.cnn import build_conv_layer
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict
from torch import nn

import mxd_mmplugin
from mxd_mmplugin import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
from tests.conftest import exports_autograd, traces

STOCK = Path(find_spec('mmdet3d').origin).parent / '.mim' / 'configs' / 'centerpoint'
PACKS = {'DCN': DeformConv2dPack, 'DCNv2': ModulatedDeformConv2dPack}
LAYERS = DeformConv2d, ModulatedDeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack


def mmcv_class(cls):
    return getattr(mmcv.ops, cls.__name__)


def pair(cls, *args, **kwargs):
    """Our layer and mmcv's, drawn from the same seed, with offsets that are not zero."""
    layers = []
    for each in (cls, mmcv_class(cls)):
        torch.manual_seed(1)
        layer = each(*args, **kwargs)
        if hasattr(layer, 'conv_offset'):
            nn.init.normal_(layer.conv_offset.weight, std=0.2)
            nn.init.uniform_(layer.conv_offset.bias, -1, 1)
        layers.append(layer)
    return layers


def run(layer, *inputs):
    """Output and the gradients of inputs and parameters."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = layer(*inputs)
    wanted = [*inputs, *layer.parameters()]
    return [
        out,
        *torch.autograd.grad(out, wanted, torch.cos(torch.arange(out.numel())).view_as(out)),
    ]


def assert_same(ours, theirs):
    for got, want in zip(ours, theirs):
        scale = max(want.abs().max().item(), 1)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize('name', PACKS)
@pytest.mark.parametrize(
    'arguments',
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=3, padding=1, stride=2, groups=4),
        dict(kernel_size=(3, 5), padding=(2, 2), dilation=(2, 1), deform_groups=2, bias=False),
    ],
)
def test_packs_are_mmcvs(name, arguments):
    cls = PACKS[name]
    if name == 'DCN':
        arguments = dict(arguments, bias=False)
    ours, theirs = pair(cls, 16, 24, **arguments)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
    assert repr(ours) == repr(theirs)
    x = torch.randn(2, 16, 9, 12)
    assert_same(run(ours, x), run(theirs, x))


@pytest.mark.parametrize('size', [(9, 12), (2, 12), (2, 1)])
def test_layers_with_given_offsets_are_mmcvs(size):
    x, offset = torch.randn(2, 8, *size), torch.randn(2, 36, *size)
    mask = torch.rand(2, 18, *size)
    arguments = dict(kernel_size=3, padding=1, groups=2, deform_groups=2)
    ours, theirs = pair(DeformConv2d, 8, 6, **arguments)
    assert_same(run(ours, x, offset), run(theirs, x, offset))
    ours, theirs = pair(ModulatedDeformConv2d, 8, 6, **arguments)
    assert_same(run(ours, x, offset, mask), run(theirs, x, offset, mask))


@pytest.mark.parametrize('cls', LAYERS)
def test_old_argument_name(cls):
    with pytest.warns(DeprecationWarning, match='deform_groups'):
        layer = cls(8, 6, 3, deformable_groups=2)
    assert layer.deform_groups == 2


def test_devices_without_autocast():
    layer = DeformConv2d(8, 6, 3).to('meta')
    out = layer(torch.empty(2, 8, 9, 12, device='meta'), torch.empty(2, 18, 7, 10, device='meta'))
    assert out.shape == (2, 6, 7, 10)


def test_v1_has_no_bias():
    with pytest.raises(AssertionError, match='bias=True is not supported'):
        DeformConv2d(8, 6, 3, bias=True)


@pytest.mark.parametrize('name', PACKS)
def test_names(name):
    cls = PACKS[name]
    for key in (name, f'Mxd{cls.__name__}'):
        layer = build_conv_layer(dict(type=key, deform_groups=2), 8, 6, 3, padding=1)
        assert type(layer) is cls and layer.deform_groups == 2


@pytest.mark.parametrize('cls', LAYERS)
def test_whoever_asks_for_mmcvs_class_finds_it(cls):
    layer = cls(8, 6, 3)
    assert isinstance(layer, mmcv_class(cls))
    base = DeformConv2d if issubclass(cls, DeformConv2d) else ModulatedDeformConv2d
    assert isinstance(layer, base) and isinstance(layer, mmcv_class(base))


@pytest.mark.parametrize('name', PACKS)
def test_learning_rate_of_the_offsets(name):
    model = nn.Sequential(build_conv_layer(dict(type=name), 8, 6, 3))
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            paramwise_cfg=dict(dcn_offset_lr_mult=0.1),
        ),
    )
    rates = {id(g['params'][0]): g['lr'] for g in wrapper.optimizer.param_groups}
    assert rates[id(model[0].conv_offset.weight)] == pytest.approx(0.1)
    assert rates[id(model[0].weight)] == 1.0


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, mmengine_load_state_dict])
@pytest.mark.parametrize('name', PACKS)
def test_checkpoints_with_the_old_name_of_the_offsets(name, load):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv2 = build_conv_layer(dict(type=name), 8, 6, 3)

    saved, model = (nn.ModuleDict(dict(layer1=nn.Sequential(Block()))) for _ in range(2))
    nn.init.normal_(saved.layer1[0].conv2.conv_offset.weight)
    state = saved.state_dict()
    old = {key.replace('conv2.conv_offset', 'conv2_offset'): value for key, value in state.items()}
    assert 'layer1.0.conv2_offset.weight' in old
    for checkpoint in (old, state):
        load(copy.deepcopy(model), checkpoint, strict=True)
        load(model, checkpoint, strict=True)
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        for parameter in model.parameters():
            nn.init.zeros_(parameter)


@traces
@pytest.mark.parametrize('name', PACKS)
def test_compiles(name):
    layer = build_conv_layer(dict(type=name), 8, 6, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    x = torch.randn(2, 8, 7, 9)
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    assert_same(run(compiled, x), run(layer, x))


@traces
@pytest.mark.parametrize('grad', [False, pytest.param(True, marks=exports_autograd)])
@pytest.mark.parametrize('name', PACKS)
def test_exports(name, grad):
    layer = build_conv_layer(dict(type=name), 8, 6, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    height = torch.export.Dim('height', min=4, max=64)
    with torch.set_grad_enabled(grad):
        args, shapes = (torch.randn(2, 8, 7, 9),), ({2: height},)
        exported = torch.export.export(layer, args, dynamic_shapes=shapes).module()
    x = torch.randn(2, 8, 20, 9)
    torch.testing.assert_close(exported(x), layer(x))


def test_autocast():
    layer = ModulatedDeformConv2dPack(8, 6, 3, padding=1)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(torch.randn(2, 8, 7, 9))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == layer.conv_offset.weight.grad.dtype == torch.float32


def test_stock_centerpoint_head():
    config = Config.fromfile(
        STOCK / 'centerpoint_voxel01_second_secfpn_head-dcn_8xb4-cyclic-20e_nus-3d.py'
    )
    init_default_scope('mmdet3d')
    head = config.model.pts_bbox_head
    head.update(
        tasks=head.tasks[:2],
        train_cfg=config.model.train_cfg.pts,
        test_cfg=config.model.test_cfg.pts,
    )
    ours = MODELS.build(head)
    ours.init_weights()
    layers = [m for m in ours.modules() if isinstance(m, mmcv.ops.DeformConv2dPack)]
    assert len(layers) == 4 and {type(m) for m in layers} == {DeformConv2dPack}
    assert {(m.groups, m.deform_groups) for m in layers} == {(4, 1)}
    for layer in layers:
        nn.init.normal_(layer.conv_offset.weight, std=0.05)
    theirs = copy.deepcopy(ours)
    for layer in theirs.modules():
        if type(layer) is mxd_mmplugin.DeformConv2dPack:
            layer.__class__ = mmcv.ops.DeformConv2dPack
    x = torch.randn(1, 512, 20, 24)
    results = []
    for model in (ours.eval(), theirs.eval()):
        outs = model([x.clone()])
        values = [value for task in outs for value in task[0].values()]
        loss = sum((value * torch.cos(value.detach())).sum() for value in values)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        results.append([*values, *grads])
    assert_same(*results)


def test_examples_of_the_page_run():
    page = Path(__file__).parents[2] / 'docs' / 'modulated_deform_conv.md'
    lines = page.read_text().splitlines()
    names = {}
    exec('\n'.join(line[4:] for line in lines if line.startswith('    ')), names)
    assert names['output'].shape == (2, 64, 10, 20) and names['x'].grad.any()
