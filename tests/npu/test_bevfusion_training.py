"""Training BEVFusion's small lidar-cam config on the software NPU is training it on the CPU."""

import pytest

from mxd_mmplugin import softnpu
from tests.conftest import ROOT
from tests.npu.test_training import losses, train_on_both

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='compares two settings of one machine')

CONFIG = next((ROOT / 'configs' / 'bevfusion').glob('*lidar-cam*generated*.py'))
# The model as it is, on a tenth of the area, one sweep and images of half the size.
WARM = f"""
_base_ = '{CONFIG}'
area, grid, image_size = [-16.0, -16.0, -5.0, 16.0, 16.0, 3.0], [160, 160, 41], [64, 192]
model = dict(
    data_preprocessor=dict(voxelize_cfg=dict(point_cloud_range=area)),
    pts_middle_encoder=dict(sparse_shape=grid),
    view_transform=dict(
        image_size=image_size,
        feature_size=[8, 24],
        xbound=[-16.0, 16.0, 0.8],
        ybound=[-16.0, 16.0, 0.8],
        dbound=[1.0, 18.0, 1.0],
    ),
    bbox_head=dict(
        train_cfg=dict(grid_size=grid, point_cloud_range=area),
        test_cfg=dict(grid_size=grid, pc_range=area[:2]),
        bbox_coder=dict(pc_range=area[:2]),
    ),
)
changes = dict(
    ImageAug3D=dict(final_dim=image_size, resize_lim=[0.12, 0.12]),
    LoadPointsFromMultiSweeps=dict(sweeps_num=1),
    PointsRangeFilter=dict(point_cloud_range=area),
    ObjectRangeFilter=dict(point_cloud_range=area),
)
train_pipeline = [dict(step, **changes.get(step['type'], {{}})) for step in _base_.train_pipeline]
train_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(pipeline=train_pipeline))
param_scheduler = []
train_cfg = dict(max_epochs=5, val_begin=99)
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
custom_hooks = []
"""
# From random weights all queries are alike, and rounding decides which of them are matched with an
# object: differences of 1e-6 in the weights are 1e-3 in the loss after a few steps, on one CPU too.
# So both go on from twenty steps on the CPU; plain gradient descent as in test_training.py.
SHORT = """
_base_ = './warm.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=2e-4, momentum=0.9))
train_cfg = dict(max_epochs=2)
load_from = 'warm/epoch_5.pth'
"""


def test_losses_are_those_of_the_cpu(folder):
    train_on_both(folder, WARM, SHORT)
    warm, cpu, npu = (losses(folder, work) for work in ('warm', 'cpu', 'npu'))
    assert len(cpu) == len(npu) == 8
    assert npu == pytest.approx(cpu, rel=1e-3)
    assert max(npu) < warm[0] / 2
