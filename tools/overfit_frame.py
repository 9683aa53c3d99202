"""Train the model of a config on one annotated frame until it knows it: the quickest check of a whole stack.

The model is built as the config has it; only the data are replaced: one frame of an mmdet3d info file, with no
augmentation. Prints the loss, then predicts the frame and draws it from above beside its ground truth, and in its
images where the model sees them.

    python tools/overfit_frame.py CONFIG INFO.pkl --steps 200 --out work_dirs/one-frame
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import torch
from mmdet3d.registry import DATASETS, MODELS
from mmdet3d.structures import Det3DDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from tqdm import tqdm

from mxd_mmplugin.engine.bev import draw_bev
from mxd_mmplugin.engine.bev_hook import image_matrices
from mxd_mmplugin.engine.cameras import ORDER, camera_name, draw_cameras

CAMERAS = [f'CAM_{side}' for side in ORDER]
IMAGE_KEYS = ['img_path', 'lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix']


def image_steps(config: Config) -> list:
    """The transforms of a config's test pipeline that load the images and fit them; none for a LiDAR model."""
    return [step for step in config.test_pipeline if 'Image' in step['type']]


def load_frame(
    info_file: Union[str, Path],
    class_names: Sequence[str],
    point_cloud_range: Sequence[float],
    load_images: Sequence[dict] = (),
) -> dict:
    """The first frame of an mmdet3d info file, as a batch of one.

    Args:
        info_file (str or Path): mmdet3d info file (v1.1) beside the files that it names.
        class_names (Sequence[str]): classes in the order of the model's labels.
        point_cloud_range (Sequence[float]): x, y, z from, x, y, z to, metres.
        load_images (Sequence[dict]): transforms that load the images and fit them, see `image_steps`.

    Returns:
        dict: what a data loader hands to `model.data_preprocessor`.
    """
    info_file = Path(info_file)
    dataset = DATASETS.build(
        dict(
            type='NuScenesDataset',
            data_root=f'{info_file.parent}/',
            ann_file=info_file.name,
            data_prefix=dict(pts='', **dict.fromkeys(CAMERAS, '')),
            metainfo=dict(classes=class_names),
            use_valid_flag=False,
            modality=dict(use_lidar=True, use_camera=bool(load_images)),
            pipeline=[
                *load_images,
                dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
                dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
                dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
                dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
                dict(type='ObjectNameFilter', classes=class_names),
                dict(
                    type='Pack3DDetInputs',
                    keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
                    meta_keys=[
                        'box_type_3d',
                        'box_mode_3d',
                        'lidar_path',
                        'sample_idx',
                        *IMAGE_KEYS,
                    ],
                ),
            ],
        )
    )
    return pseudo_collate([dataset[0]])


def overfit(model: BaseModel, batch: dict, steps: int, lr: float = 1e-3) -> list:
    """Train on one batch with AdamW and a one-cycle schedule.

    Args:
        model (BaseModel): a detector of mmdet3d.
        batch (dict): from `load_frame`.
        steps (int): optimizer steps.
        lr (float): highest learning rate.

    Returns:
        list[float]: the total loss before each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=35, norm_type=2))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
    model.train()
    losses = []
    progress = tqdm(range(steps), desc='train', unit='step')
    for _ in progress:
        losses.append(model.train_step(batch, wrapper)['loss'].item())
        schedule.step()
        progress.set_postfix(loss=f'{losses[-1]:.3f}')
    return losses


@torch.no_grad()
def settle_norms(model: BaseModel, batch: dict) -> None:
    """Set the running statistics of every batch norm to those of the batch.

    The stock models average them over some thousand steps (momentum 0.01); a few hundred leave too
    much of the initial values in them to predict with.

    Args:
        model (BaseModel): a detector of mmdet3d.
        batch (dict): from `load_frame`.
    """
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what follows
    model.train()
    model(**model.data_preprocessor(batch, True), mode='loss')
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


@torch.no_grad()
def predict(model: BaseModel, batch: dict) -> Det3DDataSample:
    """Boxes of the batch's frame.

    Args:
        model (BaseModel): a detector of mmdet3d.
        batch (dict): from `load_frame`.

    Returns:
        Det3DDataSample: with `pred_instances_3d`.
    """
    return model.eval().test_step(batch)[0]


def main() -> None:
    """Parse the command line, train, predict and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='an mmdet3d config of a detector with LiDAR')
    parser.add_argument('info', help="mmdet3d info file; the frame's files lie beside it")
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/one-frame'))
    args = parser.parse_args()

    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    set_random_seed(args.seed)
    model = MODELS.build(config.model)
    batch = load_frame(args.info, config.class_names, config.point_cloud_range, image_steps(config))
    losses = overfit(model, batch, args.steps)
    print(f'loss {losses[0]:.3f} -> {losses[-1]:.3f} ({losses[-1] / losses[0]:.3f} of the first)')

    settle_norms(model, batch)
    found, truth = predict(model, batch).pred_instances_3d, batch['data_samples'][0].gt_instances_3d
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=model.state_dict(), losses=losses), args.out / 'model.pth')
    drawn = dict(
        gt_boxes=truth.bboxes_3d.tensor,
        gt_labels=truth.labels_3d,
        boxes=found.bboxes_3d.tensor,
        labels=found.labels_3d,
        scores=found.scores_3d,
        title=f'{Path(args.config).stem}: after {args.steps} steps on this frame',
    )
    points = batch['inputs']['points'][0]
    pictures = [draw_bev(args.out / 'bev.png', points, config.class_names, **drawn)]
    if 'img' in batch['inputs']:
        meta = batch['data_samples'][0].metainfo
        images = batch['inputs']['img'][0].permute(0, 2, 3, 1).numpy()
        names = [camera_name(path) for path in meta['img_path']]
        path = args.out / 'cameras.png'
        pictures.append(draw_cameras(path, images, image_matrices(meta), names, **drawn))
    print('pictures:', *pictures)
    print('model:   ', args.out / 'model.pth')


if __name__ == '__main__':
    main()
