"""What a training step of CenterPoint does after its network, beside mmdet3d's `CenterHead`: targets and losses."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from mmdet3d.models.dense_heads import CenterHead as StockCenterHead
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

from ..models.centerpoint import CenterHead
from .case import Case
from .inputs import GRID, RANGE, VOXEL_SIZE

# Of nuScenes, as the stock configs have them.
TASKS = (1, 2, 2, 1, 2, 2)
PARTS = dict(reg=2, height=1, dim=3, rot=2, vel=2)
STRIDE = 8


def _arguments(cells: int) -> dict:
    """The arguments of a head whose maps have `cells` rows and columns."""
    names = iter(range(sum(TASKS)))
    grid = dict(out_size_factor=STRIDE, voxel_size=VOXEL_SIZE, point_cloud_range=RANGE)
    train_cfg = dict(
        grid,
        grid_size=[cells * STRIDE, cells * STRIDE, GRID[0]],
        dense_reg=1,
        gaussian_overlap=0.1,
        max_objs=500,
        min_radius=2,
        code_weights=[1.0] * 8 + [0.2] * 2,
    )
    return dict(
        in_channels=4,
        share_conv_channel=4,
        tasks=[dict(num_class=n, class_names=[next(names) for _ in range(n)]) for n in TASKS],
        common_heads={part: (size, 2) for part, size in PARTS.items()},
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            pc_range=RANGE[:2],
            out_size_factor=STRIDE,
            voxel_size=VOXEL_SIZE[:2],
            code_size=9,
        ),
        separate_head=dict(type='SeparateHead', init_bias=-2.19, final_kernel=3),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        train_cfg=ConfigDict(train_cfg),
        norm_bbox=True,
    )


def _truth(samples: int, objects: int, cells: int) -> list[InstanceData]:
    """Boxes at random places of the maps."""
    side = cells * STRIDE * VOXEL_SIZE[0]
    batch = []
    for _ in range(samples):
        boxes = torch.rand(objects, 9)
        boxes[:, :2] = boxes[:, :2] * side + RANGE[0]
        boxes[:, 3:6] = boxes[:, 3:6] * 5 + 0.5
        labels = torch.randint(0, sum(TASKS), (objects,))
        batch.append(InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, 9), labels_3d=labels))
    return batch


def _tensors(targets: tuple) -> list[Tensor]:
    return list(chain.from_iterable(targets))


def _cases(samples: int, objects: int, cells: int) -> Iterator[Case]:
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    arguments = _arguments(cells)
    ours, theirs = (cls(**arguments) for cls in (CenterHead, StockCenterHead))
    truth = _truth(samples, objects, cells)
    shape = f'{samples} samples, {objects} boxes each, maps {cells} x {cells}'

    targets = _tensors(ours.get_targets(truth))
    expected = _tensors(theirs.get_targets(truth))
    if not all(map(torch.equal, targets, expected)):
        raise RuntimeError('the targets of the two heads differ')
    moved = sum(x.nbytes for x in targets)
    rival = {'mmdet3d': lambda: theirs.get_targets(truth)}
    yield Case(
        f'targets, {shape}',
        'forward',
        lambda: ours.get_targets(truth),
        rival,
        bytes=moved,
        size=objects,
    )

    maps = [
        {
            part: torch.randn(samples, size, cells, cells, requires_grad=True)
            for part, size in dict(PARTS, heatmap=count).items()
        }
        for count in TASKS
    ]
    leaves = [leaf for part in maps for leaf in part.values()]

    def losses(head: StockCenterHead) -> Sequence[Tensor]:
        """Losses and gradients, of copies: a head writes into the dictionaries that it is given."""
        found = head.loss_by_feat(tuple([dict(part)] for part in maps), truth)
        total = sum(found.values(), torch.zeros(()))
        return [*found.values(), *torch.autograd.grad(total, leaves, allow_unused=True)]

    for found, wanted in zip(losses(ours), losses(theirs)):
        if not torch.equal(found, wanted):
            raise RuntimeError('the losses of the two heads differ')
    yield Case(
        f'targets and losses, {shape}',
        'forward and backward',
        lambda: losses(ours),
        {'mmdet3d': lambda: losses(theirs)},
        bytes=moved + 2 * sum(leaf.nbytes for leaf in leaves),
        size=objects,
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    if shapes == 'small':
        yield from _cases(2, 10, 32)
    else:
        for objects in (50,) if shapes == 'model' else (0, 50, 500):
            yield from _cases(4, objects, GRID[1] // STRIDE)
