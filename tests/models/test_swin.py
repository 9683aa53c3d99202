"""Swin Transformer beside mmdet's: the same numbers, bit for bit, and fewer operators."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.backbones import swin as stock
from mmdet.registry import MODELS

from mxd_mmplugin.models import swin
from tests.counting import Counting


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    window=st.integers(1, 5),
    data=st.data(),
)
def test_windows_of_any_map(rows, columns, window, data):
    shift = data.draw(st.integers(0, window - 1))
    torch.manual_seed(rows * columns)
    theirs = stock.ShiftWindowMSA(8, 2, window, shift)
    ours = swin.ShiftWindowMSA(8, 2, window, shift)
    ours.load_state_dict(theirs.state_dict())
    leaves = [torch.randn(2, rows * columns, 8).requires_grad_()]
    leaves.append(leaves[0].detach().clone().requires_grad_())
    found = [layer(leaf, (rows, columns)) for layer, leaf in zip((ours, theirs), leaves)]
    assert torch.equal(*found)
    for output in found:
        output.square().sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize('with_cp', [False, True])
def test_the_whole_backbone(with_cp):
    options = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 2), strides=(4, 2), window_size=3)
    options.update(out_indices=(0, 1), drop_path_rate=0.2, with_cp=with_cp)
    theirs = stock.SwinTransformer(**options)
    ours = MODELS.build(dict(type='mmdet.SwinTransformer', **options))
    assert type(ours) is swin.SwinTransformer
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 36, 52)
    results = []
    for model in (ours, copy.deepcopy(ours), theirs):
        torch.manual_seed(0)  # of the paths that are dropped
        model.train()
        outputs = model(images)
        sum(x.square().sum() for x in outputs).backward()
        results.append([*outputs, *(p.grad for p in model.parameters())])
    for result in results[:2]:
        assert all(map(torch.equal, result, results[2]))


def test_the_mask_is_made_once():
    layer, counts = swin.ShiftWindowMSA(8, 2, 4, 2), []
    for _ in range(2):
        with Counting() as counting:
            layer(torch.ones(1, 96, 8), (8, 12))
        counts.append(counting.calls.total())
    with Counting() as counting:
        stock.ShiftWindowMSA(8, 2, 4, 2)(torch.ones(1, 96, 8), (8, 12))
    assert counts[1] <= counting.calls.total() - 15
