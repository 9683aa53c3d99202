"""Stock models of mmdet3d and mmdet on the NPU: losses, gradients and predictions as on the CPU."""

import copy
import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet3d.models.voxel_encoders import pillar_encoder
from mmdet3d.registry import MODELS
from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mxd_mmplugin

pytestmark = pytest.mark.npu
HEIGHT, WIDTH = 96, 128


def scans(model, channels, code):
    """Two scans of 1,500 points, with boxes of `code` numbers in each."""
    area = torch.tensor(model.data_preprocessor.voxel_layer.point_cloud_range, dtype=torch.float)
    low, extent = area[:3], area[3:] - area[:3]
    points, samples = [], []
    for _ in range(2):
        scan = torch.rand(1500, channels)
        scan[:, :3] = low + extent * scan[:, :3]
        boxes = torch.rand(5, code)
        boxes[:, :3] = low + extent * (0.2 + 0.6 * boxes[:, :3])
        boxes[:, 2:6] = torch.tensor([-1.5, 3.9, 1.6, 1.5])
        meta = dict(box_type_3d=LiDARInstance3DBoxes, box_mode_3d=0)
        sample = Det3DDataSample(metainfo=meta)
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=code), labels_3d=torch.zeros(5).long()
        )
        points.append(scan)
        samples.append(sample)
    return dict(inputs=dict(points=points), data_samples=samples)


def images(_):
    """Two images with boxes."""
    samples = []
    for _ in range(2):
        low = torch.rand(3, 2) * 50
        boxes = torch.cat([low, low + 20 + torch.rand(3, 2) * 25], 1)
        shape = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), (HEIGHT, WIDTH))
        sample = Det3DDataSample(metainfo=dict(shape, scale_factor=(1.0, 1.0), img_id=0))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(3))
        samples.append(sample)
    pictures = [torch.randint(256, (3, HEIGHT, WIDTH), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=pictures, data_samples=samples)


def camera_images(model):
    """Two images with boxes in space."""
    batch = images(model)
    for sample in batch['data_samples']:
        camera = [[100.0, 0, WIDTH / 2], [0, 100.0, HEIGHT / 2], [0, 0, 1]]
        sample.set_metainfo(dict(box_type_3d=CameraInstance3DBoxes, cam2img=camera))
        centres, depths = sample.gt_instances.bboxes.view(3, 2, 2).mean(1), 5 + 10 * torch.rand(3)
        boxes = torch.rand(3, 9)
        boxes[:, :2] = (centres - torch.tensor([WIDTH, HEIGHT]) / 2) / 100 * depths[:, None]
        boxes[:, 2] = depths
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=CameraInstance3DBoxes(boxes, box_dim=9),
            labels_3d=torch.arange(3),
            centers_2d=centres,
            depths=depths,
            attr_labels=torch.arange(3),
        )
    return dict(batch, inputs=dict(img=batch['inputs']))


# A scene some ten metres wide: numbers of the configs, and what they are replaced by.
NUSCENES = {51.2: 6.4, 61.2: 7.0, 500: 50, 512: 64}
KITTI = {69.12: 10.24, 39.68: 5.12, 496: 64, 432: 64}

# Config, what is replaced in it, a batch for it.
CASES = {
    'centerpoint': (
        'mmdet3d/centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
        NUSCENES,
        lambda model: scans(model, 5, 9),
    ),
    'centerpoint dcn': (
        'mmdet3d/centerpoint/centerpoint_pillar02_second_secfpn_head-dcn_8xb4-cyclic-20e_nus-3d.py',
        NUSCENES,
        lambda model: scans(model, 5, 9),
    ),
    'pointpillars': (
        'mmdet3d/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py',
        KITTI,
        lambda model: scans(model, 4, 7),
    ),
    'pointpillars dynamic': (
        'mmdet3d/dynamic_voxelization/pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car.py',
        KITTI,
        lambda model: scans(model, 4, 7),
    ),
    'fcos3d': (
        'mmdet3d/fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py',
        {101: 50},  # layers of the ResNet
        camera_images,
    ),
    'retinanet': ('mmdet/retinanet/retinanet_r18_fpn_1x_coco.py', {}, images),
    'faster rcnn': (
        'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        {0.05: 0.0125, 1000: 50, 2000: 50},  # an untrained model's scores; fewer proposals
        images,
    ),
    'deformable detr': (
        'mmdet/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        {0.1: 0.0, 6: 2},  # no dropout: random numbers are the device's own; fewer layers
        images,
    ),
}


