"""The small configs with one class: trained, validated and tested on generated data."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from tests.conftest import ROOT

CONFIGS = {
    name: next(
        (ROOT / 'configs' / name).glob(
            '*cam*generated*.py' if name == 'bevfusion' else '*generated*.py'
        )
    )
    for name in ('centerpoint', 'bevfusion', 'sparse4d')
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, sequences):
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    monkeypatch.chdir(sequences)
    yield
    torch.use_deterministic_algorithms(False)


def with_classes(value, old, new):
    """A config in which these classes take the place of the old ones, wherever they are listed or counted."""
    if isinstance(value, dict):
        out = type(value)()
        for key, part in value.items():
            if key in ('num_classes', 'num_cls'):
                part = len(new)
            elif key in ('sample_groups', 'filter_by_min_points'):
                part = {name: count for name, count in part.items() if name in new}
            elif key == 'tasks':
                part = [dict(num_class=len(new), class_names=new)]
            elif key == 'min_radius' and isinstance(part, (list, tuple)):
                part = part[:1]
            elif key == 'class_dist_thred':
                part = [40] * len(new)
            elif key == 'cls_wise_reg_weights':
                part = {}
            out[key] = with_classes(part, old, new)
        return out
    if isinstance(value, (list, tuple)):
        return (
            new if [*value] == old else type(value)(with_classes(part, old, new) for part in value)
        )
    return value


def train_and_test(name, classes, tmp_path):
    """The metrics of a few iterations of training, then of a test of their weights."""
    config = Config.fromfile(CONFIGS[name])
    changed = with_classes(config._cfg_dict.to_dict(), [*config.class_names], classes)
    config = Config(ConfigDict(changed))
    config.work_dir, config.custom_hooks, config.param_scheduler = str(tmp_path), [], []
    config.experiment_name = tmp_path.name
    config.optim_wrapper.optimizer.lr = 1e-5  # boxes stay in the grid
    by_iter = 'max_iters' in config.train_cfg
    config.train_cfg.update(
        dict(max_iters=2, val_interval=2) if by_iter else dict(max_epochs=1, val_interval=1)
    )
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.update(
            num_workers=0, persistent_workers=False, batch_size=1 if name == 'sparse4d' else 2
        )
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter >= 2
    assert all(weight.isfinite().all() for weight in runner.model.parameters())
    return runner.test()


@pytest.mark.parametrize('name', CONFIGS)
def test_one_class(name, tmp_path):
    found = train_and_test(name, ['car'], tmp_path)
    assert any(key.endswith('mAP') for key in found)
    assert any('car_AP' in key for key in found) and not any('truck_AP' in key for key in found)
