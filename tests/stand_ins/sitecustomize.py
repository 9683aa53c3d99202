"""Has numba keep what it compiles, for the processes that tests start.

mmdet3d compiles its transforms of boxes anew in every process, that is in every worker of every data loader and where
workers do not persist in every epoch. Each time that takes six seconds, some forty times in all tests.
"""

import functools

import numba
from numba.core import decorators

compile_anew = decorators.jit


@functools.wraps(compile_anew)
def jit(*args, **options):
    """`numba.jit` with `cache=True` where nothing else is asked for."""
    return compile_anew(*args, **{'cache': True, **options})


numba.jit = decorators.jit = jit  # `njit` calls the second one
