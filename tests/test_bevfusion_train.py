"""The whole way of the small lidar-cam config: generated scenes, training, evaluation by the devkit, pictures."""

from .conftest import ROOT
from .test_train import SHORT, folder, run

CONFIG = next((ROOT / 'configs' / 'bevfusion').glob('*lidar-cam*generated*.py'))

__all__ = ['folder']  # the data set of two scenes


def test_train_evaluate_and_draw(folder):
    options = 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'val_dataloader.batch_size=1'
    log = run(folder, ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', 'fused', *SHORT, *options)
    assert 'NuScenes/mAP' in log and 'loss_heatmap' in log
    pictures = sorted(path.name for path in folder.glob('fused/pictures/val_epoch_1/*.png'))
    assert pictures == [f'frame_{i:04d}{end}.png' for i in range(4) for end in ('', '_cameras')]
    test = ROOT / 'tools' / 'test.py', CONFIG, 'fused/epoch_1.pth', '--work-dir', 'test-fused'
    assert 'NuScenes/mAP' in run(folder, *test)
