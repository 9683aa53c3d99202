"""torch.compile, torch.export and autocast over the sparse operators and layers."""

import pytest
import torch
from torch import nn

from mxd_mmplugin import (
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SparseMaxPool3d,
    SparseSequential,
    SubMConv3d,
    ToDense,
)
from mxd_mmplugin.ops import (
    build_rulebook,
    sparse_conv,
    sparse_from_dense,
    sparse_max_pool,
    sparse_sum,
    sparse_to_dense,
    sparse_union,
)
from tests.conftest import exports_autograd, traces
from tests.ops.sparse_problems import coordinates, line

pytestmark = traces
SHAPE = [8, 8, 8]


@pytest.fixture(autouse=True)
def _rulebooks_have_sizes_that_depend_on_data():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield


def voxels(count):
    cells = torch.randperm(2 * 8**3)[:count]
    return coordinates(cells, [2, *SHAPE])


def same_gradients(out, expected, inputs):
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, grad)
    torch.testing.assert_close(
        ours, torch.autograd.grad(expected, inputs, grad), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
@pytest.mark.parametrize('subm', [False, True])
def test_convolution_over_a_given_rulebook(backend, subm):
    def run(features, weight, bias, rulebook):
        return sparse_conv(features, weight, bias, rulebook).relu()

    compiled = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    weight, bias = torch.randn(3, 5, 7, requires_grad=True), torch.randn(7, requires_grad=True)
    for count in (50, 30):
        indices, shape = line(count)
        rulebook = build_rulebook(indices, 1, shape, [3], [2], [1], [1], subm)
        features = torch.randn(count, 5, requires_grad=True)
        args = features, weight, bias
        same_gradients(compiled(*args, rulebook), run(*args, rulebook), args)


@pytest.mark.parametrize('subm', [False, True])
def test_convolution_with_its_rulebook(subm):
    def run(indices, features, weight):
        rulebook = build_rulebook(indices, 2, SHAPE, [3] * 3, [2] * 3, [1] * 3, [1] * 3, subm)
        return sparse_max_pool(sparse_conv(features, weight, None, rulebook), rulebook.inverse)

    compiled = torch.compile(run, backend='aot_eager', fullgraph=True, dynamic=True)
    weight = torch.randn(3, 3, 3, 4, 6, requires_grad=True)
    for count in (50, 30):
        indices, features = voxels(count), torch.randn(count, 4, requires_grad=True)
        args = indices, features, weight
        same_gradients(compiled(*args), run(*args), args[1:])


def test_grids_and_sums():
    def run(a, b, x, y):
        union, rows = sparse_union([a, b], 2, SHAPE)
        dense = sparse_to_dense(sparse_sum([x, y], rows, union.shape[0]), union, 2, SHAPE)
        return sparse_from_dense(dense.sin(), a)

    compiled = torch.compile(run, backend='aot_eager', fullgraph=True, dynamic=True)
    for count in (50, 30):
        x, y = (torch.randn(count + more, 4, requires_grad=True) for more in (0, 10))
        args = voxels(count), voxels(count + 10), x, y
        same_gradients(compiled(*args), run(*args), (x, y))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = SparseSequential(
            SubMConv3d(4, 8, 3, indice_key='subm'),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            SparseConv3d(8, 8, 3, 2, 1, indice_key='down'),
            nn.BatchNorm1d(8),
            SparseInverseConv3d(8, 8, 3, 'down'),
            SubMConv3d(8, 8, 3, indice_key='subm'),
            SparseMaxPool3d(2, 2),
            ToDense(),
        )

    def forward(self, features, indices):
        return self.net(SparseConvTensor(features, indices, SHAPE, 2))


def test_a_network_compiles():
    net = UNet()
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True, dynamic=True)
    for count in (100, 60):
        args = torch.randn(count, 4, requires_grad=True), voxels(count)
        same_gradients(compiled(*args), net(*args), [args[0], *net.parameters()])


@pytest.mark.parametrize('grad', [False, pytest.param(True, marks=exports_autograd)])
def test_a_network_is_exported(grad):
    net, args = UNet().eval(), (torch.randn(100, 4), voxels(100))
    count = torch.export.Dim('count', min=2, max=1000)
    with torch.set_grad_enabled(grad):
        program = torch.export.export(net, args, dynamic_shapes=({0: count}, {0: count}))
    for n in (100, 40):
        args = torch.randn(n, 4), voxels(n)
        torch.testing.assert_close(program.module()(*args), net(*args))


@pytest.mark.parametrize(
    'name, arguments',
    [
        ('sparse_conv', lambda b: (torch.randn(50, 3), torch.randn(3, 3, 7), None, *b, 50, 1)),
        (
            'sparse_conv_plan',
            lambda b: (torch.randn(50, 3), torch.randn(3, 3, 7), *b, 50, 1),
        ),
        ('sparse_conv_weight_grad', lambda b: (torch.randn(50, 3), torch.randn(50, 7), *b, 1)),
        ('sparse_conv_rulebook_transpose', lambda b: (*b, 50)),
        ('sparse_max_pool', lambda b: (torch.randn(50, 3), *b, 50)),
        (
            'sparse_max_pool_backward',
            lambda b: (torch.randn(50, 2), torch.ones(50, 2).int(), *b, 50),
        ),
        ('sparse_to_dense', lambda b: (torch.randn(50, 3), line(50)[0], 1, [60], True)),
        ('sparse_from_dense', lambda b: (torch.randn(1, 60, 3), line(50)[0], False)),
        ('sparse_union', lambda b: ([line(50)[0], line(40)[0]], 1, [60])),
        ('sparse_sum', lambda b: ([torch.randn(4, 3)] * 2, torch.arange(4).repeat(2).int(), 4)),
    ],
)
def test_every_operator_is_what_its_meta_kernel_says(name, arguments):
    indices, shape = line(50)
    book = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    operator = getattr(torch.ops.mxd, name).default
    checks = 'test_schema', 'test_faketensor'
    torch.library.opcheck(operator, arguments((book.pairs, book.bounds)), test_utils=checks)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_autocast_as_for_convolution_and_linear(dtype, kernel_size):
    net = SparseSequential(
        SubMConv3d(4, 6, kernel_size), SparseMaxPool3d(2, 2), nn.Linear(6, 5), ToDense()
    )
    features, indices = torch.randn(80, 4, requires_grad=True), voxels(80)
    expected = net(SparseConvTensor(features, indices, SHAPE, 2))
    with torch.autocast('cpu', dtype):
        out = net(SparseConvTensor(features, indices, SHAPE, 2))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=3e-2, atol=3e-2)
    out.float().square().sum().backward()
    assert features.grad.dtype == net[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_compiles(dtype):
    indices, shape = line(40)
    rulebook = build_rulebook(indices, 1, shape, [3], [2], [1], [1], False)
    features, weight = torch.randn(40, 5, requires_grad=True), torch.randn(3, 5, 7)

    def run(features, weight):
        with torch.autocast('cpu', dtype):
            return sparse_conv(features, weight, None, rulebook)

    out = torch.compile(run, backend='aot_eager', fullgraph=True)(features, weight)
    assert out.dtype == dtype
    same_gradients(out, run(features, weight), (features,))
