"""Every full config on a recorded frame: its pipelines, one training step, one prediction.

The images are 128 pixels high, which is all that is not the config's own: a step at 512 x 1408 pixels takes
minutes on a CPU and runs the same layers. One config keeps its size.
"""

import pytest
import torch
from mmdet3d.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from tests.models.sparse4d.test_sparse4d import FULL, config_of

HEIGHT = 128
FULL_SIZE = 'sparse4dv3_temporal_r50_1x8_bs6_256x704'
CAMERAS = [f'CAM_{f}{s}' for f in ('FRONT', 'BACK') for s in ('', '_LEFT', '_RIGHT')]


def frame_of(loader, folder):
    """The frame by a data loader's data set and pipeline, as a batch of one; there are no frames before it."""
    changes = dict(
        data_root=f'{folder}/',
        ann_file=next(folder.glob('*.pkl')).name,
        data_prefix=dict(pts='', sweeps='', **dict.fromkeys(CAMERAS, '')),
    )
    return pseudo_collate([DATASETS.build({**loader.dataset, **changes, 'seq_frame': 0})[0]])


def shrink(dataset):
    """Have the pipeline of a data set end in smaller images of the same section."""
    if dataset.get('data_aug_conf') is None:
        # Version 1 crops the images, and takes them as they are then.
        step = next(step for step in dataset.pipeline if step.type == 'CropMultiViewImage')
        top, bottom, left, right = step.crop_range
        size = bottom - top, right - left
        dataset.data_aug_conf = dict(
            H=size[0],
            W=size[1],
            final_dim=size,
            resize_lim=(1.0, 1.0),
            bot_pct_lim=(0.0, 0.0),
            rand_flip=False,
        )
        dataset.pipeline.insert(dataset.pipeline.index(step) + 1, dict(type='ResizeCropFlipImage'))
    changed = dataset.data_aug_conf
    height, width = changed.final_dim
    changed.final_dim = HEIGHT, width * HEIGHT // height
    changed.resize_lim = tuple(limit * HEIGHT / height for limit in changed.resize_lim)


@pytest.mark.parametrize('name', FULL)
def test_one_step_and_one_prediction(name, real_nuscenes):
    config = config_of(name)
    if name != FULL_SIZE:
        for loader in (config.train_dataloader, config.val_dataloader):
            shrink(loader.dataset)
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    for part, weight in model.img_backbone.named_parameters():
        if (
            'bn3.weight' in part
        ):  # zero without trained weights: nothing inside of the blocks would learn
            torch.nn.init.constant_(weight, 0.2)
    batch = frame_of(config.train_dataloader, real_nuscenes)
    truth = batch['data_samples'][0].gt_instances_3d
    assert len(truth) > 30 and truth.labels_3d.min() >= 0
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = model.train().train_step(batch, OptimWrapper(optimizer))
    assert all(torch.isfinite(value) for value in losses.values())
    assert {'loss_cls_5', 'loss_box_5'} <= losses.keys()
    assert ('loss_dense_depth' in losses) == (config.model.get('depth_branch') is not None)
    # Weight decay alone changes a weight; a bias whose gradient is zero stays.
    for (weight_name, weight), old in zip(model.named_parameters(), before):
        assert weight.isfinite().all()
        if weight.dim() > 1 or not weight.requires_grad:
            assert torch.equal(weight, old) != weight.requires_grad, weight_name

    batch = frame_of(config.val_dataloader, real_nuscenes)
    found = model.eval().test_step(batch)[0].pred_instances_3d
    assert len(found) == 300 and torch.isfinite(found.bboxes_3d.tensor).all()
    assert ('instances_id' in found) == ('v3' in name)
