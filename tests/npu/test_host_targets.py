"""Targets and samples that are found on the host: those of the CPU, on the NPU."""

from pathlib import Path

import mmdet3d
import pytest
import torch
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules import AssignResult
from mmdet.models.task_modules.samplers import SamplingResult
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


def region_head(cls):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return cls(fc_out_channels=16, in_channels=8, roi_feat_size=3, num_classes=4).eval()


def test_loss_of_regions():
    """A region has boxes for each class, and its label says which is meant; 4 is none."""
    features = torch.randn(30, 8, 3, 3)
    labels, targets = torch.randint(5, (30,)), torch.randn(30, 4)
    rest = torch.rand(30, 5), labels, torch.ones(30), targets, (labels < 4).float()[:, None]
    results = []
    for cls, move in (host_targets.Shared2FCBBoxHead, npu), (Shared2FCBBoxHead, tuple):
        head = region_head(cls)
        (x, *others) = move((features, *rest))
        head = head.to(x.device)
        losses = head.loss(*head(x), *others, reduction_override=None)
        sum(losses[name] for name in ('loss_cls', 'loss_bbox')).backward()
        grads = [p.grad for p in head.parameters()]
        results.append([losses['loss_cls'], losses['loss_bbox'], losses['acc'], *grads])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_refined_regions():
    boxes = torch.rand(20, 4) * 50
    boxes[:, 2:] += boxes[:, :2] + 5
    image = torch.arange(20) // 10
    rois = torch.cat([image[:, None].float(), boxes], 1)
    found = dict(
        bbox_targets=(torch.randint(5, (20,)),),
        cls_score=torch.randn(20, 5),
        rois=rois,
        bbox_pred=torch.randn(20, 16) / 5,
    )
    metas = [dict(img_shape=(60, 60))] * 2
    results = []
    for cls, device in (host_targets.Shared2FCBBoxHead, 'npu'), (Shared2FCBBoxHead, 'cpu'):
        samples = [SamplingResult.random(rng=i).to(device) for i in range(2)]
        for sample in samples:
            sample.pos_is_gt = torch.tensor([1, 0, 1], dtype=torch.uint8, device=device)
        given = host_targets._to(found, torch.device(device))
        refined = region_head(cls).to(device).refine_bboxes(samples, given, metas)
        results.append([result.bboxes for result in refined])
    assert_same(*results)


class Head:
    def loss_by_feat(self, preds, metas):
        assert preds['boxes'].device.type == 'cpu'
        return dict(loss=metas['scale'] * preds['boxes'].square().sum())


def test_gradients_pass_to_the_host_and_back():
    class OnHost(host_targets._LossOnHost, Head):
        pass

    boxes = torch.randn(6, 7)
    leaf = boxes.npu().requires_grad_()
    loss = OnHost().loss_by_feat(
        dict(boxes=leaf), metas=dict(scale=2.0, box_type_3d=DepthInstance3DBoxes)
    )['loss']
    loss.backward()
    assert loss.device == leaf.grad.device == leaf.device
    torch.testing.assert_close(leaf.grad.cpu(), 4 * boxes)
