"""The stock CenterPoint on a real frame: the short form of `tools/overfit_frame.py`."""

import sys

from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
from overfit_frame import load_frame, overfit, predict, settle_norms

STOCK = 'centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py'


def test_stock_centerpoint_learns_a_real_frame(real_nuscenes):
    config = Config.fromfile(ROOT / 'configs' / 'centerpoint' / STOCK)
    init_default_scope('mmdet3d')
    set_random_seed(0)
    model = MODELS.build(config.model)
    batch = load_frame(
        next(real_nuscenes.glob('*.pkl')), config.class_names, config.point_cloud_range
    )
    assert len(batch['data_samples'][0].gt_instances_3d) > 30
    losses = overfit(model, batch, steps=8)
    assert losses[-1] < losses[0] / 5
    settle_norms(model, batch)
    found = predict(model, batch).pred_instances_3d
    assert len(found.scores_3d) == len(found.bboxes_3d) <= 500
