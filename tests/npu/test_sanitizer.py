"""The software NPU rejects wrong kernels, and names kernel, core, line and rule; right ones run."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from tests.npu.device import LIB, Device, KernelError

KERNELS = Path(__file__).parent / 'kernels'
KERNEL = re.compile(
    r'^(?:// blocks: (\d+)\n)?extern "C"[^;{]* (\w+)\(GM_ADDR x,\s+GM_ADDR y\) {.*?^}', re.S | re.M
)

pytestmark = pytest.mark.skipif(
    not (LIB / 'libmxd_test_kernels.so').exists(), reason='`make softnpu` builds the kernels'
)


@pytest.fixture(scope='module')
def device():
    """The device, with the kernels of tests/npu/kernels."""
    return Device('mxd_test_kernels')


def doubling_kernels():
    """The kernels of the folder that double x: name, blocks, file, and the error in a comment."""
    cases = []
    for path in sorted(KERNELS.glob('*.cpp')):
        text = path.read_text()
        for match in KERNEL.finditer(text):
            # The comment that tells the error stands on the lines above the one that is wrong.
            error = re.search(r'// error: (.*(?:\n *// .*)*)', match[0])
            line = text[: match.start() + error.end()].count('\n') + 2 if error else None
            rule = re.sub(r'\n *// ', ' ', error[1]) if error else None
            blocks = int(match[1] or 1)
            cases.append(pytest.param(match[2], blocks, path.name, line, rule, id=match[2]))
    return cases


@pytest.mark.parametrize(('kernel', 'blocks', 'source', 'line', 'error'), doubling_kernels())
def test_kernel(device, kernel, blocks, source, line, error):
    x = np.arange(1024, dtype=np.float32) + 0.5
    y = np.zeros_like(x)
    if error is None:
        device.launch(kernel, blocks, x, y)
        np.testing.assert_array_equal(y, 2 * x)
        return
    with pytest.raises(KernelError) as rejected:
        device.launch(kernel, blocks, x, y)
    text = str(rejected.value)
    assert re.search(error, text), text
    assert f'kernel {kernel}, block ' in text
    assert f'{source}:{line}: ' in text


def test_host_memory(device):
    x, y = np.zeros(1024, np.float32), np.zeros(1024, np.float32)
    host = x.ctypes.data_as(ctypes.c_void_p)
    with pytest.raises(
        KernelError,
        match=r'order_right, block 0, AIV 0, double.h:\d+: DataCopy: reads .* host memory',
    ):
        device.launch('order_right', 1, host, y)
    with pytest.raises(KernelError, match=r'DataCopy: writes .* host memory'):
        device.launch('order_right', 1, x, host)
    with pytest.raises(KernelError, match='null pointer'):
        device.launch('order_right', 1, ctypes.c_void_p(), y)


def test_freed_memory(device):
    y = np.zeros(1024, np.float32)
    address = device.empty(4096)
    device.free(address)
    with pytest.raises(KernelError, match=r'DataCopy: reads global memory: .* freed'):
        device.launch('order_right', 1, address, y)


def test_memory_beyond_an_allocation(device):
    y = np.zeros(1024, np.float32)
    address = device.empty(2048)
    with pytest.raises(
        KernelError, match=r'DataCopy: reads global memory: .* end of its allocation'
    ):
        device.launch('order_right', 1, address, y)
    device.free(address)


def test_number_of_blocks(device):
    x, y = np.zeros(1024, np.float32), np.zeros(1024, np.float32)
    for blocks in (0, 65536):
        with pytest.raises(KernelError, match=r'blocks, which must be in \[1, 65535\]'):
            device.launch('order_right', blocks, x, y)


def test_the_device_runs_on_after_a_rejection(device):
    x, y = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    with pytest.raises(KernelError):
        device.launch('queue_alloc_beyond_its_buffers', 1, x, y)
    device.launch('queue_right', 1, x, y)
    np.testing.assert_array_equal(y, 2)
