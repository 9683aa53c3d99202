"""The targets of all anchors at once: mmdet3d's, element for element."""

from pathlib import Path

import mmdet3d
import pytest
import torch
from mmdet3d.models import dense_heads
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.models import anchor_heads

CONFIGS = Path(mmdet3d.__file__).parent / '.mim' / 'configs'
HEADS = {
    'Anchor3DHead': 'second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py',
    'PartA2RPNHead': 'parta2/parta2_hv_secfpn_8xb2-cyclic-80e_kitti-3d-3class.py',
    'ShapeAwareHead': 'ssn/ssn_hv_secfpn_sbn-all_16xb2-2x_nus-3d.py',
}


def build(name, cls):
    """The head of a config, as `cls`."""
    init_default_scope('mmdet3d')
    model = Config.fromfile(CONFIGS / HEADS[name]).model
    kind, path = ('pts', 'pts_bbox_head') if 'pts_bbox_head' in model else ('rpn', 'rpn_head')
    options = model.get(path) or model.bbox_head
    train = model.train_cfg.get(kind, model.train_cfg)
    options = {key: value for key, value in options.items() if key != 'type'}
    torch.manual_seed(0)
    return cls(**options, train_cfg=train, test_cfg=model.test_cfg.get(kind, model.test_cfg))


def truth(head, count):
    code = head.box_code_size
    boxes = torch.rand(count, code) * 2
    boxes[:, :2] = boxes[:, :2] * 10 + 5
    boxes[:, 2] = -1
    boxes[:, 3:6] = torch.tensor([3.9, 1.6, 1.5])
    labels = torch.randint(0, head.num_classes, (count,))
    return InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=code), labels_3d=labels)


@pytest.mark.parametrize('count', [0, 12])
@pytest.mark.parametrize('name', HEADS)
def test_the_same_as_mmdet3ds(name, count):
    stock = build(name, getattr(dense_heads, name))
    mine = build(name, getattr(anchor_heads, name))
    generator = stock.prior_generator
    shapes = [(40, 40)] * len(generator.ranges if name == 'ShapeAwareHead' else generator.scales)
    anchors = generator.grid_anchors(shapes, device='cpu')
    if isinstance(anchors[0], list):
        anchors = [x for level in anchors for x in level]
    one = torch.cat([x.reshape(-1, stock.box_code_size) for x in anchors])
    assigners = (
        stock.bbox_assigner if isinstance(stock.bbox_assigner, list) else [stock.bbox_assigner]
    )
    sample = mine.bbox_sampler.sample
    mine.bbox_sampler.sample = lambda *args: setattr(mine.bbox_sampler, 'asked', 1) or sample(*args)
    for head in stock, mine:
        torch.manual_seed(1)
        head.found = [
            head.anchor_target_single_assigner(
                assigner, one.clone(), truth(head, count), None, {}, head.num_classes
            )
            for assigner in assigners
        ]
    assert not hasattr(mine.bbox_sampler, 'asked')
    positives = 0
    for expected, found in zip(stock.found, mine.found):
        positives += len(expected[6])
        for theirs, ours in zip(expected, found):
            assert theirs.dtype == ours.dtype
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert bool(positives) == bool(count)


def test_the_names_of_stock_configs():
    for name in HEADS:
        assert MODELS.get(name) is getattr(anchor_heads, name)
