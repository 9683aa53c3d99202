"""Fixtures that several test files use."""

import fcntl
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.utils import digit_version

ROOT = Path(__file__).parents[1]
DATA = 'data/nuscenes-generated'
REAL_DATA = Path(os.environ.get('MXD_REAL_DATA', ROOT.parent / 'shared' / 'real'))
# The files that take longest, the longest first.
LONG = (
    *('test_training', 'test_bevfusion_training', 'test_overfit_frame', 'test_train'),
    *('test_sparse4d_training', 'test_beside', 'test_real', 'test_synth', 'test_classes'),
    *('test_tools', 'test_verify', 'test_bench', 'test_vector_widths', 'test_models'),
)
traces = pytest.mark.skipif(
    not hasattr(torch.library, 'register_fake'), reason='traces on PyTorch 2.4 and later'
)
exports_autograd = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.8'),
    reason='PyTorch before 2.8 does not export autograd functions with dynamic sizes',
)


@pytest.fixture(scope='session')
def real_nuscenes() -> Path:
    """Folder with one recorded nuScenes key frame; skips where it is absent."""
    folder = REAL_DATA / 'nuscenes'
    if not folder.is_dir():
        pytest.skip(f'no real recording at {folder} (set MXD_REAL_DATA)')
    return folder


@pytest.fixture(scope='session')
def real_points(real_nuscenes) -> torch.Tensor:
    """The LiDAR sweep of the real frame, float32 [34688, 5]: x, y, z, intensity, ring."""
    return torch.from_numpy(
        np.fromfile(next(real_nuscenes.glob('*LIDAR_TOP*.bin')), np.float32).reshape(-1, 5)
    )


def pytest_collection_modifyitems(items):
    """The files that take longest come first: then several processes end at about the same time."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish(session):
    """What is there by now stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def run(folder, *command, env=None) -> str:
    """Run Python with a command line in a folder; by default in the environment of this process.

    Configs are not laid out, and numba keeps what it compiles, see tests/stand_ins.

    Returns:
        str: the standard output.

    Raises:
        AssertionError: it failed.
    """
    env = {**os.environ, 'PYTHONPATH': str(ROOT)} if env is None else env
    path = f'{ROOT / "tests" / "stand_ins"}:{env.get("PYTHONPATH", ROOT)}'
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**env, 'PYTHONPATH': path},
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def run_pair(script: str, ending: str, *arguments: object) -> None:
    """Run a script in two processes side by side, on the CPU, each given its rank and the arguments.

    Raises:
        AssertionError: the output of one does not end as it should.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', script, str(rank), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=on_cpu(),
        )
        for rank in range(2)
    ]
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert out.strip().endswith(ending), out[-500:] + error[-3000:]


def on_cpu() -> dict:
    """The environment of this process without the software NPU, for `run`."""
    kept = 'MXD_CPU_LIBRARY'  # of `make sanitize`
    env = {n: value for n, value in os.environ.items() if not n.startswith('MXD_') or n == kept}
    env.update(PYTHONPATH=str(ROOT), LD_LIBRARY_PATH='', TORCH_DEVICE_BACKEND_AUTOLOAD='0')
    return env


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """A folder that `make` fills, for the first process that asks for it; the others wait.

    Processes that are given the same folder by MXD_TEST_DATA share it: nothing may be written there.
    """
    place = Path(os.environ.get('MXD_TEST_DATA', factory.getbasetemp()))
    place.mkdir(parents=True, exist_ok=True)
    folder, done = place / name, place / f'{name}.done'
    with open(place / f'{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def generate(folder: Path) -> None:
    """A data set of two scenes with four key frames each, with its info files."""
    synth = 'synth', '--out', DATA, '--scenes', 2, '--keyframes', 4
    run(folder, '-m', 'mxd_mmplugin', *synth, env=on_cpu())
    run(
        *(folder, ROOT / 'tools' / 'create_data.py', 'nuscenes', '--version', 'v1.0-mini'),
        *('--root-path', DATA, '--out-dir', DATA, '--extra-tag', 'nuscenes'),
        env=on_cpu(),
    )


def link_data(generated: Path, folder: Path) -> None:
    """Put a data set where the configs look for it: its info files are copies, the rest are links."""
    (folder / DATA).mkdir(parents=True)
    for path in generated.iterdir():
        if path.suffix == '.pkl':
            shutil.copy(path, folder / DATA)
        else:
            (folder / DATA / path.name).symlink_to(path)


@pytest.fixture(scope='session')
def generated(tmp_path_factory) -> Path:
    """A generated data set of two scenes with four key frames each, one of them to train on; see `made_once`."""
    return made_once('generated', generate, tmp_path_factory) / DATA


@pytest.fixture(scope='session')
def sweep(request):
    """The LiDAR sweep of the benchmarks' inputs is the recorded one, or where there is none a generated one."""
    if (REAL_DATA / 'nuscenes').is_dir():
        yield
        return
    sweeps = request.getfixturevalue('generated') / 'samples' / 'LIDAR_TOP'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_FRAME', str(min(sweeps.glob('*.bin'))))
        yield


@pytest.fixture(scope='module')
def folder(generated, tmp_path_factory) -> Path:
    """A working folder with the generated data set where the configs look for it."""
    folder = tmp_path_factory.mktemp('work')
    link_data(generated, folder)
    return folder


# One process for both commands of the page on Sparse4D.
SEQUENCES = f"""
from mxd_cli import main

train, val = ('{DATA}/nuscenes_infos_train.pkl', '{DATA}/nuscenes_infos_val.pkl')
infos = ['sparse4d-infos', '--root', '{DATA}', '--version', 'v1.0-mini', train, val]
anchors = ['sparse4d-anchors', train, '--num', '300', '--range', '40']
status = main(infos) or main([*anchors, '--out', '{DATA}/sparse4d_anchors.npy'])
assert not status, status
"""


@pytest.fixture(scope='session')
def _sequences(generated, tmp_path_factory) -> Path:
    """The info files that know their sequences, and the anchors; see `made_once`."""

    def make(folder):
        link_data(generated, folder)
        run(folder, '-c', SEQUENCES, env=on_cpu())

    return made_once('sequences', make, tmp_path_factory) / DATA


@pytest.fixture(scope='module')
def sequences(folder, _sequences) -> Path:
    """The working folder; the info files know their sequences, and there are anchors for Sparse4D."""
    for part in 'nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl', 'sparse4d_anchors.npy':
        shutil.copy(_sequences / part, folder / DATA)
    return folder


@pytest.fixture(autouse=True)
def _no_layout(monkeypatch):
    """As in the processes of `run`."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **_: (code, False))


@pytest.fixture(autouse=True)
def _alone(request):
    """No test goes on from the random numbers or the counts of iterations of another."""
    torch.manual_seed(0)
    MessageHub.get_instance(request.node.nodeid)
