"""The software NPU rejects wrong kernels, and names kernel, core, line and rule; right ones run."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from device import LIB, Device, Rejected

KERNELS = Path(__file__).parent / 'kernels'
KERNEL = re.compile(r'^(?:// blocks: (\d+)\n)?extern "C"[^;{]* (\w+)\(GM_ADDR x,\s+GM_ADDR y\) {.*?^}', re.S | re.M)

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
    with pytest.raises(Rejected) as rejected:
        device.launch(kernel, blocks, x, y)
    text = str(rejected.value)
    assert re.search(error, text), text
    assert f'kernel {kernel}, block ' in text
    assert f'{source}:{line}: ' in text
