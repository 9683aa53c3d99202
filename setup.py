"""Build the C++ libraries of mxd_mmplugin. Everything that is not about compiling is in pyproject.toml."""

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import setup
from setuptools.command.build_py import build_py

# Before 61 it does not read pyproject.toml: the package would be called UNKNOWN and have no `mxd`.
if int(setuptools.__version__.split('.')[0]) < 61:
    raise SystemExit(
        f'mxd_mmplugin is built by setuptools 61 to 80, and {setuptools.__version__} is installed: '
        "pip install 'setuptools>=61,<81'"
    )

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
    raise SystemExit(
        f'mxd_mmplugin compiles against the torch that is installed, and `import torch` says "{error}": '
        'install torch, then `pip install --no-build-isolation .` (without this option pip hides the torch)'
    ) from None

# Without optimization, with which GCC takes minutes for one file of these.
SANITIZE = [
    '-fsanitize=address,undefined',
    '-fno-sanitize-recover=all',
    '-fno-omit-frame-pointer',
    '-O0',
    '-g1',
]
DEFAULT_SOC = 'Ascend910B3'


def package_folder(name: str) -> Path:
    """Where a package is installed; without importing it."""
    spec = importlib.util.find_spec(name)
    # A folder of that name without an __init__.py is no package.
    folders = spec.submodule_search_locations if spec and spec.origin else None
    if not folders:
        raise SystemExit(f'ASCEND_HOME_PATH is set, but {name} is not installed: see docs/npu.md')
    return Path(folders[0])


def cmake() -> str:
    """The cmake beside this Python, else that on PATH."""
    beside = shutil.which('cmake', path=str(Path(sys.executable).parent))
    found = beside or shutil.which('cmake')
    if found is None:
        raise SystemExit('ASCEND_HOME_PATH is set, but there is no cmake: `pip install cmake`')
    return found


def soc_version() -> str:
    """The NPU to compile for: SOC_VERSION, else the one of this machine, else an Ascend910B3."""
    if 'SOC_VERSION' in os.environ:
        return os.environ['SOC_VERSION']
    try:
        acl = ctypes.CDLL(str(Path(os.environ['ASCEND_HOME_PATH']) / 'lib64/libascendcl.so'))
        acl.aclrtGetSocName.restype = ctypes.c_char_p
        acl.aclInit(None)
        found = (acl.aclrtGetSocName() or b'').decode()
    except (OSError, AttributeError):
        found = ''
    if not found:
        print(f'No NPU was found: its kernels are compiled for {DEFAULT_SOC} (SOC_VERSION)')
    return found or DEFAULT_SOC


class BuildPython(build_py):
    """Puts the configs into the package, where `mxd train NAME` looks for them; not in an editable install."""

    def run(self) -> None:
        """See setuptools' build_py."""
        super().run()
        if not getattr(self, 'editable_mode', False):  # setuptools 64 brought it
            target = Path(self.build_lib, 'mxd_mmplugin', 'configs')
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree('configs', target, ignore=shutil.ignore_patterns('__pycache__'))


class Build(BuildExtension):
    """Builds the CPU's library, and with CANN (ASCEND_HOME_PATH) those of the NPU."""

    user_options = [
        *BuildExtension.user_options,
        ('sanitize', None, 'build the library with ASan and UBSan, into build/sanitize'),
    ]
    boolean_options = [*BuildExtension.boolean_options, 'sanitize']

    def initialize_options(self) -> None:
        """See setuptools' build_ext."""
        super().initialize_options()
        self.sanitize = False

    def finalize_options(self) -> None:
        """Keeps object files in build/, so that an editable install compiles only what has changed."""
        super().finalize_options()
        self.build_temp = 'build'
        if self.sanitize:
            self.build_temp = self.build_lib = 'build/sanitize'
            for extension in self.extensions:
                extension.extra_compile_args += SANITIZE
                extension.extra_link_args += SANITIZE[:1]

    def run(self) -> None:
        """See setuptools' build_ext."""
        compiler = os.environ.get('CXX', 'c++')  # as PyTorch's BuildExtension picks it
        if not shutil.which(shlex.split(compiler)[0]):
            raise SystemExit(
                'mxd_mmplugin needs a C++ compiler, GCC 11 or Clang 14 and later, '
                f'and there is no {compiler}: install one, or name it in CXX'
            )
        super().run()
        library = Path(self.get_ext_fullpath('mxd_mmplugin._C'))
        library.with_suffix('.torch').write_text(torch.__version__)
        if 'ASCEND_HOME_PATH' in os.environ:
            self.build_npu(library.parent / 'npu')

    def build_npu(self, target: Path) -> None:
        """Builds csrc/CMakeLists.txt and puts its libraries into `target`."""
        folder = Path('build/npu')
        values = {
            'TORCH_DIR': Path(torch.__file__).parent,
            'TORCH_NPU_DIR': package_folder('torch_npu'),
            'TORCH_CXX11_ABI': int(torch.compiled_with_cxx11_abi()),
            'Python3_EXECUTABLE': sys.executable,
            'SOC_VERSION': soc_version(),
        }
        settings = [f'-D{name}={value}' for name, value in values.items()]
        tool = cmake()
        # CANN's scripts read the link line that this generator writes.
        settings += ['-G', 'Unix Makefiles']
        subprocess.run([tool, '-S', 'csrc', '-B', str(folder), *settings], check=True)
        subprocess.run([tool, '--build', str(folder), '--parallel'], check=True)
        target.mkdir(parents=True, exist_ok=True)
        for library in (folder / 'lib').glob('libmxd_*.so'):
            shutil.copy2(library, target)


FOLDERS = ('csrc/ops', 'csrc/ops/cpu', 'csrc/mmcv_registry/cpu', 'csrc/mmcv_registry/forms')
SOURCES = sorted(str(path) for folder in FOLDERS for path in Path(folder).glob('*.cpp'))

setup(
    ext_modules=[
        CppExtension(
            'mxd_mmplugin._C',
            SOURCES,
            depends=sorted(
                str(path)
                for folder in ('csrc/ops', 'csrc/mmcv_registry')
                for path in Path(folder).rglob('*.h')
            ),
            # No -march: kernels pick their vector width at run time (csrc/ops/cpu/simd.h).
            # -g0: Python's own flags ask for debug information, 35 MB of it.
            extra_compile_args=[
                '-O3',
                '-g0',
                '-ffp-contract=fast',
                '-fopenmp',
                '-Wall',
                '-Wno-psabi',
            ],
            extra_link_args=['-fopenmp'],
        )
    ],
    cmdclass={
        'build_ext': Build.with_options(no_python_abi_suffix=True),
        'build_py': BuildPython,
    },
)
