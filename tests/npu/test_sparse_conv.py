"""Sparse convolution's Ascend C kernels against the CPU's, and that they are what runs."""

import dataclasses
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd_mmplugin.benchmarks.inputs import GRID, voxels
from mxd_mmplugin.ops import build_rulebook, sparse_conv
from tests.ops.sparse_problems import coordinates, line, problems

pytestmark = pytest.mark.npu
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def to_npu(book):
    """The CPU's rulebook and its transpose, copied."""
    tensors = {f.name: getattr(book, f.name) for f in dataclasses.fields(book)}
    moved = {name: t.to('npu') for name, t in tensors.items() if isinstance(t, torch.Tensor)}
    return dataclasses.replace(book, **moved, _transpose=[t.to('npu') for t in book.transpose])


def run(book, features, weight, bias, groups):
    """Output and gradients, on the CPU."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in (features, weight, bias)]
    out = sparse_conv(*leaves, book, groups)
    grad = torch.sin(torch.arange(out.numel())).view_as(out).to(out)
    grads = torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], grad)
    return [tensor.detach().cpu() for tensor in (out, *grads)]


def check(book, features, weight, bias=None, groups=1, dtype=torch.float32):
    """Compare the devices; the CPU computes in float32 from what `dtype` holds."""
    inputs = [None if t is None else t.to(dtype) for t in (features, weight, bias)]
    expected = run(book, *(None if t is None else t.float() for t in inputs), groups)
    on_npu = [None if t is None else t.to('npu') for t in inputs]
    actual = run(to_npu(book), *on_npu, groups)
    for ours, other in zip(actual, expected):
        assert ours.dtype == dtype and ours.shape == other.shape
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(ours.float(), other, rtol=tolerance, atol=tolerance * scale)
    return actual


def subm(indices, batch_size=1, grid=GRID, kernel=3):
    ndim = indices.shape[1] - 1
    one = [1] * ndim
    return build_rulebook(indices, batch_size, grid, [kernel] * ndim, one, one, one, subm=True)


def scattered(count, grid=(9, 30, 30)):
    """Voxels of a grid, sorted."""
    cells = torch.randperm(grid[0] * grid[1] * grid[2])[:count].sort().values
    return coordinates(cells, (1, *grid)), list(grid)


def layer(inputs, outputs, count, volume=(3, 3, 3), groups=1):
    features = torch.randn(count, inputs)
    return features, torch.randn(*volume, inputs // groups, outputs) / (4 * inputs) ** 0.5


@SETTINGS
@given(problems(), st.integers(1, 40), st.sampled_from(list(TOLERANCE)), st.booleans())
def test_equals_cpu(monkeypatch, problem, blocks, dtype, inverse):
    """Regular, submanifold, transposed and inverse convolution, voxels in any order."""
    indices, geometry, features, weight, bias, groups = problem
    monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
    book = build_rulebook(indices, **geometry)
    if inverse:
        book = book.inverse
        features = torch.randn(len(book.indices), features.shape[1])
    weight = weight / (8 * weight.shape[-2]) ** 0.5
    check(book, features.float(), weight, bias, groups, dtype)


@pytest.mark.parametrize('dtype', list(TOLERANCE))
@pytest.mark.parametrize(
    'inputs, outputs, groups',
    [(1, 1, 1), (5, 3, 1), (16, 32, 1), (65, 129, 1), (512, 512, 1), (512, 96, 32), (300, 7, 1)],
)
def test_channels(inputs, outputs, groups, dtype):
    indices, grid = scattered(1100)
    check(
        subm(indices, grid=grid), *layer(inputs, outputs, 1100, groups=groups), None, groups, dtype
    )


@pytest.mark.parametrize('count', [0, 1, 2, 511, 512, 513])
@pytest.mark.parametrize('kind', ['subm', 'strided'])
def test_voxels(count, kind):
    indices, grid = scattered(count)
    stride = [1 if kind == 'subm' else 2] * 3
    book = build_rulebook(indices, 1, grid, [3] * 3, stride, [1] * 3, [1] * 3, subm=kind == 'subm')
    check(book, *layer(20, 40, count), torch.randn(40))


@pytest.mark.parametrize('order', ['sorted', 'shuffled'])
def test_dense_neighbourhoods(order):
    """Every voxel has all neighbours: a tile's pairs take many steps."""
    cells = torch.arange(11 * 12 * 13)
    if order == 'shuffled':
        cells = torch.randperm(len(cells))
    indices = coordinates(cells, (1, 11, 12, 13))
    check(subm(indices, grid=[11, 12, 13]), *layer(64, 64, len(cells)))


