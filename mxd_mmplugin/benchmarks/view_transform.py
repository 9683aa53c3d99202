"""A step of BEVFusion's view transform, beside the same in plain PyTorch that computes all places in every step."""

from collections.abc import Iterator
from typing import Callable

import torch
from torch import Tensor

from ..models.bevfusion.view_transform import LSSTransform
from .bev_pool import index_add
from .case import Case
from .inputs import cameras


def plain(
    transform: LSSTransform,
    img: Tensor,
    intrinsics: Tensor,
    camera2lidar: Tensor,
    img_aug: Tensor,
    lidar_aug: Tensor,
) -> Tensor:
    """The paper's steps one after the other: a matrix for every point, a filter, a sum by `index_add_`.

    Returns:
        Tensor: [1, C, nx, ny], of a square grid of one cell in z.
    """
    shape = 1, -1, 1, 1, 1, 3, 3
    points = transform.frustum - img_aug[..., :3, 3].view(1, -1, 1, 1, 1, 3)
    points = torch.inverse(img_aug[..., :3, :3]).view(shape) @ points.unsqueeze(-1)
    points = torch.cat([points[..., :2, :] * points[..., 2:, :], points[..., 2:, :]], -2)
    turn = camera2lidar[..., :3, :3] @ torch.inverse(intrinsics[..., :3, :3])
    points = (turn.view(shape) @ points).squeeze(-1)
    points = points + camera2lidar[..., :3, 3].view(1, -1, 1, 1, 1, 3)
    points = (lidar_aug[:, :3, :3].view(1, 1, 1, 1, 1, 3, 3) @ points.unsqueeze(-1)).squeeze(-1)
    points = points + lidar_aug[:, :3, 3].view(1, 1, 1, 1, 1, 3)
    coords = ((points - (transform.bx - transform.dx / 2)) / transform.dx).long().flatten(0, -2)
    features = transform.depthnet(img.flatten(0, 1))
    weights, context = features[:, : transform.D].softmax(1), features[:, transform.D :]
    rows = (weights.unsqueeze(1) * context.unsqueeze(2)).permute(0, 2, 3, 4, 1)
    rows = rows.reshape(len(coords), -1)
    low_enough = coords[:, 2] == 0
    side = int(transform.nx[0])
    summed = index_add(rows[low_enough], coords[low_enough], side)
    return summed.view(1, side, side, -1)


def _step(
    image: tuple[int, int], feature: tuple[int, int], depth: float, channels: int, cell: float
) -> Iterator[Case]:
    side = [-54.0, 54.0, cell]
    transform = LSSTransform(
        64,
        channels,
        image,
        feature,
        xbound=side,
        ybound=side,
        zbound=[-10.0, 10.0, 20.0],
        dbound=[1.0, 60.0, depth],
    )
    intrinsics, camera2lidar = cameras(6, image)
    img_aug, lidar_aug = torch.eye(4).repeat(1, 6, 1, 1), torch.eye(4)[None]
    matrices = intrinsics, camera2lidar, img_aug, lidar_aug
    img = torch.randn(1, 6, 64, *feature)
    points = 6 * transform.D * feature[0] * feature[1]
    name = (
        f'{channels} channels on {int(transform.nx[0])} x {int(transform.nx[1])}, {points} points'
    )
    # Weights of the points, features of the pixels, and the map.
    cells = int(transform.nx[0]) * int(transform.nx[1])
    moved = 4.0 * (points + (points // transform.D + cells) * channels)

    def ours() -> Tensor:
        return transform(img, [], None, intrinsics, camera2lidar, img_aug, lidar_aug)

    def new_plan() -> Tensor:
        transform._plan_of = None
        return ours()

    def backward(forward: Callable[[], Tensor]) -> None:
        forward().sum().backward()
        transform.zero_grad()

    def rival() -> Tensor:
        return plain(transform, img, *matrices)

    inference = torch.no_grad()
    expected = inference(rival)()
    gap = (inference(ours)().permute(0, 2, 3, 1) - expected).abs().mean() / expected.abs().mean()
    if gap > 1e-2:  # points on the border of two cells may differ
        raise RuntimeError(f'the view transform and its rival differ by {gap:.2g}')
    rivals = {'plain PyTorch': inference(rival)}
    yield Case(
        name, 'forward, new calibration', inference(new_plan), rivals, bytes=moved, size=points
    )
    yield Case(name, 'forward', inference(ours), rivals, bytes=moved, size=points)
    yield Case(
        name,
        'forward and backward',
        lambda: backward(ours),
        {'plain PyTorch': lambda: backward(rival)},
        bytes=2 * moved,
        size=points,
    )


def cases(shapes: str) -> Iterator[Case]:
    """The cases of 'small', 'model' or 'large'.

    Yields:
        Case: one after the other, so that only one holds its inputs.
    """
    if shapes == 'small':
        yield from _step((64, 176), (8, 22), 3.0, 32, 1.2)
    elif shapes == 'model':
        yield from _step((256, 704), (32, 88), 0.5, 80, 0.3)
    else:
        for depth in (8.0, 2.0, 0.5):
            yield from _step((256, 704), (32, 88), depth, 80, 0.3)
