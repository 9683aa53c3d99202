"""The shipped configs: stock ones with one line more, and the one for the generated scenes."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mxd_mmplugin.modules import SparseConv3d, SubMConv3d

FOLDER = Path(__file__).parents[3] / 'configs' / 'centerpoint'
STOCK = Path(find_spec('mmdet3d').origin).parent / '.mim' / 'configs' / 'centerpoint'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
GENERATED = [name for name in CONFIGS if 'generated' in name]


def test_every_stock_voxel_config_is_there():
    assert {path.name for path in STOCK.glob('*voxel*.py')} == {*CONFIGS} - {*GENERATED}


@pytest.mark.parametrize('name', sorted({*CONFIGS} - {*GENERATED}))
def test_stock_config_gains_only_the_import(name):
    ours = Config.fromfile(FOLDER / name).to_dict()
    assert ours.pop('custom_imports') == dict(imports=['mxd_mmplugin'])
    stock = Config.fromfile(STOCK / name).to_dict()
    assert without_scope(ours) == without_scope(stock)


def without_scope(config):
    """Drop the scope that mmengine notes in what comes from another package's config."""
    if isinstance(config, dict):
        return {key: without_scope(v) for key, v in config.items() if key != '_scope_'}
    if isinstance(config, (list, tuple)):
        return type(config)(without_scope(value) for value in config)
    return config


@pytest.mark.parametrize('name', CONFIGS)
def test_model_builds_on_our_layers(name):
    config = Config.fromfile(FOLDER / name)
    init_default_scope('mmdet3d')
    model = MODELS.build(config.model)
    kinds = {type(module) for module in model.pts_middle_encoder.modules()}
    assert {SubMConv3d, SparseConv3d} <= kinds


@pytest.mark.parametrize('name', GENERATED)
def test_sizes_of_the_generated_config_agree(name):
    config = Config.fromfile(FOLDER / name)
    area, model = config.point_cloud_range, config.model
    size = model.data_preprocessor.voxel_layer.voxel_size
    x, y, z = (round((area[i + 3] - area[i]) / size[i]) for i in range(3))
    assert model.pts_middle_encoder.sparse_shape == [z + 1, y, x]
    assert model.train_cfg.pts.grid_size == [x, y, z]
    assert model.train_cfg.pts.voxel_size == size
    assert model.test_cfg.pts.voxel_size == model.pts_bbox_head.bbox_coder.voxel_size == size[:2]
    stages = len(model.pts_middle_encoder.encoder_channels)
    for part in (model.train_cfg.pts, model.test_cfg.pts, model.pts_bbox_head.bbox_coder):
        assert part.out_size_factor == 2 ** (stages - 1)
    assert config.train_dataloader.dataset.metainfo.version == 'v1.0-mini'
    assert config.test_dataloader.dataset.metainfo.version == 'v1.0-mini'
    assert config.train_dataloader.dataset.type in DATASETS
    assert config.randomness.seed == 0
