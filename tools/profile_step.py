"""One training step and one prediction of a config's model on a recorded frame, for the profile of the software NPU.

The model and the optimizer are the config's; only the data are replaced, and pretrained weights left out. A step before
it, which allocates the optimizer's state, is not recorded.

    mxd softnpu profile tools/profile_step.py CONFIG INFO.pkl [--amp]
"""

import argparse
import os
from pathlib import Path

import overfit_frame as frame
import torch
from from_scratch import from_scratch
from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

RECORD = 'MXD_SOFTNPU_PROFILE'


def load_batch(config: Config, info: Path) -> dict:
    """The frame as a batch of one, by the config's own data set where that has sequences."""
    dataset = config.train_dataloader.dataset
    if 'Track' not in dataset.type:
        images = frame.image_steps(config)
        return frame.load_frame(info, config.class_names, config.point_cloud_range, images)
    prefix = dict(pts='', sweeps='', **dict.fromkeys(frame.CAMERAS, ''))
    changes = dict(data_root=f'{info.parent}/', ann_file=info.name, data_prefix=prefix, seq_frame=0)
    return pseudo_collate([DATASETS.build({**dataset, **changes})[0]])


def main() -> None:
    """Parse the command line and run the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='an mmdet3d config')
    parser.add_argument(
        'info', type=Path, help="mmdet3d info file; the frame's files lie beside it"
    )
    parser.add_argument('--amp', action='store_true', help='in mixed precision, as tools/train.py')
    args = parser.parse_args()
    record = os.environ.pop(RECORD, None)

    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    set_random_seed(0)
    from_scratch(config.model)
    if args.amp:
        config.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    model = MODELS.build(config.model).to(get_device())
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    batch = load_batch(config, args.info)
    model.train()
    model.train_step(batch, optimizer)
    if record:
        os.environ[RECORD] = record
    losses = model.train_step(batch, optimizer)
    with torch.no_grad():
        model.eval().val_step(batch)
    print(f'loss {losses["loss"].item():.3f}')


if __name__ == '__main__':
    main()
