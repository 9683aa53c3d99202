"""The log without a wait in each step: the same numbers as mmengine's, fetched when somebody reads them."""

import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.hooks import RuntimeInfoHook as StockHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OptimWrapper as StockWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from torch import nn

from mxd_mmplugin.engine import scalars
from mxd_mmplugin.engine.optim_wrapper import AmpOptimWrapper, OptimWrapper, merged_groups
from mxd_mmplugin.engine.runtime_info_hook import RuntimeInfoHook
from mxd_mmplugin.engine.scalars import DeferredHistory, log_scalars
from tests.counting import Counting


@pytest.fixture
def hub(request):
    return MessageHub(request.node.name)


def steps(count, names=('train/loss', 'train/b')):
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.rand((), generator=generator) for name in names} for _ in range(count)]


def test_the_same_history_as_mmengines(hub):
    stock = MessageHub('stock')
    for i, step in enumerate(steps(7)):
        log_scalars(hub, {**step, 'train/lr': 0.1 * i})
        stock.update_scalars({**step, 'train/lr': 0.1 * i})
    for name, expected in stock.log_scalars.items():
        found = hub.get_scalar(name)
        for mine, theirs in zip(found.data, expected.data):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
        assert found.current() == expected.current() and found.mean(3) == expected.mean(3)
        assert (found.max(5), found.min(5)) == (expected.max(5), expected.min(5))
        assert found.statistics('mean', 4) == expected.statistics('mean', 4)
    assert isinstance(hub.get_scalar('train/loss'), DeferredHistory)
    assert type(hub.get_scalar('train/lr')) is HistoryBuffer


def test_nothing_waits_until_somebody_reads(hub):
    first, *rest = steps(20)
    log_scalars(hub, first)
    with Counting() as counting:
        for step in rest:
            log_scalars(hub, step)
    assert counting.waits == 0
    assert len(hub.get_scalar('train/b').data[0]) == 20
    assert not scalars.LEDGER._steps


def test_what_is_kept_is_bounded(hub, monkeypatch):
    monkeypatch.setattr(scalars, 'MOST', 5)
    for step in steps(13):
        log_scalars(hub, step)
        assert len(scalars.LEDGER._steps) < 5
    assert len(hub.get_scalar('train/loss').data[0]) == 13


def test_a_number_that_comes_at_once_comes_last(hub):
    for step in steps(3, ['train/loss']):
        log_scalars(hub, step)
    hub.update_scalar('train/loss', 5.0, count=2)
    log_scalars(hub, steps(1, ['train/loss'])[0])
    history = hub.get_scalar('train/loss')
    assert len(history.data[0]) == 5 and history.data[0][3] == 5.0
    assert history.data[1].tolist() == [1, 1, 1, 2, 1]


def test_tensors_of_several_dtypes_and_shapes(hub):
    values = {
        'half': torch.tensor(0.1).half(),
        'double': torch.tensor(0.1, dtype=torch.float64),
        'row': torch.tensor([0.3]),
        'whole': torch.tensor(3),
        'numpy': np.float32(0.5),
    }
    stock = MessageHub('dtypes')
    for _ in range(3):
        log_scalars(hub, values)
        stock.update_scalars(values)
    for name in values:
        assert hub.get_scalar(name).data[0].tolist() == stock.get_scalar(name).data[0].tolist()
    with pytest.raises(AssertionError):
        log_scalars(hub, {'row': torch.ones(2)})


def test_long_histories_lose_their_beginning(hub):
    hub.log_scalars['train/loss'] = HistoryBuffer(max_length=4)
    numbers = [step['train/loss'] for step in steps(9)]
    for number in numbers:
        log_scalars(hub, {'train/loss': number})
    assert hub.get_scalar('train/loss').data[0].tolist() == [x.item() for x in numbers[-4:]]


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_checkpoints_hold_mmengines_class(hub, copied):
    for step in steps(4):
        log_scalars(hub, step)
    histories = copied(hub.state_dict())['log_scalars']
    assert {type(x) for x in histories.values()} == {HistoryBuffer}
    assert np.array_equal(histories['train/b'].data[0], hub.get_scalar('train/b').data[0])
    other = MessageHub('resumed')
    other.load_state_dict(dict(log_scalars=histories, runtime_info={}, resumed_keys={}))
    log_scalars(other, {'train/b': torch.tensor(0.5)})
    assert other.get_scalar('train/b').data[0].tolist()[-1] == 0.5
    assert len(other.get_scalar('train/b').data[0]) == 5


