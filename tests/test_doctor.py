"""The device and package report."""

import sys
from argparse import ArgumentParser

import pytest

import mxd_mmplugin.registry
from mxd_mmplugin.engine import doctor


def report(capsys):
    """Run the doctor; return its exit status and what it printed."""
    parser = ArgumentParser()
    doctor.add_arguments(parser)
    status = doctor.run(parser.parse_args([]))
    return status, capsys.readouterr().out


def test_all_is_fine_here(capsys):
    status, text = report(capsys)
    assert status == 0, text
    words = 'Packages', 'Devices', 'Ops', 'Registered names', 'SubMConv3d', 'cores', 'docs/npu.md'
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
