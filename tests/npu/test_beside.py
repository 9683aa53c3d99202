"""Beside mx_driving, whose import has torch.cuda answer for the NPUs (transfer_to_npu)."""

import json

import pytest

from mxd_mmplugin import softnpu
from tests.conftest import run
from tests.npu.test_training import SHORT, TRAIN, losses, on_npu

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='compares runs on one machine')

TRANSFER = 'torch_npu.contrib.transfer_to_npu'
ORDERS = {'before': (TRANSFER, 'mxd_mmplugin'), 'after': ('mxd_mmplugin', TRANSFER)}
LAYERS = """
import json
import sys
from importlib import import_module

for name in sys.argv[1:]:
    import_module(name)
import torch
from mmcv.cnn import build_conv_layer

from mxd_mmplugin import registry

layer = build_conv_layer(dict(type='SubMConv3d'), 4, 4, 3)
print(json.dumps([
    torch.cuda.is_available(),
    registry.cuda_serves(),
    type(layer).__module__,
    all(row.swapped for row in registry.status()),
]))
"""
# tools/train.py after an import.
AFTER_TRANSFER = f"""
import runpy
import sys
from pathlib import Path

import {TRANSFER}

del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name='__main__')
"""
# An epoch of four steps.
FOUR_STEPS = SHORT.replace('max_epochs=3', 'max_epochs=1')


@pytest.mark.parametrize('order', ORDERS)
def test_the_sparse_layers_are_ours(tmp_path, order):
    output = run(tmp_path, '-c', LAYERS, *ORDERS[order], env=on_npu())
    answer = json.loads(output.splitlines()[-1])
    assert answer == [True, False, 'mxd_mmplugin.modules.sparse_conv', True]


@pytest.fixture(scope='module')
def folder(folder):
    """The working folder with the configurations and the script."""
    (folder / 'four.py').write_text(FOUR_STEPS)
    (folder / 'four_after.py').write_text(
        f"{FOUR_STEPS}custom_imports = dict(imports=['mxd_mmplugin', '{TRANSFER}'])\n"
    )
    (folder / 'after_transfer.py').write_text(AFTER_TRANSFER)
    return folder


@pytest.mark.parametrize('order', ORDERS)
def test_the_small_centerpoint_trains(folder, trained, order):
    """The losses are those of the first four steps with no transfer_to_npu."""
    command = {
        'before': ('after_transfer.py', TRAIN, 'four.py'),
        'after': (TRAIN, 'four_after.py'),
    }[order]
    run(folder, *command, '--work-dir', order, env=on_npu())
    found = losses(folder, order)
    assert len(found) == 4
    assert found == pytest.approx(losses(trained, 'npu')[:4], rel=1e-3)
