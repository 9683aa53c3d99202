"""The whole way of the small config: generated scenes, sequences, anchors, training, both evaluations, pictures."""

from tests.conftest import ROOT, run
from tests.models.centerpoint.test_train import SHORT

CONFIG = next((ROOT / 'configs' / 'sparse4d').glob('*generated*.py'))


def test_train_evaluate_and_draw(sequences):
    options = (
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.checkpoint.interval=3',
    )
    # Every box is in a track, however low its score, so that the devkit has something to measure.
    tracks = 'val_evaluator.tracking_threshold=0.0'
    train = ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', 'sparse'
    log = run(sequences, *train, *SHORT, *options, tracks)
    for text in ('NuScenes/mAP', 'tracking/amota', 'AMOTA', 'loss_cls_dn_2', 'loss_dense_depth'):
        assert text in log
    pictures = sorted(path.name for path in sequences.glob('sparse/pictures/*/*.png'))
    assert pictures == [f'frame_{i:04d}{end}.png' for i in range(4) for end in ('', '_cameras')]
    test = ROOT / 'tools' / 'test.py', CONFIG, 'sparse/iter_3.pth', '--work-dir', 'test-sparse'
    assert 'no box is confident enough for a track' in run(sequences, *test)
