"""The device and package report."""

import os
import subprocess
import sys
from argparse import ArgumentParser

import pytest

import mxd_mmplugin.registry
from mxd_cli import doctor
from mxd_mmplugin.packages import is_installed
from tests.conftest import ROOT


def report(capsys):
    """Run the doctor; return its exit status and what it printed."""
    parser = ArgumentParser()
    doctor.add_arguments(parser)
    status = doctor.run(parser.parse_args([]))
    return status, capsys.readouterr().out


def test_all_is_fine_here(capsys):
    status, text = report(capsys)
    assert status == 0, text
    words = (
        'Packages',
        'Devices',
        'Ops',
        'Registered names',
        'SubMConv1d ... 4d',
        'cores',
        'docs/npu.md',
    )
    for word in words:
        assert word in text


@pytest.mark.parametrize('name', [p.name for p in doctor.PACKAGES])
def test_a_package_that_cannot_be_imported_is_a_row(name, monkeypatch, capsys):
    package = next(p for p in doctor.PACKAGES if p.name == name)
    stock = doctor._import_error
    broken = 'ImportError: libfoo.so.1: no such file'
    monkeypatch.setattr(
        doctor, '_import_error', lambda m: broken if m == package.module else stock(m)
    )
    monkeypatch.setattr(doctor, '_version', lambda name: '1.0')
    status, text = report(capsys)
    assert status == package.required
    assert 'broken' in text and 'libfoo.so.1' in text
    if package.required:
        assert f'{name} is broken' in text


def test_an_absent_package_comes_with_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(doctor, '_version', lambda name: None)
    monkeypatch.setattr(doctor, '_import_error', lambda module: 'ModuleNotFoundError: No module')
    status, text = report(capsys)
    assert status == 1
    assert 'mmdet3d is absent: pip install --no-deps mmdet3d==1.4.0' in text


def test_a_failing_section_does_not_stop_the_others(monkeypatch, capsys):
    def fail():
        raise RuntimeError('registry on fire')

    monkeypatch.setattr(mxd_mmplugin.registry, 'status', fail)
    status, text = report(capsys)
    assert status == 1
    assert 'Registry: registry on fire' in text and 'Ops' in text


def test_an_npu_without_torch_npu_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch_npu', None)
    monkeypatch.setattr(doctor, 'glob', lambda pattern: ['/dev/davinci0', '/dev/davinci1'])
    status, text = report(capsys)
    assert status == 1
    assert '2 NPU(s) are in this machine' in text


HIDE = """
import os
import sys


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in os.environ['HIDE'].split(','):
            raise ImportError(f'No module named {name!r}')


sys.meta_path.insert(0, Hide())
"""


@pytest.mark.parametrize(
    ('hidden', 'remedy'),
    [
        ('torch', 'torch is broken: pip install torch'),
        ('mmcv.ops', 'mmcv is broken: MMCV_WITH_OPS=1 pip install'),
        ('mmdet3d', 'mmdet3d is broken: pip install --no-deps mmdet3d'),
    ],
)
def test_works_whatever_is_missing(hidden, remedy, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(HIDE)
    result = subprocess.run(
        [sys.executable, '-m', 'mxd_cli', 'doctor'],
        env=dict(os.environ, PYTHONPATH=str(tmp_path), HIDE=hidden),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert 'Traceback' not in result.stdout + result.stderr, result.stderr
    # What fails for want of it alone, this package too, has no line.
    (line,) = (line for line in result.stdout.splitlines() if line.startswith('  - '))
    assert line.startswith(f'  - {remedy}')


def test_a_folder_named_as_a_package_is_not_the_package(tmp_path):
    for name in ('spconv', 'torch_npu'):
        (tmp_path / name).mkdir()
    result = subprocess.run(
        [sys.executable, '-m', 'mxd_cli', 'doctor'],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if ' absent ' in line]
    expected = {'torch-npu': 'torch_npu', 'spconv': 'spconv'}
    expected = [name for name, module in expected.items() if not is_installed(module)]
    assert [row[1] for row in rows] == expected


@pytest.mark.parametrize(
    ('command', 'hidden', 'remedy'),
    [('bench', 'torch', '`mxd doctor` tells'), ('doctor', 'rich', 'pip install rich')],
)
def test_a_command_says_what_it_lacks(command, hidden, remedy, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(HIDE)
    result = subprocess.run(
        [sys.executable, '-m', 'mxd_cli', command],
        env=dict(os.environ, PYTHONPATH=str(tmp_path), HIDE=hidden),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"No module named '{hidden}'" in line and remedy in line


def test_names_come_as_families(capsys):
    parser = ArgumentParser()
    doctor.add_arguments(parser)
    doctor.run(parser.parse_args([]))
    short = capsys.readouterr().out
    doctor.run(parser.parse_args(['--verbose']))
    full = capsys.readouterr().out
    assert 'SparseConv1d ... 4d' in short and 'MxdSparseConv3d' not in short
    assert 'SparseConv2d' in full and 'MxdSparseConv3d' in full
