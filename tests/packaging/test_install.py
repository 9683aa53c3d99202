"""Installing: what setup.py says, what the source distribution holds, how the NPU's libraries link."""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from mxd_mmplugin.ops import library

ROOT = Path(__file__).parents[2]
CMAKE = ROOT / '.softnpu/site/bin/cmake'


def python(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
    )


def test_without_torch_one_line_says_what_to_do(tmp_path):
    (tmp_path / 'torch').mkdir()
    (tmp_path / 'torch/__init__.py').write_text('raise ImportError("no torch here")')
    result = python('setup.py', '--version', PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert 'no torch here' in line and 'pip install --no-build-isolation .' in line


def test_an_old_setuptools_is_named():
    """It would install a package UNKNOWN, without a word."""
    old = "import runpy, setuptools; setuptools.__version__ = '58.1.0'; runpy.run_path('setup.py')"
    result = python('-c', old)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert '58.1.0 is installed' in line and "pip install 'setuptools>=61,<81'" in line


def test_without_a_compiler_one_line_says_what_to_do(tmp_path):
    result = python(
        *('setup.py', '-q', 'build_ext', '--build-lib', str(tmp_path)),
        CXX='no-such-compiler -std=c++20',
    )
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert 'needs a C++ compiler' in line and 'no-such-compiler' in line


def test_a_library_of_another_torch_is_named(tmp_path, monkeypatch):
    (tmp_path / '_C.so').write_text('no library')
    (tmp_path / '_C.torch').write_text('2.1.0')
    monkeypatch.setattr(library, 'PATH', tmp_path / '_C.so')
    monkeypatch.setattr(library, 'BUILT_WITH', tmp_path / '_C.torch')
    with pytest.raises(ImportError, match=r'was compiled with 2\.1\.0 .*--no-build-isolation'):
        library.load()


def test_an_mmcv_without_ops_is_named(tmp_path):
    """As mmcv-lite is."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text('')
    result = python('-c', 'import mxd_mmplugin', PYTHONPATH=f'{tmp_path}:{ROOT}')
    line = result.stderr.splitlines()[-1]
    assert "No module named 'mmcv.ops'" in line and 'MMCV_WITH_OPS=1 pip install' in line


def test_configs_are_in_the_package(tmp_path):
    result = python(
        *('setup.py', '-q', 'egg_info', '--egg-base', str(tmp_path)),
        *('build_py', '--build-lib', str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    installed = tmp_path / 'mxd_mmplugin/configs'
    assert {path.relative_to(installed) for path in installed.rglob('*.py')} == {
        path.relative_to(ROOT / 'configs') for path in (ROOT / 'configs').rglob('*.py')
    }


@pytest.mark.parametrize('served', ['cpu', 'cuda'])
def test_a_torch_for_cuda_is_replaced(tmp_path, served):
    """The index serves a torch that imports, or one that lacks CUDA's libraries."""
    for name in ('Makefile', 'requirements/build.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    binaries = tmp_path / '.venv/bin'
    binaries.mkdir(parents=True)
    working = '*' if served == 'cpu' else '*whl/cpu*'
    (binaries / 'pip').write_text(
        f'#!/bin/sh\necho "$@" >> log\ncase "$*" in {working}) touch works ;; esac\n'
    )
    (binaries / 'python').write_text('#!/bin/sh\ntest -e works\n')
    for path in binaries.iterdir():
        path.chmod(0o755)
    result = subprocess.run(
        ['make', '.venv/.stamp-build'], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    calls = (tmp_path / 'log').read_text().splitlines()
    assert calls[0].endswith('--no-deps -r requirements/build.txt')
    replaced = [
        call for call in calls[1:] if 'https://download.pytorch.org/whl/cpu torch==' in call
    ]
    assert len(replaced) == len(calls) - 1 == (served == 'cuda')


def test_a_folder_named_as_a_package_is_not_the_package(tmp_path):
    (tmp_path / 'spconv').mkdir()
    (tmp_path / 'torch_npu').mkdir()
    result = python('-c', 'import mxd_mmplugin, mxd_mmplugin.spconv', cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_source_distribution_is_complete(tmp_path):
    result = python(
        'setup.py', '-q', 'egg_info', '--egg-base', str(tmp_path), 'sdist', '-d', str(tmp_path)
    )
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as files:
        names = {name.split('/', 1)[-1] for name in files.getnames()}
    tracked = subprocess.run(
        ['git', 'ls-files', 'csrc', 'configs', 'tools', 'requirements', 'mxd_mmplugin', 'Makefile'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    missing = [name for name in tracked if name not in names]
    assert not missing, missing
    assert {'setup.py', 'csrc/CMakeLists.txt', 'csrc/kernels/sparse_conv.cpp'} <= names


@pytest.mark.skipif(not CMAKE.exists(), reason='`make softnpu` brings cmake and torch_npu')
def test_libraries_of_the_npu_find_each_other(tmp_path):
    """CANN's CMake switches RPATHs off; a stand-in for it does the same."""
    cann = tmp_path / 'cann/tools/tikcpp/ascendc_kernel_cmake'
    cann.mkdir(parents=True)
    (cann / 'empty.cpp').write_text('')
    (cann / 'ascendc.cmake').write_text(
        'set(CMAKE_SKIP_RPATH TRUE)\n'
        'function(ascendc_library target type)\n'
        f'  add_library(${{target}} SHARED {cann}/empty.cpp)\n'
        'endfunction()\n'
    )
    build = tmp_path / 'build'
    result = subprocess.run(
        [
            CMAKE,
            *('-S', ROOT / 'csrc', '-B', build, '-G', 'Unix Makefiles'),
            f'-DTORCH_DIR={Path(find_spec("torch").origin).parent}',
            f'-DTORCH_NPU_DIR={ROOT / ".softnpu/site/torch_npu"}',
            f'-DPython3_EXECUTABLE={sys.executable}',
            '-DTORCH_CXX11_ABI=0',
            '-DSOC_VERSION=Ascend910B1',
        ],
        env=dict(
            os.environ,
            ASCEND_HOME_PATH=str(tmp_path / 'cann'),
            PYTHONPATH=str(ROOT / '.softnpu/site'),
        ),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    npu = build / 'CMakeFiles/mxd_npu.dir'
    assert '$ORIGIN' in (npu / 'link.txt').read_text()
    # CANN links this one again with no shell: the quotes of an RPATH would be part of it.
    assert 'rpath' not in (build / 'CMakeFiles/mxd_kernels.dir/link.txt').read_text()
    flags = (npu / 'flags.make').read_text()
    assert '_GLIBCXX_USE_CXX11_ABI=0' in flags and 'Ascend910B1' in flags
    # mmcv's library is looked for at run time, wherever it lies.
    registry = build / 'mmcv_registry/CMakeFiles/mxd_mmcv_registry.dir/link.txt'
    assert 'mmcv/' not in registry.read_text() and '_ext' not in registry.read_text()
    cache = (build / 'CMakeCache.txt').read_text()
    assert f'ASCEND_PYTHON_EXECUTABLE:STRING={sys.executable}\n' in cache
