"""MinkUNet and SPVCNN on the NPU: as on the CPU, nothing on the AI CPU or the host."""

import copy

import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, PointData

from mxd_mmplugin.models.data_preprocessor import Det3DDataPreprocessor

from .compare import assert_same, npu

pytestmark = pytest.mark.npu
CHANNELS = dict(
    base_channels=8,
    encoder_channels=[8, 8, 12, 16],
    encoder_blocks=[1, 1, 1, 1],
    decoder_channels=[16, 12, 8, 8],
    decoder_blocks=[1, 1, 1, 1],
)


@pytest.mark.parametrize('kind', ['MinkUNetBackbone', 'MinkUNetBackboneV2', 'SPVCNNBackbone'])
def test_a_step_as_on_the_cpu(kind):
    torch.manual_seed(0)
    on_cpu = MODELS.build(dict(type=kind, **copy.deepcopy(CHANNELS))).eval()
    on_npu = copy.deepcopy(on_cpu).npu()
    cells = torch.randperm(2 * 20**3)[:400]
    columns = cells // 20 % 20, cells // 400 % 20, cells % 20, cells // 8000
    inputs = torch.randn(400, 4), torch.stack(columns, 1).int()
    results = []
    for net, (features, coors) in ((on_npu, npu(inputs)), (on_cpu, inputs)):
        out = net(features, coors)
        out.square().sum().backward()
        results.append((out.detach(), [x.grad for x in net.parameters()]))
    assert_same(*results, tolerance=2e-3)


def test_the_voxels_are_those_of_the_cpu():
    layer = dict(max_num_points=-1, point_cloud_range=[0] * 6, voxel_size=[0.1] * 3, max_voxels=-1)
    options = dict(voxel=True, voxel_type='minkunet', batch_first=False, voxel_layer=layer)
    preprocessor = Det3DDataPreprocessor(**options)
    points = [torch.rand(500, 4), torch.rand(200, 4)]
    results = []
    for rows in npu(points), points:
        samples = [Det3DDataSample(gt_pts_seg=PointData()) for _ in rows]
        for sample, part in zip(samples, rows):
            sample.gt_pts_seg.pts_semantic_mask = torch.arange(len(part), device=part.device)
        voxels = preprocessor.voxelize(rows, samples)
        labels = [sample.gt_pts_seg.voxel_semantic_mask for sample in samples]
        results.append((voxels, labels, [sample.point2voxel_map for sample in samples]))
    assert_same(*results)
