"""Has numba keep what it compiles, and garbage be collected seldom, for the processes that tests start.

mmdet3d compiles its transforms of boxes anew in every process, that is in every worker of every data loader and where
workers do not persist in every epoch. Each time that takes six seconds, some forty times in all tests.
While modules are imported, the garbage collector looks through all objects again and again, and finds nothing: a tenth
of the time.
"""

import functools
import gc

import numba
from numba.core import decorators

gc.set_threshold(100_000, 20, 20)
compile_anew = decorators.jit


@functools.wraps(compile_anew)
def jit(*args, **options):
    """`numba.jit` with `cache=True` where nothing else is asked for."""
    return compile_anew(*args, **{'cache': True, **options})


numba.jit = decorators.jit = jit  # `njit` calls the second one
