"""Training Sparse4D's small config on the software NPU is training it on the CPU."""

import pytest

from mxd_mmplugin import softnpu
from tests.conftest import ROOT
from tests.npu.test_training import losses, train_on_both

pytestmark = pytest.mark.skipif(not softnpu.active(), reason='compares two settings of one machine')

CONFIG = next((ROOT / 'configs' / 'sparse4d').glob('*generated*.py'))
# The model as it is, with fewer instances and images of half the size; no noise, which the two draw differently.
WARM = f"""
_base_ = '{CONFIG}'
image = dict(final_dim=(64, 192), resize_lim=(0.12, 0.12))
model = dict(
    head=dict(
        instance_bank=dict(num_anchor=60, num_temp_instances=40),
        sampler=dict(num_dn_groups=0, num_temp_dn_groups=0),
    )
)
train_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(data_aug_conf=image))
param_scheduler = []
train_cfg = dict(max_iters=20, val_begin=99)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=20))
log_processor = dict(window_size=1)
custom_hooks = []
"""
# As in test_bevfusion_training.py: from trained weights, with plain gradient descent, so that
# rounding does not decide what is matched with what.
SHORT = """
_base_ = './warm.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1e-4, momentum=0.9))
train_cfg = dict(max_iters=8)
load_from = 'warm/iter_20.pth'
"""


def test_losses_are_those_of_the_cpu(sequences):
    train_on_both(sequences, WARM, SHORT)
    # Two objects of a class and two boxes can often be matched either way at the same cost, a sum of distances
    # along the axes. Then rounding decides: the losses of the classes do not see it, those of the boxes do.
    for name, tolerance in ('loss', 5e-3), ('loss_cls_2', 1e-4), ('loss_dense_depth', 1e-4):
        cpu, npu = (losses(sequences, work, name) for work in ('cpu', 'npu'))
        assert len(cpu) == len(npu) == 8
        assert npu == pytest.approx(cpu, rel=tolerance), name
