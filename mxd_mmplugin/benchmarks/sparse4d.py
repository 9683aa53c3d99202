"""A training step of Sparse4D v3's head, beside the same head on `GridSampleAggregation`."""

from collections.abc import Iterator

import torch
from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..models import sparse4d  # noqa: F401, registers the model
from ..models.sparse4d.aggregation import flatten_maps
from ..models.sparse4d.box3d import Frame, Truth
from ..models.sparse4d.head import Sparse4DHead
from .case import Case
from .inputs import cameras

CAMERAS, OBJECTS, CLASSES = 6, 40, 10
FRAME = (256, 704)


def _head(anchors: int, layers: int, dims: int, aggregation: str) -> dict:
    """The config of v3's head; `anchors` learned instances, two thirds of them handed on."""
    states = torch.zeros(anchors, 11)
    states[:, :2] = torch.rand(anchors, 2) * 100 - 50
    states[:, 3:6] = torch.tensor([4.0, 2.0, 1.6]).log()
    states[:, 7] = 1
    places = [[0.0] * 3] + [
        [s * 0.45 * (i == k) for k in range(3)] for i in range(3) for s in (1, -1)
    ]
    points = dict(type='SparseBox3DKeyPointsGenerator', num_learnable_pts=6, fix_scale=places)
    attention = dict(type='MultiheadAttention', embed_dims=2 * dims, num_heads=8, batch_first=True)
    layer = ['temp_gnn', 'gnn', 'norm', 'deformable', 'ffn', 'norm', 'refine']
    return dict(
        type='Sparse4DHead',
        num_single_frame_decoder=1,
        operation_order=(layer * layers)[3:],
        instance_bank=dict(
            type='InstanceBank',
            num_anchor=anchors,
            embed_dims=dims,
            anchor=states.tolist(),
            anchor_handler=dict(type='SparseBox3DKeyPointsGenerator'),
            num_temp_instances=anchors * 2 // 3,
        ),
        anchor_encoder=dict(
            type='SparseBox3DEncoder',
            embed_dims=[dims // 2, dims // 8, dims // 8, dims // 4],
            mode='cat',
            output_fc=False,
        ),
        temp_graph_model=attention,
        graph_model=attention,
        norm_layer=dict(type='LN', normalized_shape=dims),
        ffn=dict(
            type='AsymmetricFFN',
            in_channels=2 * dims,
            pre_norm=dict(type='LN'),
            embed_dims=dims,
            feedforward_channels=4 * dims,
        ),
        deformable_model=dict(
            type='DeformableFeatureAggregation',
            embed_dims=dims,
            use_camera_embed=True,
            residual_mode='cat',
            kps_generator=points,
            aggregation=dict(type=aggregation),
        ),
        refine_layer=dict(
            type='SparseBox3DRefinementModule',
            embed_dims=dims,
            num_cls=CLASSES,
            refine_yaw=True,
            with_quality_estimation=True,
        ),
        sampler=dict(type='SparseBox3DTarget', num_dn_groups=5, num_temp_dn_groups=3),
        loss_cls=dict(type='mmdet.FocalLoss', loss_weight=2.0),
        loss_reg=dict(
            type='SparseBox3DLoss',
            loss_box=dict(type='mmdet.L1Loss', loss_weight=0.25),
            loss_centerness=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
            loss_yawness=dict(type='mmdet.GaussianFocalLoss'),
        ),
        decoder=dict(type='SparseBox3DDecoder'),
    )


def _frame() -> Frame:
    """Six cameras around a car."""
    height, width = FRAME
    intrinsics, camera2lidar = cameras(CAMERAS, FRAME)
    matrices = intrinsics @ camera2lidar.inverse()
    sizes = torch.tensor([width, height], dtype=torch.float32).expand(1, CAMERAS, 2)
    time, place = torch.zeros(1, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[None]
    return Frame(matrices, sizes, time, place)


def _truth() -> Truth:
    """Objects up to 50 m away."""
    boxes = torch.zeros(OBJECTS, 10)
    boxes[:, :2] = torch.rand(OBJECTS, 2) * 80 - 40
    boxes[:, 3:8] = torch.randn(OBJECTS, 5)
    return Truth([torch.arange(OBJECTS) % CLASSES], [boxes], [torch.arange(OBJECTS)])


def _cases(anchors: int, layers: int = 6, dims: int = 256) -> Iterator[Case]:
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    names = 'DeformableAggregation', 'GridSampleAggregation'
    heads = [MODELS.build(_head(anchors, layers, dims, name)).train() for name in names]
    heads[0].init_weights()
    heads[1].load_state_dict(heads[0].state_dict())
    sides = [(FRAME[0] // stride, FRAME[1] // stride) for stride in (4, 8, 16, 32)]
    maps = [torch.randn(1, CAMERAS, dims, *side, requires_grad=True) for side in sides]
    frame, truth = _frame(), _truth()

    def forward(head: Sparse4DHead) -> Tensor:
        torch.manual_seed(0)
        head.instance_bank.reset()
        flat = flatten_maps(maps)
        losses = head.loss(head(flat, frame, truth), truth, flat, frame)
        return sum(losses.values(), torch.zeros(()))

    def step(head: Sparse4DHead) -> None:
        forward(head).backward()
        head.zero_grad()
        for x in maps:
            x.grad = None

    ours, rival = heads
    loss = forward(ours).item()
    gap = abs(loss - forward(rival).item())
    if gap > 1e-3 * abs(loss):
        raise RuntimeError(f'the losses of the two models differ by {gap:.2g}')
    name = f'{layers} layers of {anchors} instances, {dims} channels, six images'
    for kind, call in ('forward', forward), ('forward and backward', step):
        with FlopCounterMode(display=False) as products:  # the aggregation itself is not among them
            call(ours)
        yield Case(
            name,
            kind,
            lambda call=call: call(ours),
            {'grid_sample': lambda call=call: call(rival)},
            flop=products.get_total_flops(),
            size=anchors,
        )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    if shapes == 'small':
        yield from _cases(90, layers=2, dims=64)
    elif shapes == 'model':
        yield from _cases(900)
    else:
        for anchors in (300, 900, 1800):
            yield from _cases(anchors)
