"""Run a command on the software NPU: real torch_npu, with no CANN and no Ascend device.

    mxd softnpu run SCRIPT ARGS...       a script, e.g. tools/train.py or tools/dist_train.sh, or -m MODULE
    mxd softnpu python ARGS...           the Python interpreter
    mxd softnpu profile SCRIPT ARGS...   as run, and then what the kernels and PyTorch's operators cost, modelled

`make softnpu` builds it. MXD_SOFTNPU_DEVICES sets the number of devices, 1 to 8.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
ROOT = CHECKOUT / '.softnpu'
DATA = Path(__file__).parent  # of the table of CANN's operators and of place.py


def built() -> bool:
    """Whether the software NPU of this checkout was built."""
    return (ROOT / 'lib' / 'libmxd_aten.so').exists() and (ROOT / 'site' / 'torch_npu').exists()


def active() -> bool:
    """Whether this process runs on the software NPU."""
    return 'MXD_SOFTNPU' in os.environ


def environment() -> dict[str, str]:
    """The environment in which this process's children run on the software NPU.

    torch_npu is found there by `import torch` itself, which loads every device package that it
    finds, and the runtime loads the ATen ops: child processes need nothing else.

    Raises:
        RuntimeError: it was not built.
    """
    if not built():
        raise RuntimeError(f'no software NPU in {ROOT}: `make softnpu` builds it')

    def prepend(name: str, *folders: Path) -> str:
        rest = [folder for folder in os.environ.get(name, '').split(os.pathsep) if folder]
        first = [str(folder) for folder in folders]
        return os.pathsep.join(first + [folder for folder in rest if folder not in first])

    return {
        **os.environ,
        'PATH': prepend('PATH', Path(sys.executable).parent),  # torchrun's
        'LD_LIBRARY_PATH': prepend('LD_LIBRARY_PATH', ROOT / 'lib'),
        'PYTHONPATH': prepend('PYTHONPATH', ROOT / 'site', CHECKOUT),
        'TORCH_DEVICE_BACKEND_AUTOLOAD': '1',
        'MXD_SOFTNPU': '1',
        'MXD_SOFTNPU_DATA': str(DATA),
        'MXD_NPU_LIBRARY': str(ROOT / 'lib' / 'libmxd_npu.so'),
        'MXD_MMCV_REGISTRY': str(ROOT / 'lib' / 'libmxd_mmcv_registry.so'),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--picture', type=Path, help='of a profile: where to draw it (.png, .svg)')
    parser.add_argument('action', choices=('run', 'python', 'profile'))
    parser.add_argument('command', nargs=argparse.REMAINDER, help='the script and its arguments')


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status is its own."""
    command, env = args.command, environment()
    if args.action != 'python' and not command:
        raise SystemExit(f'mxd softnpu {args.action}: which script?')
    if args.action == 'python' or command[0] == '-m' or command[0].endswith('.py'):
        command = [sys.executable, *command]
    if args.action != 'profile':
        os.execvpe(command[0], command, env)

    from . import profile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'profile.jsonl'
        # With no queue a kernel is launched by the thread that asks for it, which knows the place.
        env.update(MXD_SOFTNPU_PROFILE=str(path), MXD_SOFTNPU_PROFILE_ATEN='1')
        env.update(TASK_QUEUE_ENABLE='0')
        status = subprocess.run(command, env=env).returncode
        profile.report(path, args.picture)
    return status
