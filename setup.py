"""Build the C++ library of mxd_mmplugin. Everything that is not about compiling is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension


class Build(BuildExtension):
    """Keeps object files in build/, so that an editable install compiles only what has changed."""

    def finalize_options(self) -> None:
        """See setuptools' build_ext."""
        super().finalize_options()
        self.build_temp = 'build'


SOURCES = sorted(str(path) for path in Path('csrc/ops').rglob('*.cpp'))

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