def trained(wrapper_type, clip_grad, hub_name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    model[0].bias.requires_grad_(False)
    MessageHub.get_instance(hub_name)
    wrapper = wrapper_type(torch.optim.SGD(model.parameters(), lr=0.5), clip_grad=clip_grad)
    wrapper.message_hub = MessageHub(hub_name)
    for _ in range(5):
        wrapper.update_params(model(torch.randn(16, 4)).square().mean())
    return [p.detach() for p in model.parameters()], wrapper.message_hub


@pytest.mark.parametrize(
    'clip_grad', [dict(max_norm=0.1, norm_type=2), dict(type='value', clip_value=0.01), None]
)
def test_clipping_is_mmengines(clip_grad):
    ours, hub = trained(OptimWrapper, copy.deepcopy(clip_grad), 'clip')
    theirs, stock = trained(StockWrapper, copy.deepcopy(clip_grad), 'clip_stock')
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert hub.log_scalars.keys() == stock.log_scalars.keys()
    for name in stock.log_scalars:
        assert np.array_equal(hub.get_scalar(name).data[0], stock.get_scalar(name).data[0])


def test_the_hook_logs_as_mmengines(hub):
    class Runner:
        message_hub = hub

    hook = HOOKS.build(dict(type='RuntimeInfoHook'))
    for step in steps(3, ['loss', 'task0.loss_bbox']):
        hook.after_train_iter(Runner, 0, None, step)
    hook.after_train_iter(Runner, 0, None, None)
    assert hub.log_scalars.keys() == {'train/loss', 'train/task0.loss_bbox'}
    assert len(hub.get_scalar('train/loss').data[0]) == 3


def test_registered_over_mmengines():
    assert HOOKS.get('RuntimeInfoHook') is HOOKS.get('MxdRuntimeInfoHook') is RuntimeInfoHook
    assert OPTIM_WRAPPERS.get('OptimWrapper') is OptimWrapper
    assert OPTIM_WRAPPERS.get('AmpOptimWrapper') is AmpOptimWrapper
    assert issubclass(RuntimeInfoHook, StockHook) and issubclass(OptimWrapper, StockWrapper)
    assert RuntimeInfoHook.priority == StockHook.priority


def stepped(wrapper_of, optimizer_of):
    """Weights, state and number of groups after three steps with groups as mmengine's `paramwise_cfg` makes them."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    groups = [{'params': [p], 'lr': 0.1 if p.ndim > 1 else 0.01} for p in model.parameters()]
    wrapper = wrapper_of(optimizer_of(groups), clip_grad=dict(max_norm=1.0))
    for step in range(3):
        wrapper.update_params(model(torch.ones(2, 4)).square().mean())
        for group in wrapper.optimizer.param_groups[step::2]:  # a schedule of their own
            group['lr'] *= 0.5
    return [*model.parameters()], wrapper.optimizer.state_dict()


@pytest.mark.parametrize(
    'optimizer_of',
    [
        lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1, foreach=True),
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, foreach=True),
    ],
)
def test_groups_with_equal_settings_step_as_one(optimizer_of):
    """The same bits and checkpoints as a group for each parameter has."""
    weights, state = stepped(OptimWrapper, optimizer_of)
    expected, expected_state = stepped(StockWrapper, optimizer_of)
    assert all(map(torch.equal, weights, expected))
    assert (
        state['param_groups'] == expected_state['param_groups'] and len(state['param_groups']) == 10
    )
    assert sorted(state['state']) == sorted(expected_state['state'])
    for key, values in expected_state['state'].items():
        torch.testing.assert_close(state['state'][key], values, rtol=0, atol=0)


def test_groups_come_back_after_an_error():
    optimizer = torch.optim.SGD([{'params': [torch.ones(1)]}, {'params': [torch.ones(2)]}], lr=1.0)
    groups = optimizer.param_groups
    with pytest.raises(ValueError, match='stop'), merged_groups(optimizer):
        assert len(optimizer.param_groups) == 1
        raise ValueError('stop')
    assert optimizer.param_groups is groups and len(groups) == 2


def test_an_optimizer_from_elsewhere_is_left():
    class Other(torch.optim.SGD):
        pass

    optimizer = Other([{'params': [torch.ones(1)]}, {'params': [torch.ones(2)]}], lr=1.0)
    with merged_groups(optimizer):
        assert len(optimizer.param_groups) == 2
