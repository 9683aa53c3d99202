"""Sparse convolution in bfloat16, with AMX for all products and for none, against float64."""

import os
from unittest.mock import patch

import pytest
import torch
from hypothesis import given

from mxd_mmplugin.ops import build_rulebook, fallback, sparse_conv
from tests.ops.sparse_problems import SETTINGS, line, problems

AMX = pytest.mark.parametrize('amx', ['0', '1'])


def products(tensors, rulebook, groups, amx):
    """The output and all gradients."""
    leaves = [t.clone().requires_grad_() for t in tensors if t is not None]
    bias = None if tensors[2] is None else leaves[2]
    with patch.dict(os.environ, MXD_AMX=amx):
        out = sparse_conv(*leaves[:2], bias, rulebook, groups)
        grad = torch.sin(torch.arange(out.numel())).view_as(out).bfloat16().to(out.dtype)
        return [out, *torch.autograd.grad(out, leaves, grad)]


def assert_near(got, want):
    """Rounded once, and summed in float32."""
    scale = float(want.detach().abs().max()) if want.numel() else 0
    torch.testing.assert_close(got.to(want.dtype), want, rtol=1e-2, atol=1e-2 * scale)


@AMX
@SETTINGS
@given(problem=problems(max_dims=2, max_channels=140))
def test_equals_float64(amx, problem):
    indices, geometry, *tensors, groups = problem
    rulebook = build_rulebook(indices, **geometry)
    rounded = [None if t is None else t.bfloat16() for t in tensors]
    wide = [None if t is None else t.double() for t in rounded]
    for got, want in zip(
        products(rounded, rulebook, groups, amx), products(wide, rulebook, groups, amx)
    ):
        assert got.dtype == torch.bfloat16
        assert_near(got, want)


@AMX
@pytest.mark.parametrize('inputs, outputs', [(3, 5), (32, 32), (48, 80), (130, 33)])
def test_many_rows(inputs, outputs, amx):
    """More pairs than are packed at a time, tiles of rows that are not full, any number of threads."""
    indices, shape = line(1500, grid=1500)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    tensors = [torch.randn(*size).bfloat16() for size in ((1500, inputs), (3, inputs, outputs))]
    want = products([t.double() for t in tensors] + [None], rulebook, 1, amx)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (threads, 1, 3):
            torch.set_num_threads(count)
            runs.append(products([*tensors, None], rulebook, 1, amx))
    finally:
        torch.set_num_threads(threads)
    for got, *others, expected in zip(*runs, want):
        assert all(torch.equal(got, other) for other in others)
        assert_near(got, expected)


@AMX
def test_what_is_not_finite_stays_where_it_is(amx):
    """Padding to whole tiles is of zeros, and zero times infinity is not a number."""
    indices, shape = line(100)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    features, weight = torch.randn(100, 40).bfloat16(), torch.randn(3, 40, 50).bfloat16()
    features[7, 3] = float('inf')
    with patch.dict(os.environ, MXD_AMX=amx):
        out = sparse_conv(features, weight, None, rulebook)
        grad = torch.ops.mxd.sparse_conv_weight_grad(
            features, torch.ones_like(out), rulebook.pairs, rulebook.bounds, 1
        )
    rows = torch.arange(100)
    assert torch.equal(out.isfinite(), ((rows < 6) | (rows > 8))[:, None].expand(100, 50))
    assert torch.equal(grad.isfinite(), (torch.arange(40) != 3)[None, :, None].expand(3, 40, 50))


@AMX
def test_beside_products_of_pytorch(amx):
    """Their oneDNN sets the tiles up for itself."""
    indices, shape = line(600)
    rulebook = build_rulebook(indices, 1, shape, [3], [1], [1], [1], True)
    x, weight = torch.randn(600, 64).bfloat16(), torch.randn(3, 64, 64).bfloat16()
    want = fallback.sparse_conv.forward(
        x.double(), weight.double(), None, rulebook.pairs, rulebook.bounds, 600, 1
    )
    for _ in range(3):
        with patch.dict(os.environ, MXD_AMX=amx):
            assert_near(sparse_conv(x, weight, None, rulebook), want)
        assert_near(x @ weight[0], x.double() @ weight[0].double())
