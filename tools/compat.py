"""Build this package for one version of torch, in an environment of its own, and test it there.

    make compat TORCH=2.7.1 [PYTHON=python3.9] [COMPAT='--numpy 2 --without-mmcv-ops']

Everything lies in .compat/TORCH and is kept between calls: a virtual environment, a copy of the sources that the
package is built in, and the headers of the torch_npu of that version, against which the NPU sources are checked.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
TESTS = (
    *('tests/ops', 'tests/modules', 'tests/mmcv_registry'),
    *('tests/test_compat.py', 'tests/test_registry.py'),
)
# These name packages that they do not import on our paths, and some of those a second OpenCV.
ALONE = ('mmengine', 'mmdet', 'mmdet3d', 'nuscenes-devkit', 'lyft-dataset-sdk')
# A function that takes a std::string, as the compiler's old ABI names it.
OLD_ABI = b'OpCommand10RunOpApiV2ERKSs'
# In the place of mmcv's compiled ops: a test that calls one of them is skipped.
NO_OPS = '''"""Written by tools/compat.py: mmcv was installed without its compiled ops."""

import pytest


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return lambda *args, **kwargs: pytest.skip(f'mmcv was not compiled: {name}')
'''


def say(text: str) -> None:
    """Print a line at once, also where the output is a file."""
    print(text, flush=True)


def pinned(name: str) -> dict[str, str]:
    """The packages of requirements/NAME.txt: name -> pinned version."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    found = (re.match(r'([\w.-]+)==([\w.]+)', line) for line in lines)
    return {match[1]: match[2] for match in found if match}


