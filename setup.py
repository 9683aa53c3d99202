"""Build the C++ libraries of mxd_mmplugin. Everything that is not about compiling is in pyproject.toml."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension


def package_folder(name: str) -> Path:
    """Where a package is installed; without importing it, since mmcv's import takes seconds."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise SystemExit(f'ASCEND_HOME_PATH is set, but {name} is not installed: see docs/npu.md')
    return Path(spec.submodule_search_locations[0])


class Build(BuildExtension):
    """Builds the CPU's library, and with CANN (ASCEND_HOME_PATH) those of the NPU."""

    def finalize_options(self) -> None:
        """Keeps object files in build/, so that an editable install compiles only what has changed."""
        super().finalize_options()
        self.build_temp = 'build'

    def run(self) -> None:
        """See setuptools' build_ext."""
        super().run()
        if 'ASCEND_HOME_PATH' in os.environ:
            self.build_npu(Path(self.get_ext_fullpath('mxd_mmplugin._C')).parent / 'npu')

    def build_npu(self, target: Path) -> None:
        """Builds csrc/CMakeLists.txt and puts its libraries into `target`."""
        folder = Path('build/npu')
        packages = {
            'TORCH_DIR': Path(torch.__file__).parent,
            'TORCH_NPU_DIR': package_folder('torch_npu'),
            'MMCV_DIR': package_folder('mmcv'),
        }
        settings = [f'-D{name}={path}' for name, path in packages.items()]
        if 'SOC_VERSION' in os.environ:
            settings.append(f'-DSOC_VERSION={os.environ["SOC_VERSION"]}')
        subprocess.run(['cmake', '-S', 'csrc', '-B', str(folder), *settings], check=True)
        subprocess.run(['cmake', '--build', str(folder), '--parallel'], check=True)
        target.mkdir(parents=True, exist_ok=True)
        for library in (folder / 'lib').glob('libmxd_*.so'):
            shutil.copy2(library, target)


SOURCES = sorted(
    str(path) for folder in ('csrc/ops', 'csrc/ops/cpu') for path in Path(folder).glob('*.cpp')
)

setup(
    ext_modules=[
        CppExtension(
            'mxd_mmplugin._C',
            SOURCES,
            depends=sorted(str(path) for path in Path('csrc/ops').rglob('*.h')),
            # No -march: kernels pick their vector width at run time (csrc/ops/cpu/simd.h).
            extra_compile_args=['-O3', '-ffp-contract=fast', '-fopenmp', '-Wall', '-Wno-psabi'],
            extra_link_args=['-fopenmp'],
        )
    ],
    cmdclass={'build_ext': Build.with_options(no_python_abi_suffix=True)},
)
