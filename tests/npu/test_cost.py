"""The cost model of the software NPU on kernels that are worked out by hand, and the profile's table."""

import ctypes

import numpy as np
import pytest

from mxd_mmplugin.softnpu import profile
from tests.npu.device import LIB, Device, KernelError, profiled

pytestmark = pytest.mark.skipif(
    not (LIB / 'libmxd_test_kernels.so').exists(), reason='`make softnpu` builds the kernels'
)

IN, OUT, LATENCY = (
    4096 / 110,
    4096 / 86,
    400,
)  # cycles of a copy of 4 KiB, and until its data is there


@pytest.fixture(scope='module')
def device():
    """The device, with the kernels of tests/npu/kernels."""
    return Device('mxd_test_kernels')


def cost(device, kernel, blocks=1, arguments=None):
    """The profile of one launch."""
    arguments = arguments or [np.ones(1024, np.float32), np.zeros(1024, np.float32)]
    with profiled() as rows:
        device.launch(kernel, blocks, *arguments)
    assert len(rows) == 1
    return rows[0]


def test_copy_add_copy(device):
    row = cost(device, 'order_right')
    # The load is issued in cycle 1; 16 repeats of 256 B are added.
    assert row['cycles'] == pytest.approx(1 + IN + LATENCY + 14 + 16 + OUT + LATENCY)
    assert row['modelled_us'] == pytest.approx(row['cycles'] / 1800, rel=1e-4)
    assert row['bytes_in'] == row['bytes_out'] == 4096
    assert row['distinct_read'] == row['distinct_written'] == 4096
    assert row['pipes']['V']['busy_max'] == 30
    assert row['bound'] == 'MTE3'


def test_barriers_leave_no_overlap(device):
    row = cost(device, 'order_barrier_of_all')
    copies = [IN + LATENCY, OUT + LATENCY, IN + LATENCY, 30, OUT + LATENCY]
    assert row['cycles'] == pytest.approx(sum(copies) + 5)  # each is issued in a cycle of its own


def test_queue_of_depth_two_overlaps(device):
    two, one = cost(device, 'queue_right'), cost(device, 'queue_of_depth_one')
    assert two['cycles'] < 0.8 * one['cycles']


def test_bursts(device):
    row = cost(device, 'cost_bursts', arguments=[np.ones(1024, np.float32)])
    # 16 bursts of 64 B: 32 cycles at least, and 4 for each burst after the first.
    assert row['pipes']['MTE2']['busy_max'] == 32 + 15 * 4
    assert row['bursts'] == {'64': 16}


@pytest.mark.parametrize(('kernel', 'each'), [('cube_product_half', 1), ('cube_product_float', 4)])
def test_cube(device, kernel, each):
    dtype = np.float16 if each == 1 else np.float32
    a, b, out = np.ones((64, 128), dtype), np.ones((128, 96), dtype), np.zeros((64, 96), np.float32)
    row = cost(device, kernel, arguments=[a, b, out, (ctypes.c_int32 * 3)(64, 96, 128)])
    assert row['pipes']['M']['busy_max'] == 4 * 6 * 8 * each
    assert row['cube_multiplies'] == 64 * 96 * 128
    assert row['pipes']['FIX']['busy_max'] == pytest.approx(64 * 96 * 4 / 86 + 63 * 4)


def test_scalar_accesses(device):
    row = cost(device, 'order_scalar_read_after_its_flag')
    assert row['scalar_local'] == 2
    row = cost(device, 'memory_scalar_write_flushed')
    assert row['scalar_global'] == 3
    assert row['cycles'] > 3 * 400


def test_blocks_beyond_the_cores_wait(device):
    size = 65536 * 2
    address = device.empty(size * 80)
    rows = [
        cost(device, 'cost_stream', n, [address, ctypes.c_int32(size)]) for n in (1, 40, 41, 80)
    ]
    device.free(address)
    cycles = [row['cycles'] for row in rows]
    assert cycles[0] == cycles[1]
    assert cycles[2] == cycles[3] == pytest.approx(2 * cycles[0])


def test_working_set_beyond_the_l2(device, monkeypatch):
    monkeypatch.setenv('MXD_SOFTNPU_CHECK', '0')
    address = device.empty(65536 * 100 * 40)
    near, far = (
        cost(device, 'cost_stream', 40, [address, ctypes.c_int32(65536 * n)]) for n in (50, 100)
    )
    device.free(address)
    assert near['l2'] and not far['l2']
    assert near['pipes']['MTE2']['busy_max'] == pytest.approx(50 * 65536 / 110)
    assert far['pipes']['MTE2']['busy_max'] == pytest.approx(100 * 65536 / 32)
    # 40 cores at 32 B a cycle would be 2.3 TB/s; the memory gives 1.6.
    assert far['bound'] == 'device memory'
    assert far['modelled_us'] == pytest.approx(65536 * 100 * 40 / 1.6e6)


def test_checks_can_be_left_out(device, monkeypatch):
    monkeypatch.setenv('MXD_SOFTNPU_CHECK', '0')
    x, y = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    device.launch('order_flag_after_load_missing', 1, x, y)
    np.testing.assert_array_equal(y, 2)
    with pytest.raises(KernelError, match='out of its buffer'):
        device.launch('memory_vector_out_of_its_buffer', 1, x, y)


def test_report(device, tmp_path, monkeypatch, capsys):
    path = tmp_path / 'profile.jsonl'
    assert profile.report(path) == []
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    arrays = [np.ones(1024, np.float32), np.zeros(1024, np.float32)]
    for kernel in ('order_right', 'order_right', 'order_barrier_of_all'):
        device.launch(kernel, 1, *arrays)
    slow, fast = sorted(profile.report(path), key=lambda row: row['launches'])
    assert (slow['kernel'], slow['launches']) == ('order_barrier_of_all', 1)
    assert (fast['kernel'], fast['launches'], fast['bytes_in']) == ('order_right', 2, 8192)
    assert 0 < fast['busy']['V'] < fast['busy']['MTE2'] < fast['busy']['MTE3'] < 1
    assert fast['bound_us'] < fast['modelled_us']
    assert 'order_barrier_of_all' in capsys.readouterr().out
