"""The detector: names and shapes of the project's weights, every mode, the configs, and the project's own code."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.bevfusion_ops import Voxelization, voxelization
from mxd_mmplugin.models.bevfusion.layers import resize_bilinear
from mxd_mmplugin.modules import SparseConv3d, SubMConv3d
from tests.conftest import ROOT
from tests.models.bevfusion.test_head import boxes
from tests.models.bevfusion.test_view_transform import calibration

FOLDER = ROOT / 'configs' / 'bevfusion'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
FULL = [name for name in CONFIGS if 'generated' not in name]
GENERATED = [name for name in CONFIGS if 'generated' in name]
CAMERA_PARTS = 'img_backbone.', 'img_neck.', 'view_transform.', 'fusion_layer.'


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


def config_of(name):
    config = Config.fromfile(FOLDER / name)
    if 'img_backbone' in config.model:
        config.model.img_backbone.init_cfg = None
    return config


def small(cameras=True, **changes):
    """The small config on a grid of 128 x 96 cells and images of 64 x 96 pixels."""
    config = config_of(next(name for name in GENERATED if ('cam' in name) == cameras))
    area, grid = [-12.8, -9.6, -5.0, 12.8, 9.6, 3.0], [128, 96, 41]
    model = dict(
        data_preprocessor=dict(voxelize_cfg=dict(point_cloud_range=area)),
        pts_middle_encoder=dict(sparse_shape=grid),
        bbox_head=dict(
            num_proposals=20,
            train_cfg=dict(grid_size=grid, point_cloud_range=area),
            test_cfg=dict(grid_size=grid, pc_range=area[:2], pre_maxsize=50, post_maxsize=20),
            bbox_coder=dict(pc_range=area[:2], post_center_range=[-20, -20, -9, 20, 20, 9]),
        ),
    )
    if cameras:
        bounds = dict(xbound=[-12.8, 12.8, 0.8], ybound=[-9.6, 9.6, 0.8], dbound=[1.0, 15.0, 1.0])
        model['view_transform'] = dict(bounds, image_size=[64, 96], feature_size=[8, 12])
    for part in (model, changes):
        config.merge_from_dict(dict(model=part))
    return config.model


def batch(samples=2, cameras=3):
    """What a data loader gives; the second sample has no matrix of augmentation, as in testing."""
    torch.manual_seed(1)
    matrices = [matrix.numpy() for matrix in calibration(samples, cameras)]
    lidar2img, cam2img, cam2lidar, img_aug, lidar_aug = matrices
    data = []
    for i in range(samples):
        meta = dict(lidar2img=lidar2img[i], cam2img=cam2img[i], cam2lidar=cam2lidar[i])
        if i == 0:
            meta.update(img_aug_matrix=list(img_aug[i]), lidar_aug_matrix=lidar_aug[i])
        sample = Det3DDataSample(metainfo=dict(meta, box_type_3d=LiDARInstance3DBoxes))
        instances = InstanceData(labels_3d=torch.arange(6))
        instances.bboxes_3d = LiDARInstance3DBoxes(boxes(6, i), box_dim=9)
        sample.gt_instances_3d = instances
        data.append(sample)
    points = [
        torch.rand(3000, 5) * torch.tensor([24, 18, 3, 1, 0.2]) - torch.tensor([12, 9, 3, 0, 0])
        for _ in data
    ]
    images = [torch.rand(cameras, 3, 64, 96) * 255 for _ in data]
    return dict(inputs=dict(points=points, img=images), data_samples=data)


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('name', FULL)
def test_names_and_shapes_are_the_projects(name):
    model = MODELS.build(config_of(name).model)
    rows = Path(__file__).with_name('parameters.txt').read_text().splitlines()
    expected = dict(row.split() for row in rows)
    if 'cam' not in name:
        expected = {k: v for k, v in expected.items() if not k.startswith(CAMERA_PARTS)}
    state = model.state_dict()
    found = {k: 'x'.join(map(str, v.shape)) or 'scalar' for k, v in state.items()}
    assert list(found.items()) == list(expected.items())
    assert {SubMConv3d, SparseConv3d} <= {type(m) for m in model.pts_middle_encoder.modules()}

    # spconv 2, with which the project's checkpoints were trained, has the output channels first.
    theirs = {
        k: v.permute(4, 0, 1, 2, 3) if k.startswith('pts_middle') and v.dim() == 5 else v
        for k, v in state.items()
    }
    other = MODELS.build(config_of(name).model)
    other.load_state_dict(theirs)
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize('cameras', [False, True])
@pytest.mark.parametrize('layers', [1, 2])
def test_loss_prediction_and_tensors(cameras, layers):
    model = MODELS.build(small(cameras, bbox_head=dict(num_decoder_layers=layers))).train()
    data = model.data_preprocessor(batch(), True)
    losses = model(**data, mode='loss')
    total(losses).backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        raw = model(**data, mode='tensor')[0][0]
        found = model(**data, mode='predict')
    assert raw['heatmap'].shape == (2, 10, 20 * layers)
    assert raw['dense_heatmap'].shape == (2, 10, 32, 24)
    for sample in found:
        assert sample.pred_instances_3d.bboxes_3d.tensor.shape[1] == 9
        assert 0 < len(sample.pred_instances_3d) <= 20


@pytest.mark.parametrize(
    'options',
    [
        dict(view_transform=dict(type='LSSTransform')),
        dict(view_transform=dict(xbound=[-12.8, 12.8, 0.4], ybound=[-9.6, 9.6, 0.4], downsample=2)),
        dict(img_neck=dict(no_norm_on_lateral=True)),
        dict(pts_middle_encoder=dict(order=('norm', 'act', 'conv'))),
        dict(pts_middle_encoder=dict(block_type='conv_module', encoder_paddings=((1, 1), (1, 1), ((1, 1, 0), 1)))),
        dict(bbox_head=dict(test_cfg=dict(nms_type='circle'), auxiliary=False)),
        dict(bbox_head=dict(test_cfg=dict(nms_type='rotate'))),
        dict(seg_head=dict(type='not built')),
    ],
)  # fmt: skip
def test_options(options):
    model = MODELS.build(small(**options)).train()
    data = model.data_preprocessor(batch(), True)
    total(model(**data, mode='loss')).backward()
    with torch.no_grad():
        assert len(model.eval()(**data, mode='predict')) == 2


def test_same_result_again_and_in_half_precision():
    model = MODELS.build(small()).eval()
    data = model.data_preprocessor(batch(), False)
    with torch.no_grad():
        one, two = (model(**data, mode='tensor')[0][0] for _ in range(2))
        with torch.autocast('cpu', torch.bfloat16):
            half = model(**data, mode='tensor')[0][0]
    assert all(torch.equal(one[name], two[name]) for name in one)
    gap = (half['dense_heatmap'] - one['dense_heatmap']).abs().mean()
    assert gap < 0.05 and half['center'].isfinite().all()


def test_fusion_is_needed_for_two_maps():
    model = MODELS.build(small())
    model.fusion_layer = None
    with pytest.raises(ValueError, match='fusion_layer must be given'):
        model(**model.data_preprocessor(batch(), True), mode='tensor')


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    align_corners=st.sampled_from([None, False, True]),
)
def test_maps_are_resized_by_products_as_by_interpolation(sizes, align_corners):
    maps = torch.randn(2, 3, *sizes[:2], dtype=torch.float64, requires_grad=True)
    options = dict(size=sizes[2:], align_corners=align_corners)
    expected = F.interpolate(maps, mode='bilinear', **options)
    out = resize_bilinear(maps, **options)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    grads = (torch.autograd.grad((x * weight).sum(), maps)[0] for x in (out, expected))
    torch.testing.assert_close(*grads)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must be given together, absent: \['img_neck'\]"):
        MODELS.build(small(img_neck=None))
    model = MODELS.build(small(view_transform=dict(feature_size=[8, 11])))
    with pytest.raises(ValueError, match=r'must be \(8, 11\), the feature_size, was \(8, 12\)'):
        model(**model.data_preprocessor(batch(), True), mode='tensor')


def test_an_empty_sweep_is_a_sample():
    model = MODELS.build(small(cameras=False)).eval()
    data = batch()
    data['inputs']['points'][1] = torch.zeros(0, 5)
    with torch.no_grad():
        found = model(**model.data_preprocessor(data, False), mode='predict')
    assert len(found) == 2


def test_middle_features_are_returned():
    config = small(cameras=False, pts_middle_encoder=dict(return_middle_feats=True))
    model = MODELS.build(config.pts_middle_encoder)
    coors = torch.tensor([[0, 5, 6, 7], [1, 90, 80, 20]], dtype=torch.int32)
    dense, stages = model(torch.rand(2, 5), coors, 2)
    assert dense.shape == (2, 64, 32, 24) and len(stages) == 3
    assert stages[-1].spatial_shape == [32, 24, 10]


def test_voxels_are_x_y_z():
    points = torch.tensor(
        [[0.5, 1.5, 2.5, 9], [0.6, 1.6, 2.6, 7], [3.5, 0.5, 1.5, 5], [9, 9, 9, 9]]
    )
    layer = Voxelization([1, 1, 1], [0, 0, 0, 4, 4, 4], max_num_points=5, max_voxels=[10, 20])
    voxels, coors, counts = layer(points)
    assert coors.tolist() == [[0, 1, 2], [3, 0, 1]] and counts.tolist() == [2, 1]
    assert voxels[0, :2, 3].tolist() == [9, 7]
    assert [int(size) for size in layer.pcd_shape] == [4, 4, 1]
    each = voxelization(points, [1, 1, 1], [0, 0, 0, 4, 4, 4], max_points=-1)
    assert each.tolist() == [[0, 1, 2], [0, 1, 2], [3, 0, 1], [-1, -1, -1]]


def test_the_projects_own_code_finds_the_ops(tmp_path):
    folder = tmp_path / 'projects' / 'BEVFusion' / 'bevfusion'
    (folder / 'ops').mkdir(parents=True)
    (folder / 'ops' / '__init__.py').write_text(
        'raise ImportError("bev_pool_ext is not compiled")\n'
    )
    (folder / '__init__.py').write_text('from .detector import pool, Voxelization, voxelization\n')
    names = 'DynamicScatter, Voxelization, bev_pool as pool, dynamic_scatter, voxelization'
    (folder / 'detector.py').write_text(f'from .ops import {names}\n')
    code = (
        'import mxd_mmplugin, torch\n'
        'from projects.BEVFusion.bevfusion import pool, Voxelization, voxelization\n'
        'out = pool(torch.ones(3, 2), torch.tensor([[0, 1, 0, 0]] * 3), 1, 1, 2, 2)\n'
        'assert out.shape == (1, 2, 1, 2, 2) and out[0, 0, 0, 0, 1] == 3 == out[0, 0].sum()\n'
        'layer = Voxelization([1, 1, 1], [0, 0, 0, 4, 4, 4], 5)\n'
        'assert layer(torch.tensor([[1., 2, 3, 0]]))[1].tolist() == [[1, 2, 3]]\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=dict(PYTHONPATH=f'{ROOT}:{tmp_path}', PATH=''),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_agree_with_themselves(name):
    config = config_of(name)
    assert config.custom_imports.imports == ['mxd_mmplugin', 'mxd_mmplugin.models.bevfusion']
    model = config.model
    voxelize, head = model.data_preprocessor.voxelize_cfg, model.bbox_head
    size, area, grid = (
        voxelize.voxel_size,
        voxelize.point_cloud_range,
        model.pts_middle_encoder.sparse_shape,
    )
    cells = np.round((np.array(area[3:]) - area[:3]) / size).astype(int) + [0, 0, 1]
    assert cells.tolist() == grid == head.train_cfg.grid_size == head.test_cfg.grid_size
    assert size == head.train_cfg.voxel_size and area == head.train_cfg.point_cloud_range
    for part in (head.test_cfg, head.bbox_coder):
        assert part.voxel_size == size[:2] and part.pc_range == area[:2]
    factor = 2 ** (len(model.pts_middle_encoder.encoder_channels) - 1)
    for part in (head.train_cfg, head.test_cfg, head.bbox_coder):
        assert part.out_size_factor == factor
    for pipeline in (config.train_pipeline, config.test_pipeline):
        ranges = [t.point_cloud_range for t in pipeline if 'point_cloud_range' in t]
        assert ranges and all(found == area for found in ranges)
    if 'cam' in name:
        view = model.view_transform
        halved = view.get('downsample', 1)
        for bound, low, high, count in zip(
            (view.xbound, view.ybound), area[:2], area[3:5], cells[:2]
        ):
            assert bound[:2] == [low, high]
            assert round((high - low) / bound[2]) == count // factor * halved
        for pipeline in (config.train_pipeline, config.test_pipeline):
            dims = [t.final_dim for t in pipeline if t.type == 'ImageAug3D']
            assert dims == [view.image_size]
