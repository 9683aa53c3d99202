"""The ATen ops of the software NPU: values and gradients are those of the CPU.

Among them every op whose gradient torch_npu replaces by one of its own.
"""

import pytest
import torch
import torch.nn.functional as F

r = torch.randn
idx = torch.tensor([[0, 1, 1], [2, 0, 1]])
torch.manual_seed(0)
CASES = {
    'where': (
        lambda a, b: torch.where(torch.tensor([[True, False, True]]).to(a.device), a, b),
        [r(2, 3), r(2, 3)],
    ),
    'where1': (lambda a: a[torch.where(a > 0)], [r(2, 3)]),
    '__ior__': (lambda a: a * ((a > 0).__ior__(a < -1)), [r(4, 4)]),
    'irfft': (lambda a: torch.fft.irfft(torch.fft.rfft(a) * 2), [r(3, 8)]),
    'rfft': (lambda a: torch.fft.rfft(a).abs(), [r(3, 8)]),
    'fft2': (lambda a: torch.fft.rfft2(a, norm='ortho').real, [r(3, 8, 6)]),
    'pad_packed': (
        lambda a: torch.nn.utils.rnn.pad_packed_sequence(
            torch.nn.utils.rnn.pack_padded_sequence(a, [4, 2])
        )[0],
        [r(4, 2, 3)],
    ),
    'weight_norm': (lambda v, g: torch._weight_norm(v, g, 0), [r(4, 3), r(4, 1)]),
    'adaptive_avg_pool2d': (lambda a: F.adaptive_avg_pool2d(a, (2, 3)), [r(2, 3, 7, 5)]),
    'adaptive_avg_pool2d1': (lambda a: F.adaptive_avg_pool2d(a, 1), [r(2, 3, 7, 5)]),
    'affine_grid': (lambda t: F.affine_grid(t, (2, 3, 4, 5), align_corners=False), [r(2, 2, 3)]),
    'affine_grid3d': (
        lambda t: F.affine_grid(t, (2, 3, 4, 5, 3), align_corners=True),
        [r(2, 3, 4)],
    ),
    'argsort': (lambda a: a.gather(1, a.argsort(1)), [r(3, 5)]),
    'argsort_stable': (lambda a: a.gather(1, torch.argsort(a, dim=1, stable=True)), [r(3, 5)]),
    'bcel': (lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid()), [r(3, 4), r(3, 4)]),
    'bcelw': (
        lambda a, b, w, p: F.binary_cross_entropy_with_logits(
            a,
            b.sigmoid().detach(),
            weight=w.detach(),
            pos_weight=p.detach().abs(),
            reduction='none',
        ),
        [r(3, 4), r(3, 4), r(3, 4), r(4)],
    ),
    'cdist': (lambda a, b: torch.cdist(a, b), [r(2, 5, 3), r(2, 4, 3)]),
    'cdist1': (lambda a, b: torch.cdist(a, b, p=1), [r(5, 3), r(4, 3)]),
    'contiguous': (lambda a: a.t().contiguous() * 2, [r(3, 4)]),
    'conv_tbc': (lambda a, w, b: torch.conv_tbc(a, w, b, 1), [r(6, 2, 3), r(3, 3, 5), r(5)]),
    'fftshift': (lambda a: torch.fft.fftshift(a, dim=1), [r(3, 5)]),
    'ifftshift': (lambda a: torch.fft.ifftshift(a), [r(3, 5)]),
    'fill_diagonal_': (lambda a: (a * 2).fill_diagonal_(1.5), [r(4, 4)]),
    'flatten_dense': (
        lambda a, b: torch._utils._flatten_dense_tensors([a, b]) * 2,
        [r(3, 4), r(2)],
    ),
    'gather': (lambda a: a.gather(1, idx.to(a.device)), [r(2, 3)]),
    'gru': (
        lambda x, h, a, b, c, d: torch.gru(x, h, [a, b, c, d], True, 1, 0.0, True, False, False)[0],
        [r(4, 2, 3), r(1, 2, 5), r(15, 3), r(15, 5), r(15), r(15)],
    ),
    'gru_cell': (
        lambda x, h, a, b, c, d: torch.gru_cell(x, h, a, b, c, d),
        [r(2, 3), r(2, 5), r(15, 3), r(15, 5), r(15), r(15)],
    ),
    'lstm': (
        lambda x, h, c0, a, b, c, d: torch.cat(
            [
                t.flatten()
                for t in torch.lstm(x, [h, c0], [a, b, c, d], True, 1, 0.0, True, False, False)
            ]
        ),
        [r(4, 2, 3), r(1, 2, 5), r(1, 2, 5), r(20, 3), r(20, 5), r(20), r(20)],
    ),
    'lstm_bi': (
        lambda x, h, c0, a, b, c, d, e, f, g, i: torch.cat(
            [
                t.flatten()
                for t in torch.lstm(
                    x, [h, c0], [a, b, c, d, e, f, g, i], True, 1, 0.0, True, True, True
                )
            ]
        ),
        [r(2, 4, 3), r(2, 2, 5), r(2, 2, 5)] + [r(20, 3), r(20, 5), r(20), r(20)] * 2,
    ),
    'lstm_cell': (
        lambda x, h, c0, a, b, c, d: torch.cat(torch.lstm_cell(x, [h, c0], a, b, c, d)),
        [r(2, 3), r(2, 5), r(2, 5), r(20, 3), r(20, 5), r(20), r(20)],
    ),
    'inverse': (lambda a: torch.inverse(a), [r(2, 3, 3)]),
    'linalg_inv': (lambda a: torch.linalg.inv(a), [r(2, 3, 3)]),
    'kl_div': (
        lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1).detach(), reduction='batchmean'),
        [r(3, 4), r(3, 4)],
    ),
    'kl_div_t': (
        lambda a, b: F.kl_div(a.log_softmax(1), b.log_softmax(1), reduction='sum', log_target=True),
        [r(3, 4), r(3, 4)],
    ),
    'kl_div_tt': (
        lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1), reduction='mean'),
        [r(3, 4), r(3, 4)],
    ),
    'l1_loss': (lambda a, b: F.l1_loss(a, b), [r(3, 4), r(3, 4)]),
    'l1_lossn': (lambda a, b: F.l1_loss(a, b, reduction='none'), [r(3, 4), r(4)]),
    'cholesky': (
        lambda a: torch.linalg.cholesky(a @ a.mT + torch.eye(3, device=a.device)),
        [r(3, 3)],
    ),
    'log_sigmoid': (lambda a: F.logsigmoid(a), [r(3, 4)]),
    'matmul22': (torch.matmul, [r(3, 4), r(4, 5)]),
    'matmul33': (torch.matmul, [r(2, 3, 4), r(2, 4, 5)]),
    'matmul_b': (torch.matmul, [r(6, 1, 3, 4), r(2, 4, 5)]),
    'matmul11': (torch.matmul, [r(4), r(4)]),
    'matmul12': (torch.matmul, [r(4), r(4, 5)]),
    'matmul21': (torch.matmul, [r(3, 4), r(4)]),
    'matmul31': (torch.matmul, [r(2, 3, 4), r(4)]),
    'matmul13': (torch.matmul, [r(4), r(2, 4, 5)]),
    'matmul32': (torch.matmul, [r(2, 3, 4), r(4, 5)]),
    'maxb': (torch.maximum, [r(3, 4), r(3, 4)]),
    'max2': (lambda a, b: torch.max(a, b), [r(3, 4), r(3, 4)]),
    'max': (lambda a: a.max(1)[0], [r(3, 4)]),
    'mlml': (
        lambda a: F.multilabel_margin_loss(a, torch.tensor([[1, 0, -1, 2]]).to(a.device)),
        [r(1, 4)],
    ),
    'nanmean': (lambda a: torch.nanmean(a, 1), [r(3, 4)]),
    'one_hot': (lambda a: a * F.one_hot(torch.tensor([0, 2, 1]).to(a.device), 4), [r(3, 4)]),
    'pdist': (lambda a: F.pdist(a), [r(5, 3)]),
    'renorm': (lambda a: torch.renorm(a, 2, 0, 1.0), [r(4, 3)]),
    'renorm_': (lambda a: (a * 2).renorm_(2, 0, 1.0), [r(4, 3)]),
    'repeat_interleave_t': (
        lambda a: a.repeat_interleave(torch.tensor([1, 3, 0]).to(a.device), dim=0),
        [r(3, 4)],
    ),
    'repeat_interleave_t1': (
        lambda a: a.repeat_interleave(torch.tensor([2]).to(a.device)),
        [r(3, 4)],
    ),
    'repeat_interleave_i': (lambda a: a.repeat_interleave(3, dim=1), [r(3, 4)]),
    'repeat_interleave_in': (lambda a: a.repeat_interleave(2), [r(3, 4)]),
    'sdpa': (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        [r(2, 3, 5, 8), r(2, 3, 6, 8), r(2, 3, 6, 8)],
    ),
    'sdpa_causal': (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [r(2, 3, 5, 8), r(2, 3, 5, 8), r(2, 3, 5, 8)],
    ),
    'sdpa_mask': (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m.detach()),
        [r(2, 3, 5, 8), r(2, 3, 5, 8), r(2, 3, 5, 8), r(5, 5)],
    ),
    'slogdet': (lambda a: torch.slogdet(a)[1], [r(2, 3, 3)]),
    'softmax': (lambda a: a.softmax(1), [r(3, 4)]),
    'softmaxd': (lambda a: a.half().softmax(1, dtype=torch.float32), [r(3, 4)]),
    'stft': (
        lambda a: torch.stft(
            a, 8, window=torch.hann_window(8).to(a.device), return_complex=True
        ).abs(),
        [r(2, 32)],
    ),
    'stft2': (
        lambda a: torch.view_as_real(
            torch.stft(a, 8, hop_length=3, onesided=False, return_complex=True)
        ),
        [r(32)],
    ),
    'bmm': (torch.bmm, [r(2, 3, 4), r(2, 4, 5)]),
    'linear': (F.linear, [r(2, 3, 4), r(5, 4), r(5)]),
    'mha': (
        lambda x: (torch.manual_seed(0), torch.nn.MultiheadAttention(8, 2).to(x.device))[1](
            x, x, x
        )[0],
        [r(5, 2, 8)],
    ),
    'to_half': (lambda a: a.half().float() * 2, [r(3, 4)]),
    'index': (lambda a: a[idx[0].to(a.device)], [r(3, 4)]),
    'index_put': (
        lambda a, b: (
            torch.zeros(5, 4).to(a.device).index_put((idx[0].to(a.device),), a, accumulate=True) * b
        ),
        [r(3, 4), r(5, 4)],
    ),
    'conv': (lambda x, w, b: F.conv2d(x, w, b, padding=1), [r(2, 3, 5, 5), r(4, 3, 3, 3), r(4)]),
    'convT': (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
        [r(2, 3, 5, 5), r(3, 4, 2, 2), r(4)],
    ),
    'conv3d': (
        lambda x, w, b: F.conv3d(x, w, b, padding=1),
        [r(2, 3, 5, 5, 4), r(4, 3, 3, 3, 3), r(4)],
    ),
    'bn': (
        lambda x, w, b: F.batch_norm(
            x, torch.zeros(3).to(x.device), torch.ones(3).to(x.device), w, b, True
        ),
        [r(4, 3, 5), r(3), r(3)],
    ),
    'ln': (lambda x, w, b: F.layer_norm(x, (5,), w, b), [r(4, 5), r(5), r(5)]),
    'gn': (lambda x, w, b: F.group_norm(x, 2, w, b), [r(4, 4, 5), r(4), r(4)]),
    'gelu': (F.gelu, [r(4)]),
    'silu': (F.silu, [r(4)]),
    'mish': (F.mish, [r(4)]),
    'hs': (F.hardswish, [r(4)]),
    'grid_sample': (
        lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False),
        [r(2, 3, 5, 5), r(2, 4, 4, 2)],
    ),
    'interp': (lambda x: F.interpolate(x, scale_factor=2, mode='bilinear'), [r(2, 3, 5, 5)]),
    'maxpool': (lambda x: F.max_pool2d(x, 2), [r(2, 3, 6, 6)]),
    'smooth_l1': (F.smooth_l1_loss, [r(3, 4), r(3, 4)]),
    'mse': (F.mse_loss, [r(3, 4), r(3, 4)]),
    'bce': (
        lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid().detach()),
        [r(3, 4), r(3, 4)],
    ),
    'ce': (lambda a: F.cross_entropy(a, torch.tensor([1, 0, 2]).to(a.device)), [r(3, 4)]),
    'embedding': (lambda w: F.embedding(idx.to(w.device), w), [r(3, 4)]),
    'cumsum': (lambda a: a.cumsum(0), [r(3, 4)]),
    'topk': (lambda a: a.topk(2)[0], [r(3, 4)]),
    'sort': (lambda a: a.sort(1)[0], [r(3, 4)]),
    'norm': (lambda a: a.norm(dim=1), [r(3, 4)]),
    'std': (lambda a: a.std(1), [r(3, 4)]),
    'prod': (lambda a: a.prod(1), [r(3, 4)]),
    'cat': (lambda a, b: torch.cat([a, b], 1), [r(3, 4), r(3, 2)]),
    'stack': (lambda a, b: torch.stack([a, b]), [r(3, 4), r(3, 4)]),
    'celoss_cplx': (lambda a: torch.view_as_complex(a).abs(), [r(3, 2)]),
    'einsum': (lambda a, b: torch.einsum('bij,bkj->bik', a, b), [r(2, 3, 4), r(2, 5, 4)]),
    'scatter_add': (lambda a, b: a.scatter_add(1, idx.to(a.device), b), [r(2, 3), r(2, 3)]),
}


