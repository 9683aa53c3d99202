"""mmcv's focal losses on the CPU, against their formulas."""

import mmcv.ops
import pytest
import torch

import mxd_mmplugin  # noqa: F401


def formula(logits, target, gamma, alpha, weight):
    hot = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1].bool()
    right = torch.where(hot, logits, -logits)
    factor = torch.where(hot, alpha, 1 - alpha)
    if weight is not None:
        factor = factor * weight[target.clamp(max=logits.shape[1] - 1)][:, None]
    return -factor * (1 - right.sigmoid()) ** gamma * torch.nn.functional.logsigmoid(right)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize(('rows', 'gamma'), [(0, 2.0), (40, 1.5), (20_000, 2.0)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_value_and_gradient(dtype, rows, gamma, weighted):
    logits = (torch.randn(rows, 5, dtype=dtype) * 5).requires_grad_()
    target = torch.randint(6, (rows,))
    weight = torch.tensor([0.5, 1, 2, 3, 1.5], dtype=dtype) if weighted else None
    out = mmcv.ops.sigmoid_focal_loss(logits, target, gamma, 0.25, weight, 'none')
    wanted = formula(logits, target, gamma, 0.25, weight)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-6)
    grads = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (out, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss(weighted):
    logits, target = torch.randn(40, 5, requires_grad=True), torch.randint(5, (40,))
    weight = torch.tensor([0.5, 1, 2, 3, 1.5]) if weighted else None
    right = logits.softmax(1).gather(1, target[:, None])[:, 0]
    factor = 0.25 * weight[target] if weighted else 0.25
    wanted = (-factor * (1 - right) ** 2 * right.log()).sum()
    out = mmcv.ops.softmax_focal_loss(logits, target, 2.0, 0.25, weight, 'sum')
    torch.testing.assert_close(out, wanted)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (out, wanted)]
    torch.testing.assert_close(*grads)


def test_half_precision_is_computed_in_float32():
    logits, target = torch.randn(50, 5).bfloat16(), torch.randint(6, (50,))
    out = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    wanted = formula(logits.float(), target, 2.0, 0.25, None)
    assert torch.equal(out, wanted.bfloat16()) or torch.allclose(out.float(), wanted, rtol=1e-2)


def test_a_class_that_does_not_exist_is_named():
    with pytest.raises(IndexError, match='target must be a class below 5, or 5 for none, was 7'):
        mmcv.ops.sigmoid_focal_loss(torch.zeros(2, 5), torch.tensor([1, 7]))
