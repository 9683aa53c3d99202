"""`--amp` on a CPU: bfloat16 with no loss scaling, where mmengine's wrapper refuses to be built."""

import copy

import pytest
import torch
from mmengine.optim import AmpOptimWrapper as StockWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mxd_mmplugin.engine.optim_wrapper import AmpOptimWrapper, OptimWrapper


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def train(net, wrapper, steps=60):
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    targets = inputs[:, :4].sin()
    losses = []
    for _ in range(steps):
        with wrapper.optim_context(net):
            out = net(inputs)
        loss = (out.float() - targets).square().mean()
        wrapper.update_params(loss)
        losses.append(loss.item())
    return out.dtype, losses


def amp(net, **kwargs):
    optimizer = dict(optimizer=torch.optim.Adam(net.parameters(), lr=0.02))
    return OPTIM_WRAPPERS.build(dict(type='AmpOptimWrapper', **optimizer, **kwargs))


def test_the_stock_wrapper_is_not_for_cpus():
    with pytest.raises(AssertionError, match='only available training'):
        StockWrapper(optimizer=torch.optim.SGD(network().parameters(), lr=0.1))


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(loss_scale='dynamic', clip_grad=dict(max_norm=35, norm_type=2)),
        dict(loss_scale=4096.0, dtype='float16'),
        dict(loss_scale=dict(init_scale=512.0), accumulative_counts=2),
    ],
    ids=['nothing', 'what --amp sets', 'a scale and float16', 'accumulated'],
)
def test_it_trains_in_bfloat16(options):
    net = network()
    wrapper = amp(net, **options)
    assert isinstance(wrapper, AmpOptimWrapper)
    dtype, losses = train(net, wrapper)
    assert dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in net.parameters())
    assert losses[-1] < losses[0] / 3


def test_near_float32():
    mixed, plain = network(), network()
    _, losses = train(mixed, amp(mixed), 10)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.02)
    _, expected = train(plain, OptimWrapper(optimizer), 10)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=0.02, atol=0)
    assert losses != expected


def test_checkpoints():
    """One of a device with a loss scaler is read; one from a CPU holds no scaler, as one of mmengine's OptimWrapper."""
    net = network()
    wrapper = amp(net, accumulative_counts=1)
    train(net, wrapper, 2)
    state = copy.deepcopy(wrapper.state_dict())
    assert state.keys() == OptimWrapper(wrapper.optimizer).state_dict().keys()
    other = amp(network())
    other.load_state_dict(
        {**copy.deepcopy(state), 'loss_scaler': dict(scale=2.0, growth_tracker=0)}
    )
    for mine, theirs in zip(other.state_dict()['state'].values(), state['state'].values()):
        assert torch.equal(mine['exp_avg'], theirs['exp_avg'])
