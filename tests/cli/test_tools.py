"""The tools, and the commands of the same names, hand over to mmdet3d's own."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mxd_cli import configs, create_data, main, mmdet3d_tools

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
NAME = 'centerpoint_voxel02_second_secfpn_1xb4-onecycle-8e_nus-generated-3d'


def run(*command, cwd=None, **environment):
    """Run a command to its end."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
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


def test_the_converters_are_those_of_mmdet3d(tmp_path):
    # It stops at the missing data, in mmdet3d's converter.
    result = run(
        *(sys.executable, TOOLS / 'create_data.py', 'nuscenes'),
        *('--root-path', tmp_path, '--out-dir', tmp_path, '--version', 'v1.0-mini'),
        PYTHONPATH=str(ROOT),
    )
    assert result.returncode != 0
    assert 'dataset_converters/nuscenes_converter.py' in result.stderr


def test_a_missing_mmdet3d_is_named(monkeypatch):
    monkeypatch.setattr(mmdet3d_tools, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='mmdet3d is not installed'):
        mmdet3d_tools.run('train.py', [])


@pytest.mark.parametrize(
    'command, option',
    [('train', '--resume'), ('test', '--show-dir'), ('create-data', '--extra-tag')],
)
def test_commands_have_the_options_of_mmdet3d(command, option, monkeypatch, capsys):
    # In this process, whose `tools` are this checkout's before and after.
    monkeypatch.setattr(sys, 'argv', ['mxd'])
    monkeypatch.setattr(sys, 'path', [*sys.path])
    ours = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split('.')[0] == 'tools'}
    try:
        with pytest.raises(SystemExit) as end:
            main([command, '--help'])
    finally:
        for name in [name for name in sys.modules if name.split('.')[0] == 'tools']:
            del sys.modules[name]
        sys.modules.update(ours)
    assert not end.value.code
    printed = capsys.readouterr().out
    assert option in printed and f'usage: {command.replace("-", "_")}.py' in printed


def test_mmcv_without_ops_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(SystemExit, match=r'.*mmcv\.ops.*`mxd doctor` tells'):
        mmdet3d_tools.run('train.py', [])


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py', f'centerpoint/{NAME}'])
def test_a_config_of_the_package_goes_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, *rest = configs.with_config([name, '--resume'])
    assert Path(path) == ROOT / 'configs' / 'centerpoint' / f'{NAME}.py' and rest == ['--resume']


def test_a_config_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'{NAME}.py').touch()
    assert configs.with_config([f'{NAME}.py']) == [f'{NAME}.py']
    assert configs.with_config(['--help']) == ['--help']


def test_an_unknown_config_is_named():
    with pytest.raises(SystemExit, match=f"was 'centrepoint'(.|\\n)*{NAME}"):
        configs.with_config(['centrepoint'])


def test_train_takes_the_name_of_a_config(tmp_path):
    # It stops at the missing data, with the config read.
    result = run(
        *(sys.executable, '-m', 'mxd_cli', 'train', NAME, '--work-dir', tmp_path),
        *('--cfg-options', 'train_dataloader.dataset.dataset.data_root=/nowhere/'),
        *('train_dataloader.dataset.data_root=/nowhere/', 'train_dataloader.num_workers=0'),
        *('train_dataloader.persistent_workers=False',),
        PYTHONPATH=str(ROOT),
        cwd=tmp_path,
    )
    assert result.returncode != 0
    assert (tmp_path / f'{NAME}.py').is_file(), result.stderr


def test_copied_configs_are_read_as_the_originals(tmp_path, capsys):
    assert main(['configs', str(tmp_path / 'mine')]) == 0
    originals = sorted((ROOT / 'configs').rglob('*.py'))
    assert f'{len(originals)} configs' in capsys.readouterr().out
    for original in originals:
        copy = tmp_path / 'mine' / original.relative_to(ROOT / 'configs')
        assert Config.fromfile(copy).to_dict() == Config.fromfile(original).to_dict()
    with pytest.raises(SystemExit, match='is there already, nothing was copied'):
        main(['configs', str(tmp_path / 'mine')])


def test_configs_inside_the_package_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, 'ROOT', tmp_path)
    with pytest.raises(SystemExit, match='no configs in'):
        configs.folder()
    for place in ('configs', 'mxd_mmplugin/configs'):
        (tmp_path / place / 'centerpoint').mkdir(parents=True)
        assert configs.folder() == tmp_path / place


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


def test_infos_go_to_out_dir(generated, tmp_path):
    """What is made goes elsewhere, and the data's folder stays as it is."""
    root = tmp_path / 'data'
    root.mkdir()
    for path in generated.iterdir():
        if not path.name.startswith('nuscenes_'):
            (root / path.name).symlink_to(path)
    (root / 'nuscenes_infos_train.pkl').write_text('an older one')
    before = {path.name: path.lstat().st_mtime_ns for path in root.iterdir()}
    out = tmp_path / 'made' / 'here'
    result = run(
        *(sys.executable, TOOLS / 'create_data.py', 'nuscenes', '--version', 'v1.0-mini'),
        *('--root-path', root, '--out-dir', out, '--extra-tag', 'nuscenes'),
        PYTHONPATH=str(ROOT),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    made = {path.name for path in out.iterdir()}
    assert made == {path.name for path in generated.iterdir() if path.name.startswith('nuscenes_')}
    assert {path.name: path.lstat().st_mtime_ns for path in root.iterdir()} == before
    for name in ('nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl'):
        mine, theirs = (pickle.loads((folder / name).read_bytes()) for folder in (out, generated))
        assert [x['token'] for x in mine['data_list']] == [x['token'] for x in theirs['data_list']]
        assert mine['data_list'][0]['lidar_points'] == theirs['data_list'][0]['lidar_points']


@pytest.mark.parametrize('dataset', ['kitti', 'lyft'])
def test_an_out_dir_that_cannot_be_served_is_refused_at_once(dataset, tmp_path):
    arguments = [dataset, '--root-path', str(tmp_path), '--out-dir', str(tmp_path / 'out')]
    with pytest.raises(SystemExit, match=f'--out-dir must be --root-path for {dataset}, .*, was'):
        create_data.main(arguments)
    assert not (tmp_path / 'out').exists()
    with pytest.raises(SystemExit, match=r'--root-path .*nowhere is not a folder'):
        create_data.main([dataset, '--root-path', str(tmp_path / 'nowhere')])
