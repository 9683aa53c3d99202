"""What an ATen operator costs on an Atlas A2: a bound from its bytes and multiply-adds; elsewhere, stated rates."""

import math
from typing import NamedTuple

# Of an Ascend910B3, as the kernels' model has them (csrc/softnpu/ascendc/profile.cpp).
CUBE_CORES, VECTOR_CORES, CYCLES_A_US = 20, 40, 1800
L2_BYTES, DEVICE_BYTES_A_US = 192 << 20, 1.6e6
L2_READ, L2_WRITE = 110, 86  # bytes a cycle of a vector core
MULTIPLIES = {'float16': 4096, 'bfloat16': 4096, 'float32': 1024}  # a cycle of a cube core
CONVOLUTION_FLOAT = 2048  # HF32, which torch_npu allows convolutions unless told otherwise
# Stated, not measured: the order of magnitude of what is reported for such machines.
START_US = 2.0  # of the device, for each operator
LAUNCH_US = 10.0  # of the host, for each operator
WAIT_US = 30.0  # of the host, for each wait: the queue drains and fills again
LINK_BYTES_A_US = 2e4  # between host and device
AI_CPU_US, AI_CPU_BYTES_A_US = 50.0, 1e3
HOST_US, HOST_BYTES_A_US = 100.0, 5e3  # of a fallback, beside its copies

SIZES = {
    **dict.fromkeys(('bool', 'uint8', 'int8'), 1),
    **dict.fromkeys(('int16', 'float16', 'bfloat16'), 2),
    **dict.fromkeys(('int32', 'float32'), 4),
    **dict.fromkeys(('int64', 'float64', 'complex64'), 8),
    'complex128': 16,
}
READS_ROWS = {'index', 'index_select', 'gather', 'embedding'}  # of their first tensor, only those
WRITES_ROWS = {
    'index_put_',
    '_index_put_impl_',
    'index_add_',
    'index_copy_',
    'scatter_',
    'scatter_add_',
}
CONVOLUTIONS = {'convolution', 'convolution_overrideable', 'convolution_backward'}


class Cost(NamedTuple):
    """Of one call.

    Attributes:
        us (float): time on the device, or on the host where it runs there.
        bytes (int): read and written.
        bound (str): what takes the time: start, cube, memory, L2, link, AI CPU or host.
    """

    us: float
    bytes: int
    bound: str


def _size(tensor: list) -> int:
    dtype, shape = tensor
    return SIZES[dtype] * math.prod(shape)


def multiplies(call: dict) -> int:
    """Multiply-adds of a matrix product or a convolution; 0 for other operators."""
    name, inputs, outputs = call['operator'].split('.')[0], call['inputs'], call['outputs']
    if not outputs:
        return 0
    shapes = [shape for _, shape in inputs]
    if name in ('mm', 'bmm', 'matmul', 'dot', 'mv'):
        return math.prod(outputs[0][1]) * shapes[0][-1]
    if name in ('addmm', 'baddbmm', 'addbmm'):
        return math.prod(outputs[0][1]) * shapes[1][-1]
    if name in ('linear', 'convolution', 'convolution_overrideable'):
        weight = shapes[1]
        if name == 'linear':
            return math.prod(outputs[0][1]) * weight[-1]
        # Each output has the products of one filter; transposed, each input.
        transposed = outputs[0][1][1] != weight[0]
        spread = shapes[0] if transposed else outputs[0][1]
        return math.prod(spread) * math.prod(weight[1:])
    if name == 'convolution_backward':
        grad, image, weight = shapes[:3]
        spread = image if grad[1] != weight[0] else grad
        gradients = sum(len(shape) == len(weight) for _, shape in outputs)  # of image and weight
        return gradients * math.prod(spread) * math.prod(weight[1:])
    return 0


def _traffic(call: dict) -> tuple[int, int]:
    """Bytes read and written."""
    name, inputs, outputs = call['operator'].split('.')[0], call['inputs'], call['outputs']
    read, written = sum(map(_size, inputs)), sum(map(_size, outputs))
    if name in READS_ROWS and inputs:
        read += written - _size(inputs[0])
    elif name in WRITES_ROWS and inputs:
        rows = _size(inputs[-1])
        read, written = read - _size(inputs[0]) + rows, rows
    return max(read, 0), written


def cost(call: dict) -> Cost:
    """The modelled cost of one call.

    Args:
        call (dict): a line of the profile: operator, on, inputs and outputs as pairs of dtype and shape.
    """
    read, written = _traffic(call)
    total = read + written
    on = call['on']
    if on == 'AI CPU':
        return Cost(AI_CPU_US + total / AI_CPU_BYTES_A_US, total, on)
    if on == 'host':
        return Cost(HOST_US + total / LINK_BYTES_A_US + total / HOST_BYTES_A_US, total, on)
    if on in ('to device', 'to host'):
        return Cost(written / LINK_BYTES_A_US, written, 'link')
    in_l2 = total <= L2_BYTES
    cycles = max(read / L2_READ, written / L2_WRITE) / VECTOR_CORES
    memory = cycles / CYCLES_A_US if in_l2 else total / DEVICE_BYTES_A_US
    bound = 'start' if memory < START_US else 'L2' if in_l2 else 'memory'
    count = multiplies(call)
    if not count:
        return Cost(START_US + memory, total, bound)
    dtype = call['inputs'][0][0]
    rate = MULTIPLIES.get(dtype, MULTIPLIES['float32'])
    if dtype == 'float32' and call['operator'].split('.')[0] in CONVOLUTIONS:
        rate = CONVOLUTION_FLOAT
    cube = count / rate / CUBE_CORES / CYCLES_A_US
    if cube > memory:
        return Cost(START_US + cube, total, 'start' if cube < START_US else 'cube')
    return Cost(START_US + memory, total, bound)
