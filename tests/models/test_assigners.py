"""Assigners without a loop over the boxes: mmdet's results."""

import mmdet.models.task_modules as stock
import pytest
import torch
from mmdet3d.models.task_modules.assigners import Max3DIoUAssigner as Stock3D
from mmdet3d.registry import TASK_UTILS

from mxd_mmplugin.models import assigners
from tests.counting import Counting

FLAT = dict(type='mmdet.BboxOverlaps2D')  # found whatever the default scope is
OPTIONS = [
    {},
    dict(min_pos_iou=0.3),
    dict(match_low_quality=False),
    dict(gt_max_assign_all=False),
    dict(neg_iou_thr=(0.1, 0.4)),
]


def overlaps(boxes, priors):
    """With ties, priors that overlap nothing, and boxes that nothing overlaps."""
    found = (torch.rand(boxes, priors) * 8).floor() / 8
    found[:, ::7] = 0
    found[::4] = 0
    return found


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('boxes, priors', [(6, 50), (1, 1), (0, 5), (5, 0)])
def test_the_same_as_mmdets(options, boxes, priors):
    for mine, theirs in (
        (assigners.MaxIoUAssigner, stock.MaxIoUAssigner),
        (assigners.Max3DIoUAssigner, Stock3D),
    ):
        if 'neg_iou_thr' in options and theirs is Stock3D:
            continue
        arguments = {'pos_iou_thr': 0.6, 'neg_iou_thr': 0.45, 'iou_calculator': FLAT, **options}
        if theirs is Stock3D:
            arguments['iou_calculator'] = dict(type='BboxOverlapsNearest3D', coordinate='lidar')
        table, labels = overlaps(boxes, priors), torch.randint(0, 3, (boxes,))
        expected = theirs(**arguments).assign_wrt_overlaps(table.clone(), labels)
        found = mine(**arguments).assign_wrt_overlaps(table.clone(), labels)
        assert found.num_gts == expected.num_gts
        for name in 'gt_inds', 'max_overlaps', 'labels':
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
            assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_nothing_waits():
    table, labels = overlaps(6, 50), torch.randint(0, 3, (6,))
    assigner = assigners.MaxIoUAssigner(0.6, 0.45, iou_calculator=FLAT)
    with Counting() as counting:
        assigner.assign_wrt_overlaps(table, labels)
    assert counting.waits == 0


def test_the_names_of_stock_configs():
    for name in 'mmdet.MaxIoUAssigner', 'Max3DIoUAssigner':
        cls = TASK_UTILS.get(name)
        assert cls is getattr(assigners, name.split('.')[-1])
