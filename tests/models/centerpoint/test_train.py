"""The whole way, small: generate, convert, train, evaluate with the devkit, resume, test."""

import pytest
import torch

import mxd_mmplugin  # noqa: F401  what mmengine's checkpoints hold may be loaded
from tests.conftest import ROOT, run

CONFIG = next((ROOT / 'configs' / 'centerpoint').glob('*generated*.py'))
SHORT = ('--cfg-options', 'train_dataloader.batch_size=2', 'default_hooks.logger.interval=1')


def train(folder, name, *options, resume=()):
    """Train into a work folder; the log."""
    command = ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', name, *resume
    return run(folder, *command, *SHORT, *options)


def weights(folder, name):
    return torch.load(folder / f'{name}.pth', weights_only=True)['state_dict']


@pytest.fixture(scope='module')
def log(folder):
    """Of a training by one epoch, with an evaluation, in `work`."""
    return train(folder, 'work', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')


def test_train_evaluate_resume_and_test(folder, log):
    assert 'NuScenes/mAP' in log and len(list(folder.glob('work/pictures/**/*.png'))) == 4
    first = weights(folder, 'work/epoch_1')
    options = 'train_cfg.max_epochs=2', 'train_cfg.val_interval=9'
    log = train(folder, 'work', *options, resume=['--resume'])
    assert 'resumed epoch: 1' in log and 'Epoch(train) [2]' in ' '.join(log.split())
    second = weights(folder, 'work/epoch_2')
    assert any(not torch.equal(first[name], second[name]) for name in first)

    test = ROOT / 'tools' / 'test.py', CONFIG, 'work/epoch_2.pth', '--work-dir', 'test'
    assert 'NuScenes/mAP' in run(folder, *test)


def test_the_same_seed_gives_the_same_weights(folder, log):
    train(folder, 'again', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9')
    first, again = weights(folder, 'work/epoch_1'), weights(folder, 'again/epoch_1')
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
