"""The data preprocessor beside mmdet3d's: the same voxels for any batch."""

import pytest
import torch
from mmdet3d.models import Det3DDataPreprocessor as Stock
from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope

from mxd_mmplugin.models.data_preprocessor import Det3DDataPreprocessor

LAYER = dict(
    max_num_points=5,
    voxel_size=[0.5, 0.25, 1.0],
    point_cloud_range=[-4.0, -3.0, -2.0, 4.0, 3.0, 2.0],
    max_voxels=(90, 120),
)


def cloud(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread, middle = torch.tensor([9.0, 7.0, 5.0, 1.0]), torch.tensor([4.5, 3.5, 2.5, 0.0])
    return [torch.rand(n, 4, generator=generator) * spread - middle for n in counts]


def pair(voxel_type='hard', **changes):
    init_default_scope('mmdet3d')
    options = dict(voxel=True, voxel_type=voxel_type, voxel_layer=dict(LAYER, **changes))
    ours = MODELS.build(dict(type='Det3DDataPreprocessor', **options))
    assert type(ours) is Det3DDataPreprocessor
    return ours, Stock(**options)


@pytest.mark.parametrize('counts', [[300], [40, 300, 7], [0, 20], [20, 0], [1, 0, 1]])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('voxel_type', ['hard', 'dynamic'])
def test_the_same_voxels(counts, training, voxel_type):
    dynamic = dict(max_num_points=-1, max_voxels=(-1, -1)) if voxel_type == 'dynamic' else {}
    points = cloud(counts)
    found, expected = (
        x.train(training)(dict(inputs=dict(points=[p.clone() for p in points])), training)
        for x in pair(voxel_type, **dynamic)
    )
    found, expected = (x['inputs']['voxels'] for x in (found, expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize('limits', [(90, 90), (60, 40), (200, 200), (1, 1)])
def test_each_sample_has_as_many_voxels_as_allowed(limits):
    ours, stock = pair(max_voxels=limits)
    points = cloud([300, 10, 250, 80], seed=1)
    found, expected = (x.train().voxelize(points, None) for x in (ours, stock))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_grid_given_by_its_shape():
    ours, stock = pair(voxel_size=[], grid_shape=[17, 25, 5])
    points = cloud([100, 100])
    found, expected = (x.voxelize(points, None) for x in (ours, stock))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_other_kinds_are_mmdet3ds(monkeypatch):
    ours, _ = pair('cylindrical')
    monkeypatch.setattr(Stock, 'voxelize', lambda self, points, samples: 'theirs')
    assert ours.voxelize(cloud([5]), None) == 'theirs'
