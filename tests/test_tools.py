"""The tools hand over to mmdet3d's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / 'tools'


def run(*command, **environment):
    """Run a command to its end."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    'name, option',
    [('train.py', '--resume'), ('test.py', '--show-dir'), ('create_data.py', '--extra-tag')],
)
def test_options_are_those_of_mmdet3d(name, option):
    # This checkout on the path too: its tools must not hide mmdet3d's.
    result = run(sys.executable, TOOLS / name, '--help', PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    assert option in result.stdout and f'usage: {name}' in result.stdout


def test_the_converters_are_those_of_mmdet3d():
    # It stops at the missing data, in mmdet3d's converter.
    result = run(
        *(sys.executable, TOOLS / 'create_data.py', 'nuscenes'),
        *('--root-path', '/nowhere', '--out-dir', '/nowhere', '--version', 'v1.0-mini'),
        PYTHONPATH=str(ROOT),
    )
    assert result.returncode != 0
    assert 'dataset_converters/nuscenes_converter.py' in result.stderr


def test_a_missing_mmdet3d_is_named():
    code = (
        'import sys; sys.path.insert(0, sys.argv.pop()); import _mmdet3d; '
        '_mmdet3d.find_spec = lambda name: None; _mmdet3d.run("train.py")'
    )
    result = run(sys.executable, '-c', code, TOOLS)
    assert result.returncode == 1 and 'mmdet3d is not installed' in result.stderr


@pytest.mark.parametrize(
    'script, positional',
    [('dist_train.sh', ['config.py']), ('dist_test.sh', ['config.py', 'last.pth'])],
)
def test_dist_scripts_call_torchrun(script, positional, tmp_path):
    torchrun = tmp_path / 'torchrun'
    torchrun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    torchrun.chmod(0o755)
    result = run(
        *(TOOLS / script, *positional, 8, '--cfg-options', 'a=[1, 2]'),
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        NNODES='2',
        NODE_RANK='1',
        PORT='1234',
    )
    words = result.stdout.splitlines()
    assert {'--nnodes=2', '--node_rank=1', '--master_port=1234', '--nproc_per_node=8'} <= {*words}
    tool = next(i for i, word in enumerate(words) if word.endswith('.py'))
    assert Path(words[tool]).name == script.replace('dist_', '').replace('.sh', '.py')
    options = ['--launcher', 'pytorch', '--cfg-options', 'a=[1, 2]']
    assert words[tool + 1 :] == [*positional, *options]


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_dist_scripts_need_their_arguments(script):
    assert run(TOOLS / script, 'config.py').returncode != 0