def run(name, device, dtype=torch.float32):
    """The result and the gradients of a case, on the CPU again."""
    function, inputs = CASES[name]
    leaves = [x.to(device, dtype).detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    assert result.device.type == device
    torch.manual_seed(1)
    result.backward(torch.randn(result.shape, dtype=result.dtype).to(device))
    grads = [leaf.grad for leaf in leaves]
    assert all(grad is None or grad.device.type == device for grad in grads)
    return [t if t is None else t.detach().cpu() for t in (result, *grads)]


@pytest.mark.parametrize('name', CASES)
def test_value_and_gradients(name):
    for ours, expected in zip(run(name, 'npu'), run(name, 'cpu')):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', ['linear', 'conv', 'convT', 'ln', 'softmax', 'gather'])
def test_low_precision(name, dtype):
    for ours, expected in zip(run(name, 'npu', dtype), run(name, 'cpu', dtype)):
        torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-2)


def test_out_arguments_are_resized_and_views_shared():
    x = torch.arange(6.0, device='npu')
    out = torch.empty(0, device='npu')
    assert torch.add(x, 1, out=out) is out and out.tolist() == [1, 2, 3, 4, 5, 6]
    torch.add(x[:2], 1, out=x[:2])
    assert x.tolist() == [1, 2, 2, 3, 4, 5]
    view = x.view(2, 3).t()
    view.mul_(2)
    assert x.tolist() == [2, 4, 4, 6, 8, 10] and view.data_ptr() == x.data_ptr()
    torch.view_as_real(torch.view_as_complex(x.view(3, 2))).zero_()
    assert x.abs().sum() == 0


