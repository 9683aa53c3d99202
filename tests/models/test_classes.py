"""The small configs with one class, and BEVFusion with twelve: trained, validated and tested on generated data."""

import pickle
from collections import Counter

import pytest
import torch
from mmdet3d.datasets import NuScenesDataset
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, METRICS, DefaultScope
from mmengine.runner import Runner

from tests.conftest import DATA, ROOT

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


def train_and_test(name, classes, tmp_path, **changes):
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
    config.merge_from_dict(changes)
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


NAMES = *NuScenesDataset.METAINFO['classes'], 'animal', 'stroller'


@DATASETS.register_module(force=True)
class TwelveClasses(NuScenesDataset):
    """A data set with two classes more: some of the cars."""

    METAINFO = dict(classes=NAMES, version='v1.0-mini', palette=[(0, 0, 0)] * len(NAMES))


@METRICS.register_module(force=True)
class Found(BaseMetric):
    """How many objects and boxes of each class there are; the devkit knows no other classes than its own."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            truth = sample['eval_ann_info']['gt_labels_3d'].tolist()
            self.results.append((truth, sample['pred_instances_3d']['labels_3d'].tolist()))

    def compute_metrics(self, results):
        names = self.dataset_meta['classes']
        counts = {}
        for kind, labels in zip(('truth', 'boxes'), zip(*results)):
            counts[kind] = Counter(names[label] for part in labels for label in part)
        return counts


@HOOKS.register_module(force=True)
class SeesBoth(Hook):
    """Lets the tested model see an animal and a stroller where it sees an animal at all, and nothing else."""

    def before_test(self, runner):
        scores = runner.model.bbox_head.heatmap_head[-1]
        both = [runner.test_dataloader.dataset.metainfo['classes'].index(x) for x in NAMES[-2:]]
        with torch.no_grad():
            scores.weight[both] = scores.weight[both[0]].clone()
            scores.bias[both] = 5


def test_twelve_classes(sequences, tmp_path):
    """In another order than that of the data set, which tells its names by its METAINFO."""
    expected = Counter()
    for split in ('train', 'val'):
        infos = pickle.loads((sequences / DATA / f'nuscenes_infos_{split}.pkl').read_bytes())
        expected.clear()
        for number, frame in enumerate(infos['data_list']):
            for i, instance in enumerate(frame['instances']):
                if instance['bbox_label_3d'] == 0:
                    instance['bbox_label_3d'] = (0, 10, 11)[(number + i) % 3]
                expected[NAMES[instance['bbox_label_3d']]] += instance['num_lidar_pts'] > 0
        (sequences / DATA / f'twelve_{split}.pkl').write_bytes(pickle.dumps(infos))
    changes = {
        f'{loader}_dataloader.dataset.{key}': value
        for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val'))
        for key, value in (('type', 'TwelveClasses'), ('ann_file', f'twelve_{split}.pkl'))
    }
    evaluators = {
        f'{kind}_evaluator': dict(_delete_=True, type='Found') for kind in ('val', 'test')
    }
    hooks = dict(custom_hooks=[dict(type='SeesBoth')], train_cfg=dict(val_interval=9))
    found = train_and_test('bevfusion', [*NAMES[::-1]], tmp_path, **changes, **evaluators, **hooks)
    assert found['truth'] == +expected and {*NAMES[-2:]} < {*found['truth']}
    assert {*found['boxes']} == {*NAMES[-2:]}
