"""Voxels to a dense grid and back on the NPU, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd_mmplugin.ops import sparse_from_dense, sparse_to_dense
from tests.npu.compare import assert_same, npu, with_grads
from tests.ops.sparse_problems import coordinates

pytestmark = pytest.mark.npu
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)
FLOATS = torch.float32, torch.float16, torch.bfloat16


def bits(tensor):
    """The numbers as integers: NaN equals itself, and 0 is not -0."""
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.cpu().view(as_integers[tensor.element_size()])


def make(count, batch_size, shape, channels, dtype=torch.float32, in_order=False, unique=True):
    """Features and indices of at most `count` voxels."""
    cells = batch_size * torch.tensor(shape).prod()
    chosen = torch.randperm(cells)[:count] if unique else torch.randint(cells, (count,))
    if in_order:
        chosen = chosen.sort().values
    features = torch.randn(len(chosen), channels).to(dtype)
    return features, coordinates(chosen, (batch_size, *shape))


def cells_of(indices, batch_size, shape):
    cell = torch.zeros(len(indices), dtype=torch.int64)
    for column, size in enumerate((batch_size, *shape)):
        cell = cell * size + indices[:, column]
    return cell


def expected(features, indices, batch_size, shape):
    """The grid with channels last; of several voxels in a cell the last one stays, as on one thread of a CPU."""
    cell = cells_of(indices, batch_size, shape)
    last = torch.full((batch_size * torch.tensor(shape).prod(),), -1)
    last.scatter_reduce_(0, cell, torch.arange(len(cell)), 'amax')
    rows = torch.cat([features, features.new_zeros(1, features.shape[1])])[last]
    return rows.view(batch_size, *shape, features.shape[1])


def check(features, indices, batch_size, shape, channels_first, blocks=40):
    want = expected(features, indices, batch_size, shape)
    back = want.flatten(0, -2)[cells_of(indices, batch_size, shape)]
    if channels_first:
        want = want.movedim(-1, 1).contiguous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MXD_NPU_BLOCKS', str(blocks))
        got = sparse_to_dense(*npu([features, indices]), batch_size, shape, channels_first)
        got_back = sparse_from_dense(*npu([want, indices]), channels_first)
    assert torch.equal(
        bits(back), bits(sparse_from_dense(want, indices, channels_first))
    )  # the CPU's
    for ours, theirs in (got, want), (got_back, back):
        assert ours.is_contiguous() and ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.equal(bits(ours), bits(theirs))


@SETTINGS
@given(
    st.integers(0, 700),
    st.integers(1, 3),
    st.lists(st.integers(1, 12), min_size=1, max_size=4).filter(
        lambda shape: torch.tensor(shape).prod() < 3000
    ),
    st.sampled_from([1, 3, 5, 8, 16, 80, 130, 300]),
    st.sampled_from(FLOATS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
)
def test_any_shape(
    count, batch_size, shape, channels, dtype, in_order, unique, channels_first, blocks
):
    features, indices = make(count, batch_size, shape, channels, dtype, in_order, unique)
    check(features, indices, batch_size, shape, channels_first, blocks)


@pytest.mark.parametrize('dtype, unique', [(torch.float32, True), (torch.bfloat16, False)])
def test_200000_voxels(dtype, unique):
    shape, batch_size = (3, 300, 241), 2
    features, indices = make(200_000, batch_size, shape, 5, dtype, unique=unique)
    for blocks in (40, 3):
        check(features, indices, batch_size, shape, unique, blocks)


def test_most_cells_have_a_voxel_and_rows_are_wide():
    """The rows of a tile do not fit into UB at once."""
    for count, channels in (3000, 128), (2500, 257):
        check(*make(count, 1, (2, 40, 40), channels), 1, (2, 40, 40), True, 2)


@pytest.mark.parametrize('channels_first', [True, False])
def test_special_numbers(channels_first):
    features, indices = make(500, 1, (20, 31), 12)
    special = torch.tensor([float('nan'), float('inf'), -float('inf'), -0.0, 1e-42])
    features = special[torch.randint(5, features.shape)]
    check(features, indices, 1, (20, 31), channels_first)


@pytest.mark.parametrize('channels_first', [True, False])
@pytest.mark.parametrize('dtype', [torch.float64, torch.int64, torch.uint8, torch.bool])
def test_other_dtypes(dtype, channels_first):
    features, indices = make(300, 2, (6, 9, 8), 5)
    features = (features * 50).abs().to(dtype)
    check(features, indices, 2, (6, 9, 8), channels_first)


@pytest.mark.parametrize('channels_first', [True, False])
@pytest.mark.parametrize(
    'count, batch_size, channels', [(0, 2, 4), (0, 0, 4), (50, 1, 0), (1, 1, 1)]
)
def test_empty_and_one(count, batch_size, channels, channels_first):
    features, indices = make(count, batch_size, (6, 9, 8), channels)
    check(features, indices, batch_size, (6, 9, 8), channels_first)


@pytest.mark.parametrize('channels_first', [True, False])
def test_gradients(channels_first):
    features, indices = make(300, 2, (6, 9, 8), 20)
    dense = torch.randn((2, 20, 6, 9, 8) if channels_first else (2, 6, 9, 8, 20))
    there = with_grads(
        lambda x: sparse_to_dense(x, indices.npu(), 2, (6, 9, 8), channels_first), features.npu()
    )
    back = with_grads(lambda x: sparse_from_dense(x, indices.npu(), channels_first), dense.npu())
    assert_same(
        [there, back],
        [
            with_grads(
                lambda x: sparse_to_dense(x, indices, 2, (6, 9, 8), channels_first), features
            ),
            with_grads(lambda x: sparse_from_dense(x, indices, channels_first), dense),
        ],
        0,
    )


@pytest.mark.parametrize('channels_first', [True, False])
@pytest.mark.parametrize(
    'voxel, message',
    [
        ([0, 0, 9, 0], r'indices\[2\].*outside of spatial_shape'),
        ([0, -1, 0, 0], r'indices\[2\].*outside of spatial_shape'),
        ([2, 0, 0, 0], r'indices\[2\] has the batch index 2'),
    ],
)
def test_wrong_voxels(voxel, message, channels_first):
    indices = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], voxel], dtype=torch.int32).npu()
    with pytest.raises(ValueError, match=message):
        sparse_to_dense(torch.randn(3, 4).npu(), indices, 2, (6, 9, 8), channels_first)
    dense = torch.randn((2, 4, 6, 9, 8) if channels_first else (2, 6, 9, 8, 4))
    with pytest.raises(ValueError, match=message):
        sparse_from_dense(dense.npu(), indices, channels_first)


def test_refused():
    features, indices = npu(make(3, 1, (2, 2, 2), 4))
    with pytest.raises(
        ValueError, match=r'at most 268435456 cells .* on an NPU, was \[262144, 2048'
    ):
        sparse_to_dense(features, indices, 1, (2**18, 2**11, 1))
    with pytest.raises(ValueError, match='at most 4 dimensions on an NPU'):
        sparse_to_dense(features, torch.zeros(3, 6).int().npu(), 1, (2, 2, 2, 2, 2))
    with pytest.raises(TypeError, match='1, 2, 4 or 8 bytes'):
        sparse_to_dense(features.to(torch.complex128), indices, 1, (2, 2, 2))
