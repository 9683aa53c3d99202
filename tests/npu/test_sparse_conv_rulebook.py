"""The rulebook of the NPU's kernels is the CPU's, element for element."""

import json
import os
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd_mmplugin.benchmarks.inputs import GRID, voxels
from mxd_mmplugin.ops.sparse_conv import build_rulebook
from tests.ops.sparse_problems import line, problems
from tests.ops.test_sparse_conv import GOOD, ROWS

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
KINDS = pytest.mark.parametrize('kind', ['regular', 'subm', 'transposed'])
# A batch size that makes for more cells than int32 numbers, and those take another way.
MANY = 2**31 - 1


def check(indices, kind='regular', **geometry):
    """Build the rulebook and its transpose on both devices and compare them."""
    ndim = indices.shape[1] - 1
    plain = dict(kernel_size=[3] * ndim, stride=[1] * ndim, padding=[1] * ndim, dilation=[1] * ndim)
    kinds = dict(subm=kind == 'subm', transposed=kind == 'transposed')
    geometry = {'batch_size': 1, **plain, **kinds, **geometry}
    expected = build_rulebook(indices, **geometry)
    actual = build_rulebook(indices.to('npu'), **geometry)
    for name in 'out_indices', 'pairs', 'bounds':
        assert torch.equal(getattr(actual, name).cpu(), getattr(expected, name)), name
    for ours, other in zip(actual.transpose, expected.transpose):
        assert torch.equal(ours.cpu(), other)
    return expected


