"""Targets and samples that are found on the host: those of the CPU, on the NPU."""

from pathlib import Path

import mmdet3d
import pytest
import torch
from mmdet.models.task_modules import AssignResult
from mmdet3d.structures import DepthInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mxd_mmplugin.models import host_targets
from tests.npu.compare import assert_same, npu

pytestmark = pytest.mark.npu
CONFIGS = Path(mmdet3d.__file__).parent / '.mim' / 'configs'


def test_targets_of_votes():
    init_default_scope('mmdet3d')
    model = Config.fromfile(CONFIGS / 'votenet' / 'votenet_8xb16_sunrgbd-3d.py').model
    options = {key: value for key, value in model.bbox_head.items() if key != 'type'}
    head = host_targets.VoteHead(**options, train_cfg=model.train_cfg, test_cfg=model.test_cfg)
    boxes = DepthInstance3DBoxes(torch.rand(5, 7) + torch.tensor([0, 0, 0, 1, 1, 1, 0]))
    points, labels, centres = torch.rand(300, 4) * 2, torch.randint(10, (5,)), torch.rand(40, 3) * 2
    found = head._get_targets_single(
        *npu((points,)), boxes.to('npu'), *npu((labels,)), None, None, *npu((centres,))
    )
    wanted = head._get_targets_single(points, boxes, labels, None, None, centres)
    assert_same(found, wanted)


def test_samples():
    sampler = host_targets.RandomSampler(8, 0.5, add_gt_as_proposals=True)
    truth = InstanceData(bboxes=torch.rand(3, 4), labels=torch.tensor([1, 0, 2]))
    priors = InstanceData(priors=torch.rand(40, 4))
    numbers = torch.randint(0, 4, (40,))
    results = []
    for device in ('npu', 'cpu'):
        assigned = AssignResult(3, numbers.to(device), torch.rand(40, device=device), numbers.to(device))  # fmt: skip
        torch.manual_seed(0)
        found = sampler.sample(assigned, priors.to(device), truth.to(device))
        results.append([found.pos_inds, found.neg_inds, found.pos_priors, found.pos_gt_labels])
    assert_same(*results)
