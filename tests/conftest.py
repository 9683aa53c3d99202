"""Fixtures that several test files use."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.utils import digit_version

ROOT = Path(__file__).parents[1]
DATA = 'data/nuscenes-generated'
REAL_DATA = Path(os.environ.get('MXD_REAL_DATA', ROOT.parent / 'shared' / 'real'))
LONG = (
    *('test_train', 'test_bench', 'test_tools', 'test_synth', 'test_vector_widths'),
    *('test_beside', 'test_verify', 'test_models'),
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
    items.sort(key=lambda item: item.path.stem not in LONG and 'training' not in item.path.stem)


def run(folder, *command, env=None) -> str:
    """Run Python with a command line in a folder; by default in the environment of this process.

    Returns:
        str: the standard output.

    Raises:
        AssertionError: it failed.
    """
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)} if env is None else env,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def on_cpu() -> dict:
    """The environment of this process without the software NPU, for `run`."""
    kept = 'MXD_CPU_LIBRARY'  # of `make sanitize`
    env = {n: value for n, value in os.environ.items() if not n.startswith('MXD_') or n == kept}
    env.update(PYTHONPATH=str(ROOT), LD_LIBRARY_PATH='', TORCH_DEVICE_BACKEND_AUTOLOAD='0')
    return env


@pytest.fixture(scope='session')
def generated(tmp_path_factory) -> Path:
    """A generated data set of two scenes with four key frames each, one of them to train on.

    Processes that are given the same folder by MXD_TEST_DATA share it: nothing may be written there.
    """
    place = Path(os.environ.get('MXD_TEST_DATA', tmp_path_factory.getbasetemp()))
    place.mkdir(parents=True, exist_ok=True)
    folder, done, env = place / 'generated', place / 'generated.done', on_cpu()
    with open(place / 'generated.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            synth = 'synth', '--out', DATA, '--scenes', 2, '--keyframes', 4
            run(folder, '-m', 'mxd_mmplugin', *synth, env=env)
            run(
                *(folder, ROOT / 'tools' / 'create_data.py', 'nuscenes', '--version', 'v1.0-mini'),
                *('--root-path', DATA, '--out-dir', DATA, '--extra-tag', 'nuscenes'),
                env=env,
            )
            done.touch()
    return folder / DATA


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
    """A working folder with the generated data set where the configs look for it.

    Its info files are copies, the rest are links.
    """
    folder = tmp_path_factory.mktemp('work')
    (folder / DATA).mkdir(parents=True)
    for path in generated.iterdir():
        if path.suffix == '.pkl':
            shutil.copy(path, folder / DATA)
        else:
            (folder / DATA / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope='module')
def sequences(folder) -> Path:
    """The working folder; the info files know their sequences, and there are anchors for Sparse4D."""
    train, val = (f'{DATA}/nuscenes_infos_{part}.pkl' for part in ('train', 'val'))
    for command in (
        f'sparse4d-infos --root {DATA} --version v1.0-mini {train} {val}',
        f'sparse4d-anchors {train} --num 300 --range 40 --out {DATA}/sparse4d_anchors.npy',
    ):
        run(folder, '-m', 'mxd_mmplugin', *command.split(), env=on_cpu())
    return folder


@pytest.fixture(autouse=True)
def _alone(request):
    """No test goes on from the random numbers or the counts of iterations of another."""
    torch.manual_seed(0)
    MessageHub.get_instance(request.node.nodeid)
