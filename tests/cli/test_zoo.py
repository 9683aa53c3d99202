"""tools/zoo.py: its input for each kind of data set, its processes and its table."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import CameraInstance3DBoxes, DepthInstance3DBoxes, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.conftest import ROOT, on_cpu, run

sys.path.insert(0, str(ROOT / 'tools'))
import zoo
from zoo_inputs import make_batch
from zoo_instances import make_instances

# A config of each kind of input: the channels of a point, the boxes.
KINDS = {
    'second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py': (4, LiDARInstance3DBoxes),
    'pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py': (4, LiDARInstance3DBoxes),
    'centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py': (
        5,
        LiDARInstance3DBoxes,
    ),
    'pgd/pgd_r101_fpn-head_dcn_16xb3_waymoD5-mv-mono3d.py': (None, CameraInstance3DBoxes),
    'mvfcos3d/multiview-fcos3d_r101-dcn_8xb2_waymoD5-3d-3class.py': (None, LiDARInstance3DBoxes),
    'votenet/votenet_8xb8_scannet-3d.py': (4, DepthInstance3DBoxes),
    'imvotenet/imvotenet_stage2_8xb16_sunrgbd-3d.py': (4, DepthInstance3DBoxes),
    'minkunet/minkunet18_w16_torchsparse_8xb2-amp-15e_semantickitti.py': (4, None),
    'pointnet2/pointnet2_ssg_2xb16-cosine-50e_s3dis-seg.py': (9, None),
}


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmdet3d')


@pytest.mark.parametrize('name', KINDS)
def test_the_input(name):
    channels, boxes = KINDS[name]
    batch = make_batch(Config.fromfile(zoo.CONFIGS / name))
    points, samples = batch['inputs'].get('points'), batch['data_samples']
    if channels is not None:
        assert [x.shape[1] for x in points] == [channels] * len(samples)
    else:
        assert points is None and batch['inputs']['img'][0].dtype == torch.uint8
    if boxes is None:
        assert len(samples[0].gt_pts_seg.pts_semantic_mask) == len(points[0])
        return
    truth = samples[0].gt_instances_3d
    assert type(truth.bboxes_3d) is boxes and len(truth.bboxes_3d) == len(truth.labels_3d) > 0
    if channels is not None:  # each box has points
        inside = truth.bboxes_3d.enlarged_box(0.1).corners
        low, high = inside.amin(1), inside.amax(1)
        xyz = points[0][:, None, :3]
        assert ((xyz >= low) & (xyz <= high)).all(2).any(0).all()


def test_pictures_with_masks():
    name = 'nuimages/htc_r50_fpn_1x_nuim.py'
    batch = make_instances(Config.fromfile(zoo.CONFIGS / name).model)
    assert batch['inputs'].shape == (2, 3, 128, 416) and len(batch['data_samples']) == 2
    truth = batch['data_samples'][0].gt_instances
    found = truth.masks.get_bboxes('hbox').tensor
    torch.testing.assert_close(found, truth.bboxes, rtol=0, atol=1)
    assert batch['data_samples'][0].gt_sem_seg.sem_seg.shape == (1, 128, 416)


def test_what_differs_in_its_data_files_alone_is_tried_once():
    areas = [f'dgcnn/dgcnn_4xb32-cosine-100e_s3dis-seg_test-area{n}.py' for n in (1, 6)]
    widths = [f'spvcnn/spvcnn_w{n}_8xb2-amp-15e_semantickitti.py' for n in (16, 20)]
    first, sixth, narrow, wide = (zoo.fingerprint(zoo.CONFIGS / name) for name in areas + widths)
    assert first == sixth and narrow != wide


def test_every_stock_config_is_found():
    names = zoo.find_configs(zoo.CONFIGS)
    assert set(KINDS) < set(names) and not any('_base_' in name for name in names)


def config(folder, name, text):
    path = folder / f'{name}.py'
    stock = zoo.CONFIGS / 'smoke' / 'smoke_dla34_dlaneck_gn-all_4xb8-6x_kitti-mono3d.py'
    path.write_text(f'_base_ = {str(stock)!r}\n{text}\n')
    return path


def sleep(**kwargs):
    time.sleep(100)


def end(**kwargs):
    os._exit(3)


def test_a_config_is_served_or_the_reason_is_told(tmp_path):
    MODELS.register_module(name='ZooSleeps', module=sleep, force=True)
    MODELS.register_module(name='ZooEnds', module=end, force=True)
    model = "model = dict(_delete_=True, type='{}')"
    texts = {
        'served': '',
        'wrong': "model = dict(backbone=dict(type='NoSuchBackbone'))",
        'slow': model.format('ZooSleeps'),
        'ending': model.format('ZooEnds'),
    }
    logs = {name: tmp_path / f'{name}.log' for name in texts}
    found = {
        name: zoo.try_config(config(tmp_path, name, text), logs[name], 2 if name == 'slow' else 60)
        for name, text in texts.items()
    }
    assert found['served'].get('served') == 'yes', logs['served'].read_text()[-2000:]
    errors = {name: result.get('error') for name, result in found.items()}
    assert errors['wrong'].startswith('build: KeyError')
    assert 'NoSuchBackbone is not in the' in errors['wrong']
    assert errors['slow'] == 'more than 2 s' and found['slow']['seconds'] < 10
    assert errors['ending'] == 'the process ended with status 3'


def test_a_reason_names_no_folder_of_this_machine():
    error = FileNotFoundError(f'No such file: {zoo.CONFIGS}/a.py')
    assert zoo.reason(error) == (
        'build: FileNotFoundError: No such file: mmdet3d/.mim/configs/a.py'
    )


def test_the_table(tmp_path):
    results = {
        'cpu': {
            'a/one.py': dict(served='yes', seconds=1.0),
            'a/two.py': dict(served='the model', seconds=1.0),
            'b/two.py': dict(error='a | b', seconds=2),
        },
        'cpu without': {'a/one.py': dict(error='build: no', seconds=1.0)},
    }
    page = tmp_path / 'zoo.md'
    page.write_text(f'# Zoo\n\n{zoo.BEGIN}\nold\n{zoo.END}\n\nmore\n')
    zoo.write_table(page, json.loads(json.dumps(results)))
    text = page.read_text()
    assert text.startswith('# Zoo\n') and text.endswith('\n\nmore\n') and 'old' not in text
    assert '| of 3 configs | CPU | CPU, mmdet3d alone |' in text
    assert '| yes | 1 | 0 |' in text and '| the model | 1 | 0 |' in text
    assert '| `a/one` | yes | build: no |' in text
    assert r'| `b/two` | a \| b | not tried |' in text
    zoo.write_table(page, results)
    assert page.read_text() == text


def test_mmdet3d_alone_is_without_this_package():
    code = 'import sys, zoo; print([name for name in sys.modules if name.startswith("mxd")])'
    assert run(ROOT / 'tools', '-c', code, env=on_cpu()).strip().endswith('[]')


@pytest.mark.parametrize(
    'name',
    [
        'votenet/votenet_8xb8_scannet-3d',  # its data set has the names of the classes
        'minkunet/minkunet18_w16_torchsparse_8xb2-amp-15e_semantickitti',
    ],
)
def test_a_stock_config_on_one_frame(tmp_path, name):
    """What a model sees in it becomes a picture, of boxes or of points."""
    command = ROOT / 'tools' / 'overfit_stock.py', name, '--steps', '1', '--out', tmp_path
    text = run(ROOT, *command, env=on_cpu())
    assert 'of the first)' in text
    assert (tmp_path / f'{Path(name).name}.png').stat().st_size > 10_000