class Environment:
    """The folder of one version of torch.

    Args:
        torch (str): the version, such as '2.7.1'.
        numpy (str): the major version of numpy, '1' or '2'.
        ops (bool): whether mmcv is compiled with its ops.
    """

    def __init__(self, torch: str, numpy: str, ops: bool) -> None:
        self.torch, self.numpy, self.ops = torch, numpy, ops
        self.folder = ROOT / '.compat' / torch
        self.source = self.folder / 'source'
        self.python = self.folder / 'bin' / 'python'

    def ask(self, code: str) -> str:
        """What a line of Python prints in the environment, '' where it fails."""
        command = [str(self.python), '-c', code]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def package(self, name: str) -> Path:
        """Where a package of the environment lies."""
        return Path(self.ask(f'import {name}; print({name}.__path__[0])'))

    def pip(self, *arguments: str, check: bool = True, **variables: str) -> bool:
        """Run pip install, and tell whether it went well.

        Raises:
            subprocess.CalledProcessError: it failed, where `check` is set.
        """
        command = [str(self.python), '-m', 'pip', 'install', '--quiet', *arguments]
        env = {**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **variables}
        return subprocess.run(command, check=check, env=env).returncode == 0

    def install_torch(self) -> None:
        """The CPU build where PyTorch's own index can be reached; else what the usual index has.

        On x86-64 that is a CUDA build, which imports with the libraries that it depends on.
        """
        if not self.python.exists():
            subprocess.run([sys.executable, '-m', 'venv', self.folder], check=True)
        constraints = self.folder / 'constraints.txt'
        constraints.write_text(f'torch=={self.torch}\nnumpy=={self.numpy}.*\nsetuptools>=61,<81\n')
        self.constraints = '--constraint', str(constraints)
        self.pip(*self.constraints, 'numpy', 'setuptools', 'wheel', 'ninja', 'packaging')
        if not self.ask('import torch; print(torch.__version__)'):
            torch = *self.constraints, f'torch=={self.torch}'
            if not self.pip('--index-url', CPU_INDEX, '--retries', '0', *torch, check=False):
                say(f'{CPU_INDEX} has no torch {self.torch} for here: the usual index is asked')
                self.pip(*torch)
        version = self.ask('import torch; print(torch.__version__)')
        if not version:
            raise SystemExit(f'torch {self.torch} does not import: {self.python} -c "import torch"')
        say(f'torch {version} in {self.folder}')
        self.torch_build = version

    def install_mmcv(self) -> None:
        """Install mmcv, with its ops or without, and the packages that the tests import."""
        runtime, version = pinned('runtime'), pinned('mmcv')['mmcv']
        self.pip(*self.constraints, *(name for name in runtime if name not in ALONE))
        self.pip(*self.constraints, 'pytest', 'hypothesis')
        self.pip('--no-deps', *(f'{name}=={runtime[name]}' for name in ALONE))
        found = self.ask('import mmcv._ext as ext; print(ext.__file__)')
        if found and self.ops != found.endswith('.py'):
            return
        if found:
            Path(found).unlink()
        if not self.ops:
            self.pip('--no-deps', '--force-reinstall', f'mmcv-lite=={version}')
            (self.package('mmcv') / '_ext.py').write_text(NO_OPS)
            return
        say(f'mmcv {version} is compiled: some minutes')
        # A wheel of mmcv is good for one build of torch.
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mxd_mmplugin'
        self.pip(
            *('--no-deps', '--no-build-isolation', '--force-reinstall', f'mmcv=={version}'),
            *('--cache-dir', str(cache / f'mmcv-torch-{self.torch_build}')),
            MMCV_WITH_OPS='1',
            FORCE_CUDA='0',
        )

    def build(self) -> None:
        """Build the package in a copy of the sources, which keeps its object files."""
        files = subprocess.run(
            ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for folder in ('csrc', 'mxd_mmplugin', 'tests'):
            shutil.rmtree(self.source / folder, ignore_errors=True)
        for file in filter(lambda file: (ROOT / file).is_file(), files):
            (self.source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, self.source / file)
        self.pip('--no-deps', '--no-build-isolation', '--editable', str(self.source))
        say('the package is built')

    def check_npu_sources(self) -> str:
        """Compile the NPU sources, as far as headers go, against the torch_npu of this torch.

        Returns:
            str: the version of torch_npu and its C++ ABI.

        Raises:
            SystemExit: one does not compile.
        """
        site, headers = self.folder / 'npu', self.folder / 'launch'
        if not (site / 'torch_npu').is_dir():
            # Beside the environment: torch loads a torch_npu that it finds, and that needs CANN.
            self.pip('--no-deps', '--target', str(site), f'torch_npu=={self.torch}.*')
        (info,) = site.glob('torch_npu-*.dist-info')
        version = info.name.split('-')[1][: -len('.dist')]
        csrc = self.source / 'csrc'
        for kernel in sorted((csrc / 'kernels').glob('*.cpp')):
            extract = self.python, csrc / 'softnpu' / 'ascendc' / 'extract_kernels.py', kernel
            stub = headers / 'stubs' / kernel.name
            subprocess.run([*extract, '--stub', stub, '--include-dir', headers], check=True)
        torch = self.package('torch') / 'include'
        npu = site / 'torch_npu' / 'include'
        system = (
            *(torch, torch / 'torch' / 'csrc' / 'api' / 'include'),
            *(npu, npu / 'third_party' / 'acl' / 'inc', npu / 'third_party' / 'hccl' / 'inc'),
            self.ask('import sysconfig; print(sysconfig.get_path("include"))'),
        )
        abi = self.ask('import torch; print(int(torch.compiled_with_cxx11_abi()))')
        own = csrc / 'ops', csrc / 'ops' / 'npu', csrc / 'kernels', headers
        flags = [
            *('-std=c++20', '-fsyntax-only', '-fPIC', f'-D_GLIBCXX_USE_CXX11_ABI={abi}'),
            '-DMXD_SOC_VERSION="Ascend910B3"',
            *(f'-I{folder}' for folder in own),
            *(f'-isystem{folder}' for folder in system),
        ]
        folders = 'ops/npu', 'mmcv_registry', 'mmcv_registry/forms'
        sources = [source for folder in folders for source in (csrc / folder).glob('*.cpp')]
        for source in sorted(sources):
            say(f'{source.relative_to(csrc)} against torch_npu {version}')
            compiler = os.environ.get('CXX', 'g++')
            if subprocess.run([compiler, *flags, source]).returncode:
                raise SystemExit(f'{source} does not compile against torch_npu {version}')
        old = OLD_ABI in (site / 'torch_npu' / 'lib' / 'libtorch_npu.so').read_bytes()
        return f'{version} ({"old" if old else "new"} ABI)'

    def test(self, arguments: list[str]) -> str:
        """Run the operators' tests.

        Returns:
            str: how many passed, as pytest says it.

        Raises:
            SystemExit: one failed.
        """
        command = [str(self.python), '-m', 'pytest', '-q', *TESTS, *arguments]
        last = ''
        with subprocess.Popen(
            command, cwd=self.source, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end='', flush=True)
                last = line.strip('= \n') or last
        if process.returncode:
            raise SystemExit(process.returncode)
        return re.sub(r' in .*', '', last)

    def row(self, npu: str, tests: str) -> str:
        """The environment as a row of docs/versions.md."""
        python = '{}.{}'.format(*sys.version_info)
        numpy = self.ask('import numpy; print(numpy.__version__)')
        mmcv = 'compiled' if self.ops else 'without ops'
        return f'| {self.torch_build} | {npu} | {python} | {numpy} | {mmcv} | {tests} |'


def main() -> None:
    """Run from the Makefile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('torch', help="the version, such as '2.7.1'; torch_npu is of the same")
    parser.add_argument('--numpy', choices=('1', '2'), default='1', help='major version of numpy')
    parser.add_argument(
        '--without-mmcv-ops',
        action='store_true',
        help="spare mmcv's compilation, minutes; tests that call an op of mmcv are skipped",
    )
    parser.add_argument('--no-npu', action='store_true', help='leave out the NPU sources')
    args, rest = parser.parse_known_args()
    environment = Environment(args.torch, args.numpy, not args.without_mmcv_ops)
    environment.install_torch()
    environment.install_mmcv()
    environment.build()
    npu = 'not tried' if args.no_npu else environment.check_npu_sources()
    tests = environment.test(rest)
    say('| torch | NPU sources compile against torch_npu | Python | numpy | mmcv | tests |')
    say(environment.row(npu, tests))


if __name__ == '__main__':
    main()
