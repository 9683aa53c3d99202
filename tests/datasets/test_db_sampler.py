"""The object sampler against mmdet3d's own."""

import pickle

import numpy as np
import pytest
from mmdet3d.datasets.transforms import DataBaseSampler as StockSampler
from mmdet3d.registry import TRANSFORMS

from mxd_mmplugin.datasets.db_sampler import DataBaseSampler

CLASSES = ['car', 'truck', 'pedestrian']


@pytest.fixture
def database(tmp_path):
    """A database of 30 objects on a 60 m square, and the keyword arguments to read it."""
    rng = np.random.default_rng(0)
    infos = {name: [] for name in CLASSES}
    for i in range(30):
        name = CLASSES[i % 3]
        rng.normal(size=(8, 5)).astype(np.float32).tofile(tmp_path / f'{i}.bin')
        box = np.r_[rng.uniform(-30, 30, 2), -1, rng.uniform(1, 6, 3), rng.uniform(-3, 3), 1, 0]
        infos[name].append(
            dict(
                name=name,
                path=f'{i}.bin',
                box3d_lidar=box.astype(np.float32),
                num_points_in_gt=i,
                difficulty=0,
            )
        )
    with open(tmp_path / 'infos.pkl', 'wb') as file:
        pickle.dump(infos, file)
    return dict(
        info_path=str(tmp_path / 'infos.pkl'),
        data_root=str(tmp_path),
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict(car=5)),
        sample_groups=dict(car=4, truck=7, pedestrian=2),
        classes=CLASSES,
        points_loader=dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    )


@pytest.mark.parametrize('plane', [None, np.array([0.0, 0.1, 1.0, 1.5])])
@pytest.mark.parametrize('rate', [1.0, 0.5])
def test_same_samples_as_stock(database, rate, plane, monkeypatch):
    # Where numpy lacks it, the stock class gets np.long lent for this comparison.
    monkeypatch.setattr(np, 'long', np.int64, raising=False)
    database['rate'] = rate
    scene = np.array([[0, 0, -1, 4, 2, 1.5, 0.3, 0, 0], [9, 9, -1, 4, 2, 1.5, 1, 0, 0]], np.float32)
    labels = np.array([0, 2])
    draws = []
    for cls in (StockSampler, DataBaseSampler):
        np.random.seed(1)
        sampler = cls(**database)
        draws.append([sampler.sample_all(scene, labels, ground_plane=plane) for _ in range(6)])
        draws[-1].append(np.random.rand())
    stock, ours = draws
    assert stock.pop() == ours.pop()
    for expected, got in zip(stock, ours):
        assert expected.keys() == got.keys()
        assert np.array_equal(expected['points'].tensor, got['points'].tensor)
        for key in ('gt_labels_3d', 'gt_bboxes_3d', 'group_ids'):
            assert np.array_equal(expected[key], got[key])
            assert expected[key].dtype == got[key].dtype


def test_nothing_to_add_gives_none(database):
    database['sample_groups'] = dict(car=1)
    scene = np.zeros((1, 9), np.float32)
    assert DataBaseSampler(**database).sample_all(scene, np.array([0])) is None


def test_stock_transform_uses_it(database):
    transform = TRANSFORMS.build(dict(type='ObjectSample', db_sampler=database))
    assert type(transform.db_sampler) is DataBaseSampler
