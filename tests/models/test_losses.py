"""Losses without a wait: mmdet's bits, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models import losses as stock
from mmdet.registry import MODELS

from mxd_mmplugin.models.losses import CrossEntropyLoss, FocalLoss, L1Loss
from tests.counting import Counting

REDUCTIONS = [(None, None), (None, 3.0), ('none', None), ('sum', None), ('none', 2.0)]


def both(ours, theirs, pred, *args, **kwargs):
    """Losses and gradients of both, compared."""
    found = []
    for loss in (ours, theirs):
        leaf = pred.clone().requires_grad_()
        value = loss(leaf, *args, **kwargs)
        value.sum().backward()
        found.append((value.detach(), leaf.grad))
    (value, grad), (expected, expected_grad) = found
    assert value.shape == expected.shape
    same = dict(rtol=0, atol=0, equal_nan=True)  # the mean of nothing is not a number
    torch.testing.assert_close(value, expected, **same)
    torch.testing.assert_close(grad, expected_grad, **same)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 9),
    classes=st.integers(1, 5),
    weighted=st.booleans(),
    reduction=st.sampled_from(REDUCTIONS),
    loss_weight=st.sampled_from([1.0, 0.3]),
    seed=st.integers(0, 2**20),
)
def test_focal_loss(rows, classes, weighted, reduction, loss_weight, seed):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(rows, classes, generator=generator)
    labels = torch.randint(0, classes + 1, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator) if weighted else None
    override, avg_factor = reduction
    options = dict(weight=weight, avg_factor=avg_factor, reduction_override=override)
    pair = [cls(loss_weight=loss_weight) for cls in (FocalLoss, stock.FocalLoss)]
    if rows:  # PyTorch's one_hot of nothing is an error where it asks for the greatest
        both(*pair, pred, labels, **options)
    one_hot = torch.nn.functional.one_hot(labels, classes + 1)[:, :classes]
    both(*pair, pred, one_hot, **options)


def test_focal_loss_of_probabilities():
    pred, labels = torch.rand(7, 3), torch.randint(0, 4, (7,))
    both(FocalLoss(activated=True), stock.FocalLoss(activated=True), pred, labels, avg_factor=4.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 9),
    weighted=st.sampled_from(['no', 'yes', 'zeros']),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 2**20),
)
def test_l1_loss(rows, weighted, reduction, seed):
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.randn(rows, 4, generator=generator) for _ in range(2))
    weight = None if weighted == 'no' else torch.rand(rows, 4, generator=generator)
    if weighted == 'zeros':
        weight = weight * 0
    override, avg_factor = reduction
    options = dict(weight=weight, avg_factor=avg_factor, reduction_override=override)
    ours, theirs = L1Loss(loss_weight=0.3), stock.L1Loss(loss_weight=0.3)
    if weighted == 'zeros' and (override == 'none' or not rows):
        # mmdet returns one number whatever the reduction is.
        assert not ours(pred, target, **options).any() and not theirs(pred, target, **options)
    else:
        both(ours, theirs, pred, target, **options)


def test_nothing_waits():
    pred, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 3, 0])
    with Counting() as counting:
        FocalLoss()(pred, labels, avg_factor=pred.new_ones(()))
        L1Loss()(pred, pred + 1, pred.abs(), avg_factor=pred.new_ones(()))
    assert counting.waits == 0


def test_registered_over_mmdets():
    assert MODELS.get('FocalLoss') is MODELS.get('MxdFocalLoss') is FocalLoss
    assert MODELS.get('L1Loss') is MODELS.get('MxdL1Loss') is L1Loss
    with pytest.raises(
        ValueError, match="reduction_override must be None, 'none', 'mean' or 'sum'"
    ):
        L1Loss()(torch.ones(2), torch.ones(2), reduction_override='median')


@pytest.mark.parametrize('sigmoid', [True, False])
@pytest.mark.parametrize('weighted', [True, False])
def test_cross_entropy(sigmoid, weighted):
    pred, labels = torch.randn(9, 4), torch.randint(0, 5, (9,)).clamp(max=4 if sigmoid else 3)
    weight = torch.rand(9) if weighted else None
    options = dict(use_sigmoid=sigmoid, loss_weight=0.3)
    both(CrossEntropyLoss(**options), stock.CrossEntropyLoss(**options), pred, labels, weight)
    if sigmoid:
        bits = torch.rand(9, 4).round()
        both(CrossEntropyLoss(**options), stock.CrossEntropyLoss(**options), pred, bits)
