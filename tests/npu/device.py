"""Launch kernels on the software NPU with no torch_npu: device memory by libascendcl, arrays by numpy."""

import ctypes
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

LIB = Path(__file__).parents[2] / '.softnpu' / 'lib'


class KernelError(Exception):
    """A kernel broke a rule of the machine."""


class Device:
    """A device of the software NPU and the kernels of one library.

    Args:
        library (str): the library's name, as ascendc_library() in csrc/CMakeLists.txt has it.
    """

    def __init__(self, library: str):
        self.acl = ctypes.CDLL(str(LIB / 'libascendcl.so'))
        self.acl.aclInit(None)
        self.acl.aclrtSetDevice(0)
        self.acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.kernels = ctypes.CDLL(str(LIB / f'lib{library}.so'))

    def empty(self, nbytes: int) -> ctypes.c_void_p:
        """The address of new device memory."""
        address = ctypes.c_void_p()
        assert self.acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(max(nbytes, 32)), 0) == 0
        return address

    def free(self, address: ctypes.c_void_p) -> None:
        """Give device memory back."""
        assert self.acl.aclrtFree(address) == 0

    def launch(self, kernel: str, blocks: int, *arguments):
        """Run a kernel; arrays are copied to the device and back, in place.

        Args:
            kernel (str): its name.
            blocks (int): how many blocks.
            *arguments: numpy arrays, addresses, or ctypes structures and numbers given by value.

        Raises:
            KernelError: with the text of the error.
        """
        buffers, passed = [], []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                address = self.empty(argument.nbytes)
                size = ctypes.c_size_t(argument.nbytes)
                pointer = argument.ctypes.data_as(ctypes.c_void_p)
                self.acl.aclrtMemcpy(address, size, pointer, size, 1)
                buffers.append((address, pointer, size))
                argument = address
            elif not isinstance(argument, ctypes.c_void_p):
                argument = ctypes.byref(argument)
            passed.append(argument)
        try:
            status = getattr(self.kernels, f'aclrtlaunch_{kernel}')(blocks, None, *passed)
            if status:
                raise KernelError(self.acl.aclGetRecentErrMsg().decode())
            for address, pointer, size in buffers:
                self.acl.aclrtMemcpy(pointer, size, address, size, 2)
        finally:
            for address, _, _ in buffers:
                self.free(address)


@contextmanager
def profiled():
    """Yield a list that, after the block, has the cost of each launch in it as a dict."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'profile.jsonl'
        os.environ['MXD_SOFTNPU_PROFILE'] = str(path)
        try:
            yield rows
        finally:
            del os.environ['MXD_SOFTNPU_PROFILE']
        if path.exists():
            rows += map(json.loads, path.read_text().splitlines())
