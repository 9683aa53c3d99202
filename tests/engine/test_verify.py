"""`mxd verify` and `MXD_DISABLE`."""

import itertools
import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from mxd_mmplugin.engine import verify
from mxd_mmplugin.ops import fallback
from tests.conftest import ROOT

KEYS = {'cpu': 'CPU', 'npu': 'PrivateUse1'}


def report(capsys, path, *arguments):
    """Run the command; return its exit status, what it printed, and the rows of its report."""
    parser = ArgumentParser()
    verify.add_arguments(parser)
    status = verify.run(parser.parse_args([*arguments, '--json', str(path)]))
    found = json.loads(path.read_text())
    return status, capsys.readouterr().out, found


def faults():
    """Forms of `bev_pool` that are wrong, and what is said of each."""
    right, calls = fallback.bev_pool.forward, itertools.count()

    def raising(*args):
        raise RuntimeError('kernel on fire\nand more')

    return {
        'one percent off': (lambda *args: right(*args) * 1.01, 'relative error 0.0'),
        'not deterministic': (
            lambda *args: right(*args) * (1 + 1e-6 * next(calls)),
            'two runs differ',
        ),
        'raising': (raising, 'RuntimeError: kernel on fire'),
    }


def check_fault(capsys, path, monkeypatch, device, fault):
    """Plant a fault in the kernel of a device; see it reported, and the other operators pass."""
    form, words = faults()[fault]
    chosen = {name: verify.OPERATORS[name] for name in ('dynamic_scatter', 'bev_pool')}
    monkeypatch.setattr(verify, 'OPERATORS', chosen)
    with torch.library._scoped_library('mxd', 'IMPL') as library:
        library.impl('bev_pool', form, KEYS[device])
        status, text, found = report(capsys, path, '--device', device, '--quick')
    assert status == 1
    assert words in text and 'and more' not in text
    assert 'export MXD_DISABLE=bev_pool\n' in text
    failed = {row['operator'] for row in found['rows'] if row['failures']}
    assert failed == {'bev_pool'} and len(found['rows']) == 6


def test_the_kernels_of_a_cpu_pass(capsys, tmp_path):
    status, text, found = report(capsys, tmp_path / 'r.json', '--device', 'cpu', '--quick')
    assert status == 0, text
    assert {row['operator'] for row in found['rows']} == set(verify.OPERATORS)
    assert {row['family'] for row in found['rows']} == set(fallback.FAMILIES)
    for row in found['rows']:
        assert row['problems'] == verify.QUICK and row['deterministic'], row
    assert found['versions']['torch'] and found['versions']['processor'] and found['versions']['os']
    assert {'cann', 'driver'} <= found['versions'].keys()
    assert 'MXD_DISABLE' not in text and all(row['modelled'] is None for row in found['rows'])


@pytest.mark.parametrize('fault', faults())
def test_a_fault_is_found(fault, capsys, tmp_path, monkeypatch):
    check_fault(capsys, tmp_path / 'r.json', monkeypatch, 'cpu', fault)


def test_wrong_shapes_integers_and_nan_are_errors():
    ones = torch.ones(3)
    assert verify._error(ones, ones) == 0
    assert verify._error(ones * torch.nan, ones) == verify._error(ones.int() * 2, ones.int())
    assert verify._error(ones * torch.nan, ones) == float('inf')
    with pytest.raises(ValueError, match=r'gave torch.float32 \[2\], the reference'):
        verify._error(ones[:2], ones)


def test_an_npu_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, '_has_npu', lambda: False)
    with pytest.raises(SystemExit, match='torch_npu sees none'):
        report(capsys, tmp_path / 'r.json', '--device', 'npu')


def test_version_of_cann(tmp_path, monkeypatch):
    monkeypatch.delenv('ASCEND_HOME_PATH', raising=False)
    assert verify._cann() == 'ASCEND_HOME_PATH is not set'
    monkeypatch.setenv('ASCEND_HOME_PATH', str(tmp_path))
    assert 'no version file' in verify._cann()
    (tmp_path / 'aarch64-linux').mkdir()
    (tmp_path / 'aarch64-linux' / 'ascend_toolkit_install.info').write_text('version=8.1\narch=x\n')
    assert verify._cann() == 'version=8.1; arch=x'


def test_names_of_families():
    assert fallback.disabled('') == frozenset()
    assert fallback.disabled(' bev_pool, voxelize') == {'bev_pool', 'voxelize'}
    assert fallback.disabled('sparse_conv') == {'sparse_conv', 'sparse_pool'}
    with pytest.raises(ValueError, match=r'families of sparse_conv, .*had conv, pool'):
        fallback.disabled('pool,bev_pool,conv')


def test_the_page_names_every_family():
    page = (ROOT / 'docs/verify.md').read_text()
    (sentence,) = re.findall(r'The families are (.*?)\. Any other', page, re.S)
    assert re.findall(r'`(\w+)`', sentence) == list(fallback.FAMILIES)


def python(code, families):
    """Run code in a process with `MXD_DISABLE`."""
    env = {**os.environ, 'MXD_DISABLE': families}
    return subprocess.run(
        [sys.executable, '-W', 'error::UserWarning:torch', '-c', code],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_families_that_are_disabled():
    done = python(
        'from mxd_mmplugin import ops\n'
        'from mxd_mmplugin.engine import verify\n'
        'import torch\n'
        'served = ops.backends()\n'
        'print(served["bev_pool"]["cpu"], served["bev_pool_grad"]["npu"], served["voxelize_hard"]["cpu"], sep=";")\n'
        'forward, calls = ops.fallback.bev_pool.torch.searchsorted, []\n'
        'torch.searchsorted = lambda *a, **k: calls.append(1) or forward(*a, **k)\n'
        'print(verify.check("bev_pool", torch.float32, "cpu", 3).failures, len(calls) > 6)\n',
        'bev_pool',
    )
    plain = 'plain PyTorch (MXD_DISABLE)'
    assert done.stdout.splitlines() == [f'{plain};{plain};kernel', '[] True'], done.stderr


def test_a_family_that_is_none():
    done = python('import mxd_mmplugin', 'pool')
    assert done.returncode == 1
    assert 'ValueError: MXD_DISABLE must name families of sparse_conv,' in done.stderr


@pytest.mark.parametrize('command', ['verify', 'doctor'])
def test_a_command_tells_of_a_family_that_is_none(command, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'mxd_cli', command],
        env={**os.environ, 'MXD_DISABLE': 'pool', 'PYTHONPATH': str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    text = ' '.join((done.stdout + done.stderr).split())
    assert done.returncode == 1 and 'Traceback' not in text
    assert 'MXD_DISABLE must name families' in text
