"""Matrix products of the software NPU's cube against numpy."""

import ctypes

import numpy as np
import pytest

from tests.npu.device import LIB, Device

pytestmark = pytest.mark.skipif(
    not (LIB / 'libmxd_test_kernels.so').exists(), reason='`make softnpu` builds the kernels'
)


@pytest.mark.parametrize(
    'size', [(16, 16, 16), (64, 96, 128), (33, 48, 50), (2, 16, 8), (128, 64, 27)]
)
@pytest.mark.parametrize('dtype', [np.float16, np.float32])
@pytest.mark.parametrize('transposed', [False, True])
def test_product(size, dtype, transposed):
    m, n, k = size
    rng = np.random.default_rng([m, n, k])
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    out = np.zeros((m, n), np.float32)
    name = f'cube_product_{"half" if dtype == np.float16 else "float"}'
    given = np.ascontiguousarray(b.T) if transposed else b
    kernel = name + ('_transposed' if transposed else '')
    Device('mxd_test_kernels').launch(kernel, 1, a, given, out, (ctypes.c_int32 * 3)(m, n, k))
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)
