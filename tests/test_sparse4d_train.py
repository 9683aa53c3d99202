"""The whole way of the small config: generated scenes, sequences, anchors, training, both evaluations, pictures."""

from .conftest import ROOT
from .test_train import SHORT, folder, run

CONFIG = next((ROOT / 'configs' / 'sparse4d').glob('*generated*.py'))
DATA = 'data/nuscenes-generated'

__all__ = ['folder']  # the data set of two scenes


def test_train_evaluate_and_draw(folder):
    infos = [f'{DATA}/nuscenes_infos_{part}.pkl' for part in ('train', 'val')]
    mxd = '-m', 'mxd_mmplugin'
    run(folder, *mxd, 'sparse4d-infos', '--root', DATA, '--version', 'v1.0-mini', *infos)
    anchors = f'{DATA}/sparse4d_anchors.npy'
    run(folder, *mxd, 'sparse4d-anchors', infos[0], '--num', 300, '--out', anchors)
    options = (
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.checkpoint.interval=3',
    )
    # Two halves of the only scene; every box is in a track, so that the tracks are measured too.
    halves = (
        'train_dataloader.dataset.sequences_split_num=2',
        'val_evaluator.tracking_threshold=0.0',
    )
    train = ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', 'sparse'
    log = run(folder, *train, *SHORT, *options, *halves)
    for text in ('NuScenes/mAP', 'tracking/amota', 'AMOTA', 'loss_cls_dn_2', 'loss_dense_depth'):
        assert text in log
    pictures = sorted(path.name for path in folder.glob('sparse/pictures/*/*.png'))
    assert pictures == [f'frame_{i:04d}{end}.png' for i in range(4) for end in ('', '_cameras')]
    test = ROOT / 'tools' / 'test.py', CONFIG, 'sparse/iter_3.pth', '--work-dir', 'test-sparse'
    assert 'tracking/amota' in run(folder, *test)
