"""The vector instructions of the software NPU against numpy, over masks, strides and repeats."""

import ctypes

import numpy as np
import pytest

from tests.npu.device import LIB, Device, KernelError

pytestmark = pytest.mark.skipif(
    not (LIB / 'libmxd_test_kernels.so').exists(), reason='`make softnpu` builds the kernels'
)

BYTES = 16384
TYPES = [np.float32, np.float16, np.int32, np.int16]


class Case(ctypes.Structure):
    """An instruction: VectorCase of kernels/vector.h."""

    _fields_ = [
        ('mask', ctypes.c_uint64 * 2),
        ('instruction', ctypes.c_int32),
        ('type', ctypes.c_int32),
        ('form', ctypes.c_int32),
        ('count', ctypes.c_int32),
        ('repeat', ctypes.c_int32),
        ('block', ctypes.c_int32 * 3),
        ('stride', ctypes.c_int32 * 3),
        ('extra', ctypes.c_int32),
        ('scalar', ctypes.c_float),
    ]


@pytest.fixture(scope='module')
def device():
    """The device, with the kernels of tests/npu/kernels."""
    return Device('mxd_test_kernels')


def random_array(rng, dtype):
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=BYTES // np.dtype(dtype).itemsize).astype(dtype)
    return rng.integers(-900, 900, size=BYTES // np.dtype(dtype).itemsize).astype(dtype)


def random_case(rng, sizes, **fields):
    """A case in one of the three forms, whose operands (destination first) stay in their buffers."""
    lanes = 256 // max(sizes)
    case = Case(**fields)
    case.form = rng.integers(3)
    case.repeat = rng.integers(1, 9)
    blocks = lanes * np.array(sizes) // 32
    case.block[:] = [*rng.integers(1, 4, size=len(sizes))] + [1] * (3 - len(sizes))
    if rng.random() < 0.4:
        case.block[:] = (1, 1, 1)
    # Repeats that write must not meet; a source may be read again.
    case.stride[:] = [int(case.block[i] * blocks[i]) for i in range(len(sizes))] + [8] * (
        3 - len(sizes)
    )
    if len(sizes) > 1 and rng.random() < 0.3:
        case.stride[len(sizes) - 1] = 0
    bits = rng.random(128) < rng.choice([0.1, 0.5, 1.0])
    bits[lanes:] = False
    bits[rng.integers(lanes)] = True
    words = np.packbits(bits, bitorder='little').view(np.uint64)
    case.mask[:] = [int(word) for word in words]
    case.count = rng.integers(1, lanes + 1) if case.form else rng.integers(1, 2048)
    return case


def operand_indices(case, sizes):
    """For each operand (destination first), the elements that the lanes of the case are."""
    if case.form == 0:
        return [np.arange(case.count)] * len(sizes)
    lanes = np.arange(256 // max(sizes))
    if case.form == 1:
        chosen = lanes[: case.count]
    else:
        words = np.array(case.mask[:], np.uint64)
        chosen = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder='little'))
    repeats = np.arange(case.repeat)[:, None]
    indices = []
    for i, size in enumerate(sizes):
        block = 32 // size
        of_lane = (chosen // block * case.block[i]) * block + chosen % block
        indices.append((repeats * case.stride[i] * block + of_lane).ravel())
    return indices


def run(device, kernel, case, a, b, out):
    result = out.copy()
    device.launch(kernel, 1, a, b, result, case)
    return result


ARITHMETIC = {
    0: np.add,
    1: np.subtract,
    2: np.multiply,
    3: np.maximum,
    4: np.minimum,
    5: np.add,
    6: np.multiply,
    7: np.maximum,
    8: np.minimum,
    9: lambda a, b: b,
}


@pytest.mark.parametrize('instruction', ARITHMETIC)
@pytest.mark.parametrize('type_', range(4))
def test_arithmetic(device, instruction, type_):
    rng = np.random.default_rng([instruction, type_])
    dtype = TYPES[type_]
    size = np.dtype(dtype).itemsize
    for _ in range(12):
        operands = 3 if instruction < 5 else 2 if instruction < 9 else 1
        case = random_case(
            rng,
            [size] * operands,
            instruction=instruction,
            type=type_,
            scalar=float(rng.integers(-9, 9)),
        )
        a, b, out = (random_array(rng, dtype) for _ in range(3))
        indices = operand_indices(case, [size] * operands)
        expected = out.copy()
        left = a[indices[1]] if operands > 1 else out[indices[0]]
        right = b[indices[2]] if operands > 2 else np.full_like(left, case.scalar)
        with np.errstate(over='ignore'):
            expected[indices[0]] = ARITHMETIC[instruction](left, right)
        np.testing.assert_array_equal(run(device, 'vector_arithmetic', case, a, b, out), expected)


FLOATING = {
    0: lambda d, a, b: a / b,
    1: lambda d, a, b: a * b + d,
    2: lambda d, a, b: np.abs(a),
    3: lambda d, a, b: np.exp(a),
    4: lambda d, a, b: np.log(a),
    5: lambda d, a, b: np.sqrt(a),
    6: lambda d, a, b: 1 / np.sqrt(a),
    7: lambda d, a, b: 1 / a,
    8: lambda d, a, b: np.maximum(a, 0),
    9: lambda d, a, b: a * b + d,
}


@pytest.mark.parametrize('instruction', FLOATING)
@pytest.mark.parametrize('type_', range(2))
def test_floating(device, instruction, type_):
    rng = np.random.default_rng([instruction, type_])
    dtype = TYPES[type_]
    size = np.dtype(dtype).itemsize
    for _ in range(8):
        operands = 3 if instruction < 2 else 2
        case = random_case(rng, [size] * operands, instruction=instruction, type=type_, scalar=1.75)
        a, b, out = (random_array(rng, dtype) for _ in range(3))
        if instruction in (4, 5, 6):
            a = np.abs(a) + dtype(0.125)
        indices = operand_indices(case, [size] * operands)
        left = a[indices[1]].astype(np.float32)
        right = b[indices[2]].astype(np.float32) if operands > 2 else np.float32(case.scalar)
        expected = out.copy()
        with np.errstate(all='ignore'):
            value = FLOATING[instruction](out[indices[0]].astype(np.float32), left, right)
        expected[indices[0]] = value.astype(dtype)
        # Halves are rounded once; the transcendental functions of fp32 differ in the last bit.
        tolerance = 3e-7 if type_ == 0 else 1e-3
        np.testing.assert_allclose(
            run(device, 'vector_floating', case, a, b, out),
            expected,
            rtol=tolerance,
            atol=tolerance,
        )


def test_logic(device):
    rng = np.random.default_rng(0)
    a, b, out = (random_array(rng, np.int16) for _ in range(3))
    functions = (np.bitwise_and, np.bitwise_or, lambda a, b: ~a)
    for instruction, function in enumerate(functions):
        result = run(device, 'vector_logic', Case(instruction=instruction, count=1001), a, b, out)
        np.testing.assert_array_equal(result[:1001], function(a, b)[:1001])
        np.testing.assert_array_equal(result[1001:], out[1001:])
    a, b, out = (random_array(rng, np.int32) for _ in range(3))
    for instruction, function in ((3, np.left_shift), (4, np.right_shift)):
        case = Case(instruction=instruction, count=1001, extra=5)
        result = run(device, 'vector_logic', case, a, b, out)
        np.testing.assert_array_equal(result[:1001], function(a, 5)[:1001])


ROUNDED = {1: np.rint, 2: np.floor, 3: np.ceil, 5: np.trunc}
CASTS = [
    (0, np.float16, np.float32, 0),
    (1, np.float32, np.float16, 0),
    (1, np.float32, np.float16, 1),
    *((2, np.float32, np.int32, mode) for mode in (1, 2, 3, 4, 5)),
    (3, np.int32, np.float32, 0),
    *((6, np.float32, np.int16, mode) for mode in (1, 2, 3, 5)),
    *((7, np.float32, np.float32, mode) for mode in (1, 2, 3, 5)),
    (8, np.int32, np.int64, 0),
]


@pytest.mark.parametrize(('instruction', 'source', 'target', 'mode'), CASTS)
def test_cast(device, instruction, source, target, mode):
    rng = np.random.default_rng(instruction)
    sizes = [np.dtype(target).itemsize, np.dtype(source).itemsize]
    for _ in range(8):
        case = random_case(rng, sizes, instruction=instruction, extra=mode)
        if case.form == 0:
            case.count = min(case.count, BYTES // 8)
        a = random_array(rng, source)
        if np.issubdtype(source, np.floating):
            a *= source(9)
            a[::7] = np.rint(a[::7]) + source(0.5)
        out = random_array(rng, target)
        if mode == 4:  # away from zero where it is a tie
            value = np.sign(a) * np.floor(np.abs(a) + 0.5)
        else:
            value = (
                ROUNDED[mode](a) if mode and source != np.float16 and target != np.float16 else a
            )
        indices = operand_indices(case, sizes)
        expected = out.copy()
        expected[indices[0]] = value[indices[1]].astype(target)
        np.testing.assert_array_equal(run(device, 'vector_cast', case, a, a, out), expected)


def test_cast_of_a_half_by_every_mode(device):
    value = np.array([1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-12, 2**-25, 1e6, -1e6], np.float32)
    a = np.resize(value, BYTES // 4)
    out = np.zeros(BYTES // 2, np.float16)
    up, down = np.float16(1 + 2**-10), np.float16(1)
    top, tiny = np.float16(65504), np.float16(2**-24)
    inf = np.float16(np.inf)
    expected = {
        1: [1, -1, up, 0, inf, -inf],
        2: [1, -up, down, 0, top, -inf],
        3: [up, -1, up, tiny, inf, -top],
        4: [up, -up, up, tiny, inf, -inf],
        5: [1, -1, down, 0, top, -top],
        6: [up, -up, up, tiny, top, -top],
    }
    for mode, values in expected.items():
        case = Case(instruction=1, count=6, extra=mode)
        result = run(device, 'vector_cast', case, a, a, out)[:6]
        np.testing.assert_array_equal(result, np.array(values, np.float16), err_msg=f'mode {mode}')


def test_cast_of_a_bfloat16(device):
    rng = np.random.default_rng(0)
    a = random_array(rng, np.float32)
    out = np.zeros(BYTES // 2, np.uint16)
    result = run(device, 'vector_cast', Case(instruction=4, count=1000, extra=1), a, a, out)
    bits = a.view(np.uint32)
    expected = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(result[:1000], expected[:1000])
    back = run(device, 'vector_cast', Case(instruction=5, count=1000), result, a, a * 0)
    np.testing.assert_array_equal(
        back[:1000], (expected.astype(np.uint32) << 16).view(np.float32)[:1000]
    )


@pytest.mark.parametrize('instruction', range(6))
@pytest.mark.parametrize('type_', range(2))
def test_reduce_of_repeats(device, instruction, type_):
    rng = np.random.default_rng([instruction, type_])
    dtype = TYPES[type_]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    for _ in range(8):
        case = random_case(rng, [size, size], instruction=instruction, type=type_)
        case.form = 2
        case.stride[0] = 1
        a, out = random_array(rng, dtype), random_array(rng, dtype)
        result = run(device, 'vector_reduce', case, a, a, out)
        index = operand_indices(case, [size, size])[1].reshape(case.repeat, -1)
        words = np.array(case.mask[:], np.uint64)
        lane = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder='little'))
        rows = a[index].astype(np.float32)
        tolerance = {'rtol': 1e-5 if type_ == 0 else 3e-3, 'atol': 1e-5 if type_ == 0 else 2e-2}
        if instruction == 0:
            np.testing.assert_allclose(result[: case.repeat], rows.sum(1), **tolerance)
        elif instruction == 1:
            pairs = result[: 2 * case.repeat].reshape(-1, 2)
            np.testing.assert_array_equal(pairs[:, 0], rows.max(1).astype(dtype))
            numbers = pairs[:, 1].copy().view(np.uint32 if size == 4 else np.uint16)
            np.testing.assert_array_equal(numbers, lane[rows.argmax(1)])
        elif instruction == 2:
            np.testing.assert_array_equal(result[: case.repeat], rows.min(1).astype(dtype))
        else:
            group = 2 if instruction == 5 else 32 // size
            for g in range(lanes // group):
                chosen = lane // group == g
                if not chosen.any():
                    continue
                value = rows[:, chosen].max(1) if instruction == 4 else rows[:, chosen].sum(1)
                got = result[: case.repeat * (lanes // group)].reshape(case.repeat, -1)[:, g]
                np.testing.assert_allclose(got, value.astype(dtype), **tolerance)


@pytest.mark.parametrize('count', [1, 63, 64, 65, 1000, 4096])
def test_reduce_of_a_tensor(device, count):
    rng = np.random.default_rng(count)
    a, out = random_array(rng, np.float32), np.zeros(BYTES // 4, np.float32)
    total = run(device, 'vector_reduce', Case(instruction=6, count=count), a, a, out)[0]
    np.testing.assert_allclose(total, a[:count].sum(dtype=np.float64), rtol=1e-4, atol=1e-4)
    highest = run(device, 'vector_reduce', Case(instruction=7, count=count), a, a, out)
    assert highest[0] == a[:count].max()
    assert highest.view(np.uint32)[1] == a[:count].argmax()
    assert (
        run(device, 'vector_reduce', Case(instruction=8, count=count), a, a, out)[0]
        == a[:count].min()
    )


COMPARISONS = [np.less, np.greater, np.equal, np.less_equal, np.greater_equal, np.not_equal]


@pytest.mark.parametrize('mode', range(6))
@pytest.mark.parametrize('type_', range(2))
def test_compare_and_select(device, mode, type_):
    rng = np.random.default_rng([mode, type_])
    a, b = (np.rint(random_array(rng, TYPES[type_])) for _ in range(2))
    out = np.zeros_like(a)
    compare = COMPARISONS[mode]
    case = Case(type=type_, count=1024, extra=mode, scalar=1)
    result = run(device, 'vector_compare', case, a, b, out)
    np.testing.assert_array_equal(result[:1024], np.where(compare(a, b), a, b)[:1024])
    case.instruction = 1
    result = run(device, 'vector_compare', case, a, b, out)
    np.testing.assert_array_equal(result[:1024], np.where(compare(a, 1), a, 1)[:1024])
    case.instruction = 2
    bits = np.unpackbits(
        run(device, 'vector_compare', case, a, b, out).view(np.uint8), bitorder='little'
    )
    np.testing.assert_array_equal(bits[:1024], compare(a, b)[:1024])


def test_gather(device):
    rng = np.random.default_rng(0)
    for type_ in range(2):
        a = random_array(rng, TYPES[type_])
        size = a.itemsize
        offset = (rng.integers(0, 1000, size=BYTES // 4) * size).astype(np.uint32)
        out = random_array(rng, TYPES[type_])
        case = Case(type=type_, count=777, extra=16 * size)
        result = run(device, 'vector_move', case, a, offset, out)
        np.testing.assert_array_equal(result[:777], a[offset[:777] // size + 16])
        np.testing.assert_array_equal(result[777:], out[777:])
        offset[5] += 1
        with pytest.raises(KernelError, match='must be a multiple of'):
            run(device, 'vector_move', case, a, offset, out)


def test_gather_of_blocks(device):
    rng = np.random.default_rng(0)
    a, out = random_array(rng, np.float32), random_array(rng, np.float32)
    offset = (rng.integers(0, 500, size=BYTES // 4) * 32).astype(np.uint32)
    case = Case(instruction=1, repeat=3, block=(2, 1, 1), stride=(16, 8, 8))
    result = run(device, 'vector_move', case, a, offset, out).reshape(-1, 8)
    np.testing.assert_array_equal(result[:48:2], a.reshape(-1, 8)[offset[:24] // 32])
    np.testing.assert_array_equal(result[1:48:2], out.reshape(-1, 8)[1:48:2])


def test_broadcast_and_copy(device):
    rng = np.random.default_rng(0)
    for type_ in range(2):
        a, out = random_array(rng, TYPES[type_]), random_array(rng, TYPES[type_])
        per_block = 32 // a.itemsize
        case = Case(instruction=2, type=type_, repeat=4, block=(1, 1, 1), stride=(8, 8, 8))
        result = run(device, 'vector_move', case, a, out, out)
        np.testing.assert_array_equal(result[: 32 * per_block], np.repeat(a[:32], per_block))
        case = random_case(rng, [a.itemsize] * 2, instruction=3, type=type_)
        case.form, case.count = 1, 40
        to, source = operand_indices(case, [a.itemsize] * 2)
        expected = out.copy()
        expected[to] = a[source]
        np.testing.assert_array_equal(run(device, 'vector_move', case, a, out, out), expected)


def test_gather_mask(device):
    rng = np.random.default_rng(0)
    a, out = random_array(rng, np.float32), random_array(rng, np.float32)
    index = np.arange(64 * 5)
    for pattern in range(1, 8):
        keep = {1: index % 2 == 0, 2: index % 2 == 1, 7: index >= 0}.get(
            pattern, index % 4 == pattern - 3
        )
        case = Case(instruction=4, extra=pattern, repeat=5)
        result = run(device, 'vector_move', case, a, out, out)
        np.testing.assert_array_equal(result[: keep.sum()], a[: 64 * 5][keep])
        np.testing.assert_array_equal(result[keep.sum() :], out[keep.sum() :])
    bits = rng.integers(0, 2**32, size=BYTES // 4, dtype=np.uint32)
    result = run(device, 'vector_move', Case(instruction=5, count=40, repeat=3), a, bits, out)
    rows = [
        a[64 * r : 64 * r + 40][
            np.unpackbits(bits[8 * r : 8 * r + 2].view(np.uint8), bitorder='little')[:40] > 0
        ]
        for r in range(3)
    ]
    expected = np.concatenate(rows)
    np.testing.assert_array_equal(result[: len(expected)], expected)


def test_sort(device):
    rng = np.random.default_rng(0)
    scores, index = random_array(rng, np.float32), np.arange(BYTES // 4, dtype=np.uint32)
    scores[3] = scores[90]
    result = np.zeros(BYTES // 4, np.float32)
    device.launch('vector_sort', 1, scores, index, result)
    order = np.argsort(-scores[:128], kind='stable')
    np.testing.assert_array_equal(result[:256:2], scores[order])
    np.testing.assert_array_equal(result.view(np.uint32)[1:256:2], order)


def test_transpose(device):
    rng = np.random.default_rng(0)
    a, out = random_array(rng, np.float16), random_array(rng, np.float16)
    result = run(device, 'vector_transpose', Case(type=1), a, a, out)
    np.testing.assert_array_equal(result[:256].reshape(16, 16), a[:256].reshape(16, 16).T)
    a, out = random_array(rng, np.float32), random_array(rng, np.float32)
    result = run(device, 'vector_transpose', Case(type=0), a, a, out)
    np.testing.assert_array_equal(result[:128].reshape(8, 16), a[:128].reshape(16, 8).T)