def test_more_kernel_points_than_a_load_of_bounds():
    indices, grid = scattered(700)
    check(subm(indices, grid=grid, kernel=7), *layer(16, 16, 700, volume=(7, 7, 7)))


def test_many_voxels(sweep):
    """200,000 voxels of a sweep, in the order of a shuffled one."""
    indices, batch_size = voxels(200_000)
    check(subm(indices, batch_size), *layer(5, 16, len(indices)), dtype=torch.float16)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_same_from_run_to_run_and_for_any_blocks(monkeypatch, dtype):
    indices, grid = scattered(2000)
    book, inputs = subm(indices, grid=grid), layer(40, 40, 2000)
    first = check(book, *inputs, dtype=dtype)
    for blocks in 20, 7, 1:
        monkeypatch.setenv('MXD_NPU_BLOCKS', str(blocks))
        for ours, other in zip(check(book, *inputs, dtype=dtype), first):
            assert torch.equal(ours, other)


def test_inputs_that_are_not_contiguous():
    indices, grid = scattered(600)
    book = to_npu(subm(indices, grid=grid))
    features, weight = (t.to('npu') for t in layer(32, 32, 600))
    want = sparse_conv(features, weight, None, book)
    got = sparse_conv(features.t().contiguous().t(), weight.mT.contiguous().mT, None, book)
    assert torch.equal(got.cpu(), want.cpu())


def test_errors():
    indices, grid = line(20)
    book = to_npu(subm(indices, grid=grid))
    features, weight = torch.randn(20, 4, device='npu'), torch.randn(3, 4, 4, device='npu')
    with pytest.raises(TypeError, match='features must be float32, float16 or bfloat16 on an NPU'):
        sparse_conv(features.double(), weight.double(), None, book)
    convolve = torch.ops.mxd.sparse_conv
    with pytest.raises(ValueError, match='bounds must have 2 tiles for 600 output rows, had 1'):
        convolve(features, weight, None, book.pairs, book.bounds, 600, 1)
    with pytest.raises(
        ValueError, match='pairs must be on the device of features, npu:0, was on cpu'
    ):
        convolve(features, weight, None, book.pairs.cpu(), book.bounds, 20, 1)


def test_kernels_run(tmp_path, monkeypatch):
    """A forward and a backward are two convolutions and a weight gradient, and a plan but for wide layers."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    indices, grid = scattered(600)
    features, weight = layer(16, 16, 600)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path.unlink(missing_ok=True)
        inputs = [t.to('npu', dtype) for t in (features, weight)]
        run(to_npu(subm(indices, grid=grid)), *inputs, None, 1)
        launched = [json.loads(text)['kernel'] for text in path.read_text().splitlines()]
        assert sorted(launched) == [
            'sparse_conv_plan',
            'sparse_conv_plan_shares',
            'sparse_conv_planned',
            'sparse_conv_planned',
            'sparse_conv_weight_grad',
        ]
        path.unlink()
        wide = [t.to('npu', dtype) for t in layer(144, 144, 600)]
        run(to_npu(subm(indices, grid=grid)), *wide, None, 1)
        launched = [json.loads(text)['kernel'] for text in path.read_text().splitlines()]
        assert sorted(launched) == ['sparse_conv', 'sparse_conv', 'sparse_conv_weight_grad']


def test_cost(sweep, tmp_path, monkeypatch):
    """SubMConv3d 64->64 on 80,000 voxels of a sweep: within 3 times what 20 cube cores need for its products."""
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    indices, batch_size = voxels(80_000)
    book = subm(indices.unique(dim=0), batch_size)
    features, weight = (t.to('npu') for t in layer(64, 64, len(indices)))
    sparse_conv(features, weight, None, to_npu(book)).cpu()
    plan, shares, launch = (json.loads(text) for text in path.read_text().splitlines())
    assert (plan['kernel'], shares['kernel']) == ('sparse_conv_plan', 'sparse_conv_plan_shares')
    bound = (
        len(book.pairs) * 64 * 64 / 1024 / 20 / 1800
    )  # us: fp32, a cycle's products, cores, cycles a us
    assert bound < launch['modelled_us'] <= 3 * bound