def test_autocast_and_gradient_scaling():
    model = torch.nn.Linear(4, 4).npu()
    scaler = torch.amp.GradScaler('npu', init_scale=1024)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with torch.autocast('npu', torch.float16):
        out = model(torch.ones(2, 4, device='npu'))
    assert out.dtype == torch.float16
    scaler.scale(out.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model.weight)


def test_random_numbers():
    """Seeded alike, as on the CPU; seeded for itself, the device has a stream of its own."""
    torch.manual_seed(0)
    here = torch.randn(4), F.dropout(torch.ones(100), 0.3)
    torch.manual_seed(0)
    there = torch.randn(4, device='npu'), F.dropout(torch.ones(100, device='npu'), 0.3)
    for a, b in zip(here, there):
        assert torch.equal(a, b.cpu())
    draws = []
    for seed in (5, 5, 6):
        torch.npu.manual_seed(seed)
        draws.append([torch.rand(3, device='npu').tolist() for _ in range(2)])
    assert draws[0] == draws[1] != draws[2] and draws[0][0] != draws[0][1]
    generator = torch.Generator('npu').manual_seed(7)
    state = generator.get_state()
    first = torch.randperm(100, device='npu', generator=generator)
    generator.set_state(state)
    assert torch.equal(first, torch.randperm(100, device='npu', generator=generator))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_products_of_short_numbers_are_added_up_in_float(dtype):
    """As the cube cores do; the result is rounded once."""
    torch.manual_seed(0)
    image, weight, matrix = (r(*x).to(dtype) for x in [(2, 64, 9, 9), (8, 64, 3, 3), (2, 33, 300)])
    given = image.npu().requires_grad_(), weight.npu().requires_grad_()
    wide = image.float().requires_grad_(), weight.float().requires_grad_()
    outputs = F.conv2d(*given, padding=1), F.conv2d(*wide, padding=1)
    outputs[0].sum().backward()
    outputs[1].sum().backward()
    expected = [outputs[1], *(x.grad for x in wide), matrix.float() @ matrix.mT.float()]
    found = [outputs[0], *(x.grad for x in given), matrix.npu() @ matrix.npu().mT]
    for a, b in zip(found, expected):
        assert a.dtype == dtype
        torch.testing.assert_close(a.cpu(), b.to(dtype))