def replace(value, numbers):
    """A config with other numbers, of either sign."""
    if isinstance(value, dict):
        return {key: replace(item, numbers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace(item, numbers) for item in value)
    if isinstance(value, (int, float)) and abs(value) in numbers:
        return type(value)(numbers[abs(value)] * (1 if value > 0 else -1))
    return value


def step(model, batch):
    """Losses, the norm of each gradient, and then the predictions."""
    torch.manual_seed(0)
    model.train()
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    total, parts = model.parse_losses(losses)
    total.backward()
    norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    model.eval()
    with torch.no_grad():
        batch = model.data_preprocessor(copy.deepcopy(batch), False)
        samples = model(**batch, mode='predict')
    losses = {name: float(loss) for name, loss in parts.items()}
    return losses, norms, [detections(sample) for sample in samples]


def detections(sample):
    """Scores and boxes of a prediction."""
    if len(sample.get('pred_instances_3d', ())):
        found = sample.pred_instances_3d
        return found.scores_3d.cpu(), found.bboxes_3d.tensor.cpu()
    return sample.pred_instances.scores.cpu(), sample.pred_instances.bboxes.cpu()


def build(name):
    """The model of a case, and a batch for it."""
    path, numbers, make_batch = CASES[name]
    package, path = path.split('/', 1)
    init_default_scope(package)
    config = Config.fromfile(Path(find_spec(package).origin).parent / '.mim' / 'configs' / path)
    model = ConfigDict(replace(config.model.to_dict(), numbers))
    if 'voxel_layer' in model.data_preprocessor and 'point_cloud_range' in config:
        area = replace(config.point_cloud_range, numbers)
        model.data_preprocessor.voxel_layer.setdefault('point_cloud_range', area)
    batch = make_batch(model)
    model = MODELS.build(model)
    if hasattr(model, 'level_embed'):
        # Memory as it was found, until mmdet's init_weights, which loads a backbone's file too.
        torch.nn.init.normal_(model.level_embed)
    return model, batch


@pytest.mark.parametrize('name', CASES)
def test_a_step_and_a_prediction_equal_the_cpus(name, monkeypatch):
    # Stock code, of other models too, runs as it is, wherever CANN runs its operators.
    monkeypatch.setenv('MXD_SOFTNPU_STRICT', '0')
    on_npu, batch = build(name)
    on_npu.npu()
    # mmcv has no CPU form of it.
    monkeypatch.setattr(pillar_encoder, 'DynamicScatter', mxd_mmplugin.DynamicScatter)
    on_cpu, _ = build(name)
    on_cpu.load_state_dict(on_npu.state_dict())
    (losses, norms, predictions), wanted = step(on_npu, batch), step(on_cpu, batch)
    assert losses == pytest.approx(wanted[0], rel=1e-4)
    assert norms == pytest.approx(wanted[1], rel=1e-2, abs=1e-3)
    assert sum(len(scores) for scores, _ in predictions)
    torch.testing.assert_close(predictions, wanted[2], rtol=1e-3, atol=1e-3)


def train(model, batch, steps):
    """Losses of some steps with one batch."""
    torch.manual_seed(0)
    # Not Adam, whose first steps have the size of the rate however small and uncertain a gradient is.
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.003)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = model.data_preprocessor(copy.deepcopy(batch), True)
        total, _ = model.parse_losses(model(**inputs, mode='loss'))
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        losses.append(float(total))
    return losses


def test_centerpoint_with_dcn_heads_trains_as_on_the_cpu(tmp_path, monkeypatch):
    """Each deformable convolution of each step, forward and backward, is a launch of an Ascend C kernel."""
    steps = 5
    on_npu, batch = build('centerpoint dcn')
    on_cpu, _ = build('centerpoint dcn')
    on_cpu.load_state_dict(on_npu.state_dict())
    wanted = train(on_cpu, batch, steps)
    path = tmp_path / 'profile.jsonl'
    monkeypatch.setenv('MXD_SOFTNPU_PROFILE', str(path))
    assert train(on_npu.npu(), batch, steps) == pytest.approx(wanted, rel=1e-3)
    assert wanted[-1] < 0.9 * wanted[0]
    layers = sum(isinstance(layer, mxd_mmplugin.DeformConv2dPack) for layer in on_npu.modules())
    kernels = Counter(json.loads(line)['kernel'] for line in path.read_text().splitlines())
    assert layers == 12
    assert (
        kernels['modulated_deform_conv'] == kernels['modulated_deform_conv_backward'] == steps * 12
    )
