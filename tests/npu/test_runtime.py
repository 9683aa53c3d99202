"""The ACL runtime of the software NPU: memory, copies, streams, events, devices, errors."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from mxd_mmplugin import softnpu

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='a real NPU has its own runtime')

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


@pytest.fixture(scope='module')
def acl():
    torch.npu.init()
    library = ctypes.CDLL('libascendcl.so')
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library


def pointer(address=0):
    return ctypes.c_void_p(address)


@pytest.fixture
def block(acl):
    """Address of 1000 B of device memory."""
    address = pointer()
    assert acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(1000), 0) == 0
    yield address.value
    acl.aclrtFree(address)


def copy(acl, to, source, size, kind, room=None):
    """The error code of a copy, and the text of the error."""
    room = ctypes.c_size_t(size if room is None else room)
    code = acl.aclrtMemcpy(pointer(to), room, pointer(source), ctypes.c_size_t(size), kind)
    return code, (acl.aclGetRecentErrMsg() or b'').decode()


def test_copies_there_and_back(acl, block):
    host, back = ctypes.create_string_buffer(b'x' * 1000, 1000), ctypes.create_string_buffer(1000)
    at, to = ctypes.addressof(host), ctypes.addressof(back)
    assert copy(acl, block, at, 1000, HOST_TO_DEVICE)[0] == 0
    assert copy(acl, to, block, 1000, DEVICE_TO_HOST)[0] == 0
    assert back.raw == host.raw


def test_wrong_copies_are_errors_that_name_the_pointer(acl, block):
    host = ctypes.create_string_buffer(1000)
    at = ctypes.addressof(host)
    cases = {
        (at, at, 8, HOST_TO_DEVICE): f'destination {at:#x} is host memory',
        (
            block,
            block,
            8,
            HOST_TO_DEVICE,
        ): f'source {block:#x} is memory of device 0, not of the host',
        (block, block, 8, DEVICE_TO_HOST): f'destination {block:#x} is memory of device 0',
        (at, at, 8, DEVICE_TO_HOST): f'source {at:#x} is host memory',
        (at, block, 1001, DEVICE_TO_HOST): 'has 1000 B to the end of its allocation of 1000 B',
        (at, block + 992, 9, DEVICE_TO_HOST): 'has 8 B to the end of its allocation',
        (at, block + 1000, 1, DEVICE_TO_HOST): '0 B past the end of an allocation of 1000 B',
        (at, block + (1 << 35), 1, DEVICE_TO_HOST): 'that was never allocated',
        (block, 0, 8, DEVICE_TO_DEVICE): 'source 0x0 is a null pointer',
    }
    for (to, source, size, kind), text in cases.items():
        code, message = copy(acl, to, source, size, kind)
        assert code != 0 and text in message, (text, message)
    code, message = copy(acl, block, at, 8, HOST_TO_DEVICE, room=4)
    assert code != 0 and '8 B do not fit into the destination of 4 B' in message


def test_freed_memory_is_poisoned_and_named(acl):
    address = pointer()
    assert acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(64), 0) == 0
    assert acl.aclrtMemset(address, ctypes.c_size_t(64), 7, ctypes.c_size_t(64)) == 0
    assert acl.aclrtFree(address) == 0
    assert ctypes.string_at(address.value, 64) == b'\xff' * 64
    host = ctypes.create_string_buffer(64)
    code, text = copy(acl, ctypes.addressof(host), address.value, 64, DEVICE_TO_HOST)
    assert code != 0 and f'{address.value:#x} is memory of device 0 that was freed' in text
    assert acl.aclrtFree(address) != 0 and b'that was freed' in acl.aclGetRecentErrMsg()


def test_new_memory_is_not_zero():
    assert torch.empty(1000, device='npu').isnan().all()


def test_memory_is_reused_and_counted(acl):
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total))
    before = free.value
    for _ in range(100):  # 6.4 GB in all
        torch.empty(16 << 20, device='npu')
    acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total))
    assert free.value == before and total.value == 64 << 30


def test_freeing_what_is_no_allocation_is_an_error(acl, block):
    assert acl.aclrtFree(pointer(block + 512)) != 0
    assert b'lies inside of an allocation' in acl.aclGetRecentErrMsg()
    host = ctypes.create_string_buffer(8)
    assert acl.aclrtFree(host) != 0 and b'is host memory' in acl.aclGetRecentErrMsg()
    assert acl.aclrtFreeHost(host) != 0


def test_a_full_device_is_an_error():
    with pytest.raises(RuntimeError):
        torch.empty(65 << 30, dtype=torch.uint8, device='npu')


def test_events_know_what_was_recorded(acl):
    event = pointer()
    assert acl.aclrtCreateEventExWithFlag(ctypes.byref(event), 0) == 0
    status = ctypes.c_int(9)
    acl.aclrtQueryEventStatus(event, ctypes.byref(status))
    assert status.value == 0
    for wait in (
        lambda: acl.aclrtStreamWaitEvent(None, event),
        lambda: acl.aclrtSynchronizeEvent(event),
    ):
        assert wait() != 0 and b'the event was never recorded' in acl.aclGetRecentErrMsg()
    assert acl.aclrtRecordEvent(event, None) == 0
    acl.aclrtQueryEventStatus(event, ctypes.byref(status))
    assert status.value == 1 and acl.aclrtStreamWaitEvent(None, event) == 0
    assert acl.aclrtDestroyEvent(event) == 0
    assert acl.aclrtRecordEvent(event, None) != 0
    assert b'is no event, or was destroyed' in acl.aclGetRecentErrMsg()


def test_streams_and_times():
    start, end = (torch.npu.Event(enable_timing=True) for _ in range(2))
    stream = torch.npu.Stream()
    start.record()
    source = torch.arange(1000.0).pin_memory()
    with torch.npu.stream(stream):
        there = source.to('npu', non_blocking=True)
        end.record(stream)
    torch.npu.current_stream().wait_stream(stream)
    assert (there + 1).sum().item() == 500500
    end.synchronize()
    assert 0 < start.elapsed_time(end) < 60000


def test_devices_have_memory_of_their_own():
    assert torch.npu.device_count() == 2
    first, second = (torch.arange(4.0, device=f'npu:{i}') for i in range(2))
    assert first.data_ptr() >> 40 == 0x4A and second.data_ptr() >> 40 == 0x4B
    second.copy_(first * 2)
    assert second.tolist() == [0, 2, 4, 6] and second.device.index == 1
    with pytest.raises(RuntimeError):
        torch.empty(1, device='npu:2')


def test_data_loader_workers_inherit_the_device():
    loader = torch.utils.data.DataLoader(list(range(8)), batch_size=4, num_workers=2)
    assert sum(batch.npu().sum().item() for batch in loader) == 28


def test_an_operator_of_cann_is_refused_by_name():
    """In a process of its own, without torch_npu's queue: that may lose a failure, or report it late."""
    code = 'import torch; boxes = torch.ones(1, 2, 5).npu(); torch.ops.npu.npu_rotated_iou(boxes, boxes)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'TASK_QUEUE_ENABLE': '0'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and 'RuntimeError' in done.stderr
    assert "CANN's operator RotatedIou is not part of the software NPU" in done.stderr


def test_the_number_of_devices_is_a_setting():
    code = 'import torch; print(torch.npu.device_count())'
    for text, count in (('8', 8), ('0', 1), ('nine', 1)):
        env = {**os.environ, 'MXD_SOFTNPU_DEVICES': text}
        out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
        assert out.stdout.split()[-1] == str(count)
        assert ('1 to 8 are possible' in out.stderr) == (count == 1)


def test_kernels_of_another_soc_are_refused():
    code = (
        'import torch, mxd_mmplugin\n'
        'indices = torch.tensor([[0, 1]], dtype=torch.int32, device="npu")\n'
        'mxd_mmplugin.build_rulebook(indices, 1, [4], [3], [1], [1], [1], True)\n'
        'torch.npu.synchronize()'
    )
    env = {**os.environ, 'MXD_SOFTNPU_SOC': 'Ascend910B1'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'compiled for Ascend910B3, and this NPU is a Ascend910B1: set SOC_VERSION' in done.stderr
