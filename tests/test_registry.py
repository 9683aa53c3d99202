"""What importing the package registers."""

import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS

import mxd_mmplugin
from mxd_mmplugin import registry

# What mmcv registers, and the layers of the same family that it has no name for.
NAMES = (
    'SparseConv2d',
    'SparseConv3d',
    'SparseConv4d',
    'SparseConvTranspose2d',
    'SparseConvTranspose3d',
    'SparseInverseConv2d',
    'SparseInverseConv3d',
    'SubMConv2d',
    'SubMConv3d',
    'SubMConv4d',
    'SparseMaxPool2d',
    'SparseMaxPool3d',
)


def test_stock_and_explicit_names():
    for name in NAMES:
        assert MODELS.get(name) is MODELS.get(f'Mxd{name}') is getattr(mxd_mmplugin, name)


@pytest.mark.parametrize('scope', ['mmcv', 'mmdet3d', 'mmengine'])
def test_names_with_a_scope(scope):
    from mmdet3d.registry import MODELS as MMDET3D_MODELS

    for parent in (MODELS, MMDET3D_MODELS):
        for name in (*NAMES, 'DCN', 'MxdSubMConv3d'):
            assert parent.get(f'{scope}.{name}') is MODELS.get(name)
        layer = parent.build(
            dict(type=f'{scope}.SubMConv3d', in_channels=2, out_channels=3, kernel_size=3)
        )
        assert type(layer) is mxd_mmplugin.SubMConv3d


def test_the_scope_of_mmcv_has_the_rest_of_mmcv_too():
    assert MODELS.get('mmcv.ReLU') is torch.nn.ReLU


def test_every_sparse_name_of_mmcv_is_in_the_table():
    import mmcv.ops.sparse_conv

    stock = {
        name
        for name, cls in vars(mmcv.ops.sparse_conv).items()
        if isinstance(cls, type) and name[-2:] in ('1d', '2d', '3d', '4d')
    }
    assert 'SubMConv3d' in stock and stock <= {entry.name for entry in registry.table()}


def test_every_name_of_the_table_is_held():
    rows = registry.status()
    assert all(row.swapped for row in rows)
    assert {'SubMConv3d', 'MxdSubMConv3d', 'DataBaseSampler', 'BEVPictureHook'} <= {
        row.name for row in rows
    }


def test_registering_again_changes_nothing():
    before = {name: MODELS.get(name) for name in NAMES}
    registry.register()
    assert before == {name: MODELS.get(name) for name in NAMES}


def test_a_gpu_keeps_the_kernels_of_mmcv(monkeypatch):
    monkeypatch.setattr(registry, 'cuda_serves', lambda: True)
    layers = [entry for entry in registry.table() if entry.name in NAMES]
    assert [entry.names for entry in layers] == [[f'Mxd{entry.name}'] for entry in layers]


@pytest.mark.parametrize('gpus', [None, 0, 2], ids=['no build for GPUs', 'no GPU', 'two GPUs'])
def test_only_pytorch_itself_is_asked_for_gpus(monkeypatch, gpus):
    """What torch.cuda says is the answer for NPUs where transfer_to_npu is active."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.delattr(torch._C, '_cuda_getDeviceCount', raising=False)
    if gpus is not None:
        monkeypatch.setattr(torch._C, '_cuda_getDeviceCount', lambda: gpus, raising=False)
    monkeypatch.setattr(registry, 'get_compiling_cuda_version', lambda: '12.6')
    assert registry.gpu_count() == (gpus or 0)
    assert registry.cuda_serves() == bool(gpus)
    monkeypatch.setattr(registry, 'get_compiling_cuda_version', lambda: 'not available')
    assert not registry.cuda_serves()


@pytest.mark.parametrize(
    'order', [('mxd_mmplugin', 'mmdet3d.models'), ('mmdet3d.models', 'mxd_mmplugin')]
)
def test_the_order_of_imports_does_not_matter(order):
    code = (
        f'import {order[0]}, {order[1]}; from mmcv.cnn import build_conv_layer; '
        "print(type(build_conv_layer(dict(type='SubMConv3d'), 4, 4, 3)).__module__)"
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.strip() == 'mxd_mmplugin.modules.sparse_conv', run.stderr
