"""The whole way of the small lidar-cam config: generated scenes, training, evaluation by the devkit, pictures."""

from tests.conftest import ROOT, run
from tests.models.centerpoint.test_train import SHORT

CONFIG = next((ROOT / 'configs' / 'bevfusion').glob('*lidar-cam*generated*.py'))


def test_train_evaluate_and_draw(folder):
    options = 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'val_dataloader.batch_size=1'
    # So small a step that the boxes stay in the grid: the devkit wants at least one.
    still = 'optim_wrapper.optimizer.lr=1e-5', 'param_scheduler=[]'
    train = ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', 'fused'
    log = run(folder, *train, *SHORT, *options, *still)
    assert 'NuScenes/mAP' in log and 'loss_heatmap' in log
    pictures = sorted(path.name for path in folder.glob('fused/pictures/val_epoch_1/*.png'))
    assert pictures == [f'frame_{i:04d}{end}.png' for i in range(4) for end in ('', '_cameras')]
    test = ROOT / 'tools' / 'test.py', CONFIG, 'fused/epoch_1.pth', '--work-dir', 'test-fused'
    assert 'NuScenes/mAP' in run(folder, *test)