def scattered(shape, count, batch_size=1):
    """Voxels of a grid in any order, about `count`."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randint(n, (count,), generator=generator) for n in [batch_size, *shape]]
    indices = torch.stack(columns, 1).int().unique(dim=0)
    return indices[torch.randperm(len(indices), generator=generator)]


@SETTINGS
@given(problems(max_dims=4), st.integers(1, 40), st.booleans())
def test_equals_cpu(monkeypatch, problem, blocks, many):
    indices, geometry = problem[:2]
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    check(indices, **{**geometry, 'batch_size': MANY if many else geometry['batch_size']})


@KINDS
@pytest.mark.parametrize('batch_size', [2, MANY])
@pytest.mark.parametrize('count', [0, 1])
def test_no_voxel_and_one(count, batch_size, kind):
    indices = scattered([4, 5], 1, 2)[:count]
    check(indices, kind, spatial_shape=[4, 5], batch_size=batch_size, dilation=[1, 2])


@pytest.mark.parametrize('batch_size', [1, MANY])
def test_no_output(batch_size):
    indices = torch.tensor([[0, 1]], dtype=torch.int32)
    geometry = dict(spatial_shape=[3], kernel_size=[1], stride=[2], padding=[0])
    assert len(check(indices, batch_size=batch_size, **geometry).out_indices) == 0


@KINDS
@pytest.mark.parametrize(
    'shape, count, geometry',
    [
        ([1000], 900, dict(kernel_size=[40], padding=[20])),  # more points than a run has
        ([1000], 700, dict(kernel_size=[16], padding=[3], stride=[5])),
        ([1000], 700, dict(kernel_size=[7], padding=[9], stride=[2], dilation=[3])),
        ([60, 60], 3000, dict(kernel_size=[12, 5], padding=[6, 2])),  # more rows than lanes
        ([8, 8, 8, 8], 2500, dict(batch_size=2)),
        ([2**24 + 3, 100], 2000, dict(stride=[2, 3])),  # coordinates that float32 does not hold
        ([2**29 + 1], 2000, dict(stride=[3], padding=[0])),
    ],
)
def test_unusual_sizes(kind, shape, count, geometry):
    check(
        scattered(shape, count, geometry.get('batch_size', 1)),
        kind,
        spatial_shape=shape,
        **geometry,
    )


@KINDS
def test_a_dense_line_beside_sparse_ones(kind):
    # A window of the sparse lines meets more voxels than a core's memory holds.
    dense = torch.cat([torch.zeros(30000, 2), torch.arange(30000).view(-1, 1)], 1).int()
    dense[:, 1] = 1
    sparse = scattered([4, 30000], 1500)
    check(torch.cat([sparse[sparse[:, 1] != 1], dense]), kind, spatial_shape=[4, 30000])


@KINDS
def test_voxels_of_a_sweep(sweep, kind):
    indices, batch_size = voxels(35000)
    strides = dict(stride=[2, 2, 2]) if kind == 'regular' else {}
    check(indices, kind, batch_size=batch_size, spatial_shape=GRID, **strides)


@pytest.mark.parametrize('kind', ['regular', 'subm'])
def test_200000_voxels(kind):
    indices = scattered([41, 400, 400], 200000, 2)
    stride = [2, 2, 2]
    check(indices, kind, batch_size=2, spatial_shape=[41, 400, 400], stride=stride)


def test_non_contiguous_indices():
    indices = scattered([9, 9], 40).t().contiguous().t()
    assert not indices.to('npu').is_contiguous()
    check(indices, spatial_shape=[9, 9])


def test_on_a_side_stream():
    indices, shape = line(300)
    stream = torch.npu.Stream()
    with torch.npu.stream(stream):
        check(indices, 'subm', spatial_shape=shape)


@pytest.mark.parametrize('batch_size', [2, MANY])
@pytest.mark.parametrize('kind', ['regular', 'subm', 'transposed'])
@pytest.mark.parametrize(
    'rows',
    [
        [[0, 1, 2], [0, 4, 0]],
        [[0, 1, -1]],
        [[0, 1, 2], [-1, 1, 1], [0, 9, 9]],
        [[0, -(2**31), 2**31 - 1]],
        [[0, 1, 2], [1, 0, 0], [0, 1, 2]],
        [[1, 3, 4]] * 40,
    ],
)
def test_the_cpus_errors(rows, kind, batch_size):
    indices = torch.tensor(rows, dtype=torch.int32)
    geometry = dict(
        GOOD, batch_size=batch_size, subm=kind == 'subm', transposed=kind == 'transposed'
    )
    with pytest.raises(ValueError) as expected:
        build_rulebook(indices, **geometry)
    message = str(expected.value).splitlines()[0]
    with pytest.raises(ValueError, match=re.escape(message)):
        build_rulebook(indices.to('npu'), **geometry)


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(kernel_size=[0, 3]), ValueError, 'kernel_size must be at least 1'),
        (dict(spatial_shape=[2**31 - 1] * 2), ValueError, r'below 2\*\*63'),
        (dict(indices=torch.tensor(ROWS)), TypeError, 'indices must be int32'),
    ],
)
def test_bad_input(change, error, message):
    arguments = {**GOOD, 'indices': torch.tensor(ROWS, dtype=torch.int32), **change}
    arguments['indices'] = arguments['indices'].to('npu')
    with pytest.raises(error, match=message):
        build_rulebook(**arguments)


def test_transpose_refuses_rows_beyond_the_inputs():
    rulebook = build_rulebook(line(5)[0].to('npu'), 1, [1000], [3], [1], [1], [1], subm=True)
    with pytest.raises(ValueError, match='pairs must name input rows below num_in 4, named 4'):
        torch.ops.mxd.sparse_conv_rulebook_transpose(rulebook.pairs, rulebook.bounds, 4)


def test_kernels_are_what_runs(monkeypatch, tmp_path):
    profile = tmp_path / 'profile'
    monkeypatch.setitem(os.environ, 'MXD_SOFTNPU_PROFILE', str(profile))
    check(
        scattered([9, 9, 9], 500), spatial_shape=[9, 9, 9]
    )  # more outputs than are sorted at once
    ran = {json.loads(row)['kernel'] for row in profile.read_text().splitlines()}
    parts = 'cells', 'reach', 'decode', 'table', 'count', 'bounds', 'fill', 'bins', 'edges'
    sorts = 'runs', 'split', 'merge', 'take', 'unique_count', 'unique'
    assert ran == {f'sparse_conv_rulebook_{part}' for part in parts} | {
        f'sort_{part}' for part in sorts
    }
