"""The whole way, small: generate, convert, train, evaluate with the devkit, resume, test."""

import torch

import mxd_mmplugin  # noqa: F401  what mmengine's checkpoints hold may be loaded
from tests.conftest import ROOT, run

CONFIG = next((ROOT / 'configs' / 'centerpoint').glob('*generated*.py'))
SHORT = ('--cfg-options', 'train_dataloader.batch_size=2', 'default_hooks.logger.interval=1')


def test_train_evaluate_resume_and_test(folder):
    train = ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', 'work'
    log = run(folder, *train, *SHORT, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    assert 'NuScenes/mAP' in log and len(list(folder.glob('work/pictures/**/*.png'))) == 4
    first = torch.load(folder / 'work' / 'epoch_1.pth', weights_only=True)['state_dict']

    options = 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2'
    log = run(folder, *train, '--resume', *SHORT, *options)
    assert 'resumed epoch: 1' in log and 'Epoch(train) [2]' in ' '.join(log.split())
    second = torch.load(folder / 'work' / 'epoch_2.pth', weights_only=True)['state_dict']
    assert any(not torch.equal(first[name], second[name]) for name in first)

    test = ROOT / 'tools' / 'test.py', CONFIG, 'work/epoch_2.pth', '--work-dir', 'test'
    assert 'NuScenes/mAP' in run(folder, *test)


def test_the_same_seed_gives_the_same_weights(folder):
    states = []
    for name in ('one', 'two'):
        options = 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9'
        run(folder, ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', name, *SHORT, *options)
        states.append(torch.load(folder / name / 'epoch_1.pth', weights_only=True)['state_dict'])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
