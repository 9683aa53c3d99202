r"""Train the model of a stock config of mmdet3d on one frame until it knows it, and draw what it then sees in it.

What `overfit_frame.py` does for configs on nuScenes, for those on KITTI and SemanticKITTI with a recorded frame of
KITTI, and for any config with a generated frame (`zoo_inputs.py`). KITTI has no labels of points: those in a box of a
car are the car, low ones are the road, all others are vegetation.

    python tools/overfit_stock.py pv_rcnn/pv_rcnn_8xb2-80e_kitti-3d-3class --frame kitti/000008.pkl --steps 100 \
        --cfg-options model.train_cfg.rcnn.sampler.num=16    # boxes of the second stage: a sixth of the time
    python tools/overfit_stock.py votenet/votenet_8xb8_scannet-3d --steps 100
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from from_scratch import from_scratch
from matplotlib.figure import Figure
from mmdet3d.registry import MODELS
from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import InstanceData
from overfit_frame import overfit, settle_norms
from zoo import CONFIGS
from zoo_inputs import class_names, make_batch

from mxd_mmplugin.engine.bev import PALETTE, draw_bev

ROAD = -1.5  # metres: what is lower is the road, in the frame of KITTI's LiDAR


def is_segmentation(sample: Det3DDataSample) -> bool:
    """Whether a sample has labels of points and no boxes."""
    return 'bboxes_3d' not in sample.gt_instances_3d


def recorded(batch: dict, info_file: Path, config: Config) -> None:
    """Put the points and the labels of KITTI's frame in place of the generated ones.

    Args:
        batch (dict): from `make_batch`, of one sample.
        info_file (Path): mmdet3d info file of KITTI, beside the files that it names.
        config (Config): of a detector or a segmentation.
    """
    with open(info_file, 'rb') as file:
        info = pickle.load(file)['data_list'][0]
    path = info_file.parent / info['lidar_points']['lidar_path']
    points = torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))
    truth = [found for found in info['instances'] if found['bbox_label_3d'] >= 0]
    to_camera = torch.tensor(info['images']['CAM2']['lidar2cam'])
    boxes = CameraInstance3DBoxes(torch.tensor([found['bbox_3d'] for found in truth]))
    boxes = boxes.convert_to(0, to_camera.inverse().numpy())
    sample, names = batch['data_samples'][0], class_names(config)
    if is_segmentation(sample):
        inside = boxes.points_in_boxes_part(points[:, :3]) >= 0
        road, rest = names.index('road'), names.index('vegetation')
        labels = torch.where(points[:, 2] < ROAD, road, rest)
        sample.gt_pts_seg.pts_semantic_mask = torch.where(inside, names.index('car'), labels)
        batch['inputs']['points'] = [points]
        return
    limits = torch.tensor(config.point_cloud_range)
    in_range = boxes.in_range_3d(limits)
    known = [['Pedestrian', 'Cyclist', 'Car'][found['bbox_label_3d']] for found in truth]
    labels = torch.tensor([names.index(name) if name in names else -1 for name in known])
    kept = in_range & (labels >= 0)
    sample.gt_instances_3d = InstanceData(bboxes_3d=boxes[kept], labels_3d=labels[kept])
    inside = ((points[:, :3] > limits[:3]) & (points[:, :3] < limits[3:])).all(1)
    batch['inputs']['points'] = [points[inside]]


@torch.no_grad()
def draw(path: Path, model: BaseModel, batch: dict, names: Sequence[str], title: str) -> str:
    """Draw the first sample's truth and prediction from above.

    Returns:
        str: how well the model knows it.
    """
    found, truth = model.eval().test_step(batch)[0], batch['data_samples'][0]
    points = batch['inputs']['points'][0].cpu()
    low, high = points[:, :2].amin(0), points[:, :2].amax(0)
    if is_segmentation(truth):
        labels = truth.gt_pts_seg.pts_semantic_mask.cpu().numpy()
        seen = found.pred_pts_seg.pts_semantic_mask.cpu().numpy()
        figure = Figure(figsize=(16, 8), dpi=100, layout='constrained')
        there = np.unique(np.concatenate([labels, seen]))
        for axes, part, name in zip(figure.subplots(1, 2), (labels, seen), ('label', 'predicted')):
            for place, label in enumerate(there):
                mine = points[part == label]
                color = PALETTE[place % len(PALETTE)]
                axes.plot(mine[:, 0], mine[:, 1], '.', ms=1, color=color, label=names[label])
            axes.set(title=name, aspect='equal')
            axes.legend(markerscale=10)
        figure.suptitle(title)
        figure.savefig(path)
        return f'{(labels == seen).mean():.1%} of the points have their label'
    boxes = found.pred_instances_3d
    draw_bev(
        path,
        points,
        names,
        gt_boxes=truth.gt_instances_3d.bboxes_3d.tensor.cpu(),
        gt_labels=truth.gt_instances_3d.labels_3d.cpu(),
        boxes=boxes.bboxes_3d.tensor.cpu(),
        labels=boxes.labels_3d.cpu(),
        scores=boxes.scores_3d.cpu(),
        view_range=(*low.tolist(), *high.tolist()),
        title=title,
    )
    sure = int((boxes.scores_3d > 0.3).sum())
    return f'{sure} boxes with a score above 0.3, {len(truth.gt_instances_3d)} are there'


def main() -> None:
    """Parse the command line, train, predict and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of a config among the stock ones, without .py')
    parser.add_argument('--frame', type=Path, help="mmdet3d info file of KITTI's frame")
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--lr', type=float, default=1e-3, help='highest learning rate')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/one-frame'))
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help="KEY=VALUE in place of the config's"
    )
    args = parser.parse_args()

    config = Config.fromfile(CONFIGS / f'{args.config}.py')
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    set_random_seed(0)
    batch = make_batch(config)
    if args.frame:
        recorded(batch, args.frame, config)
    from_scratch(config.model)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    MMLogger.get_instance('overfit_stock', log_level='WARNING')  # or each parameter is told of
    model.init_weights()  # the biases of heads, without which focal losses begin at some thousands
    model = model.to(get_device())
    losses = overfit(model, batch, args.steps, args.lr)
    print(f'loss {losses[0]:.3f} -> {losses[-1]:.3f} ({losses[-1] / losses[0]:.3f} of the first)')

    settle_norms(model, batch)
    args.out.mkdir(parents=True, exist_ok=True)
    name = Path(args.config).name
    picture = args.out / f'{name}.png'
    title = f'{name}, after {args.steps} steps on this frame'
    print(draw(picture, model, batch, class_names(config), title))
    print('picture:', picture)


if __name__ == '__main__':
    main()
