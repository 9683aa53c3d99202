"""Heads of monocular detection: the targets of mmdet3d's, and where a pixel lies."""

from pathlib import Path

import mmdet3d
import pytest
import torch
from mmdet3d.models import dense_heads
from mmdet3d.models.task_modules import SMOKECoder as StockCoder
from mmdet3d.structures import CameraInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.models import mono3d_heads, smoke_coder

CONFIGS = Path(mmdet3d.__file__).parent / '.mim' / 'configs'
HEADS = {
    'FCOSMono3DHead': 'fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py',
    'PGDHead': 'pgd/pgd_r101-caffe_fpn_head-gn_4xb3-4x_kitti-mono3d.py',
}


def build(name, cls):
    """The head of a config, as `cls`."""
    init_default_scope('mmdet3d')
    model = Config.fromfile(CONFIGS / HEADS[name]).model
    options = {key: value for key, value in model.bbox_head.items() if key != 'type'}
    torch.manual_seed(0)
    return cls(**options, train_cfg=model.train_cfg, test_cfg=model.test_cfg)


def truth(head, count):
    torch.manual_seed(1)
    code = head.bbox_code_size
    first = torch.rand(count, 2) * torch.tensor([150, 50])
    labels = torch.randint(0, head.num_classes, (count,))
    boxes = torch.rand(count, code) + torch.tensor([0, 0, 8] + [1] * (code - 3))
    boxes3d = InstanceData(
        bboxes_3d=CameraInstance3DBoxes(boxes, box_dim=code),
        labels_3d=labels,
        centers_2d=first + 10,
        depths=torch.rand(count) * 20 + 5,
        attr_labels=torch.randint(0, 8, (count,)),
    )
    return boxes3d, InstanceData(bboxes=torch.cat([first, first + 20], 1), labels=labels)


@pytest.mark.parametrize('count', [0, 5])
@pytest.mark.parametrize('name', HEADS)
def test_the_targets_of_mmdet3d(name, count):
    stock, ours = build(name, getattr(dense_heads, name)), build(name, getattr(mono3d_heads, name))
    shapes = [(64 // step, 200 // step) for step in stock.strides]
    points = stock.get_points(shapes, torch.float32, 'cpu')
    found, wanted = (
        head.get_targets(points, *([part] for part in truth(head, count))) for head in (ours, stock)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize('size', [3, 4])
def test_smoke_decodes_the_same_places(size):
    arguments = ((28.01, 16.32), ((0.88, 1.73, 0.67), (1.78, 1.7, 0.58), (3.88, 1.63, 1.53)), 7)
    cameras = torch.eye(size).repeat(2, 1, 1)
    cameras[:, :2, :3] += torch.rand(2, 2, 3) * torch.tensor([700.0, 5, 300])
    scales = torch.tensor([[0.25, 0, 1], [0, 0.25, 2], [0, 0, 1]]).repeat(2, 1, 1)
    given = torch.rand(6, 2) * 90, torch.rand(6, 2), torch.rand(6) * 30, cameras, scales
    found, wanted = (
        cls(*arguments)._decode_location(*given) for cls in (smoke_coder.SMOKECoder, StockCoder)
    )
    torch.testing.assert_close(found, wanted)
