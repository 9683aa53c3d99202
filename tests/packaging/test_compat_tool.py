"""What `make compat` stands on, and what the oldest Python and torch have."""

import ast
import re
import runpy
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT

TOOL = runpy.run_path(str(ROOT / 'tools' / 'compat.py'))


def test_its_tests_are_there():
    assert all((ROOT / name).exists() for name in TOOL['TESTS'])


def test_versions_are_read_from_the_requirements():
    runtime = TOOL['pinned']('runtime')
    assert list(TOOL['pinned']('mmcv')) == ['mmcv'] and runtime['mmdet3d'] == '1.4.0'
    assert set(TOOL['ALONE']) <= set(runtime)


def test_an_op_of_an_mmcv_that_was_not_compiled_skips_the_test():
    extension = ModuleType('mmcv._ext')
    exec(TOOL['NO_OPS'], vars(extension))
    assert hasattr(extension, 'nms') and not hasattr(extension, '__path__')
    with pytest.raises(pytest.skip.Exception, match='nms'):
        extension.nms([], [], iou_threshold=0.5)


def test_a_row_of_the_table_names_what_was_asked(monkeypatch):
    environment = TOOL['Environment']('2.7.1', '1', ops=False)
    environment.torch_build = '2.7.1+cpu'
    monkeypatch.setattr(environment, 'ask', lambda code: '1.26.4')
    python = '{}.{}'.format(*sys.version_info)
    assert environment.row('2.7.1 (new ABI)', '3 passed') == (
        f'| 2.7.1+cpu | 2.7.1 (new ABI) | {python} | 1.26.4 | without ops | 3 passed |'
    )


@pytest.mark.parametrize('folder', ['mxd_mmplugin', 'tests', 'tools', 'csrc'])
def test_sources_have_the_syntax_of_python_3_9(folder):
    for path in (ROOT / folder).rglob('*.py'):
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


@pytest.mark.parametrize('folder', ['ops', 'mmcv_registry'])
def test_sources_call_what_the_oldest_torch_has(folder):
    """`Tensor::is_privateuseone` came after 2.1; that of a device is older."""
    newer = re.compile(r'(?<!device\(\))(?:\.|->)is_privateuseone\(')
    for path in (ROOT / 'csrc' / folder).rglob('*.[ch]*'):
        assert not newer.search(path.read_text()), path
