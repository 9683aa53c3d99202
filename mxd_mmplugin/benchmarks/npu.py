"""One call of each operator at the size of a model on an NPU, for the profile of the software NPU.

mxd softnpu profile -m mxd_mmplugin.benchmarks.npu [OP...]
"""

import argparse
import math

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.bevfusion.view_transform import LSSTransform
from ..ops import (
    Rulebook,
    bev_pool_fused,
    bev_pool_plan,
    box_iou_rotated,
    build_rulebook,
    nms_rotated,
    sparse_max_pool,
    sparse_sum,
    sparse_to_dense,
    sparse_union,
    voxelization,
)
from ..ops import bev_pool as pool
from ..ops import circle_nms as suppress_near
from ..ops import deformable_aggregation as aggregate
from ..ops import dynamic_scatter as scatter
from ..ops import modulated_deform_conv2d as convolve_deformed
from ..ops import sparse_conv as convolve
from ..softnpu.roofline import DEVICE_BYTES_A_US
from .deformable_aggregation import make_inputs
from .inputs import GRID, cameras, voxels
from .inputs import points as lidar
from .npu_rows import Rows, lanes, name_of, products, traffic
from .rotated_iou import OPERATIONS
from .voxelize import VOXELS, sweep


def deformable_aggregation(rows: Rows) -> None:
    """Sparse4D's, forward and backward: an anchor is in the view of one camera, half of its points in the image."""
    inputs = make_inputs(900, everywhere=False)
    maps, spatial_shape, start, locations, weight = inputs
    _, anchors, points, cams, _ = locations.shape
    generator = torch.Generator().manual_seed(0)
    seen = torch.arange(anchors).view(-1, 1, 1) % cams == torch.arange(cams)
    inside = torch.rand(anchors, points, 1, 2, generator=generator) * 1.408 - 0.204
    locations = torch.where(seen[..., None], inside, -1.0)[None].requires_grad_()
    inputs = [tensor.to('npu') for tensor in (maps, spatial_shape, start, locations, weight)]
    with rows.measure('deformable_aggregation, 900 anchors, forward'):
        out = aggregate(*inputs)
    grad = torch.randn(out.shape, generator=generator).to(out.device)
    with rows.measure('deformable_aggregation, 900 anchors, backward'):
        out.backward(grad)


def _rulebook(indices: Tensor, batch_size: int, stride: int, subm: bool) -> Rulebook:
    kernel, strides, ones = ([size] * 3 for size in (3, stride, 1))
    return build_rulebook(indices, batch_size, GRID, kernel, strides, ones, ones, subm)


def sparse_conv_rulebook(rows: Rows) -> None:
    """Of a submanifold convolution and of one with stride 2, and its transpose, on about 80,000 voxels of a sweep."""
    indices, batch_size = voxels(80_000)
    sites = indices.to('npu')
    for name, stride, subm in ('SubM', 1, True), ('stride 2', 2, False):
        with rows.measure(f'rulebook {name} 3x3x3, {len(indices)} voxels') as row:
            book = _rulebook(sites, batch_size, stride, subm)
        row.work += f', {len(book.pairs)} pairs'
    with rows.measure('rulebook stride 2, transposed'):
        _ = book.transpose


def _convolve(
    rows: Rows, name: str, sites: Tensor, batch_size: int, channels: int, dtype: torch.dtype
) -> None:
    """A submanifold layer, kernel 3, as many channels out as in, forward and backward."""
    book = _rulebook(sites.to('npu'), batch_size, 1, subm=True)
    name = f'SubMConv3d {channels}->{channels}, {name_of(dtype)}, {name}'
    moved = (len(book.pairs) + len(sites)) * channels * dtype.itemsize
    bound = max(products(len(book.pairs) * channels**2, dtype), traffic(moved))
    features = torch.randn(len(sites), channels).to('npu', dtype).requires_grad_()
    weight = torch.randn(3, 3, 3, channels, channels) / (2 * math.sqrt(channels))
    weight = weight.to('npu', dtype).requires_grad_()
    with rows.measure(f'{name}, forward, and what the rulebook needs for it', bound):
        convolve(features, weight, None, book)
    with rows.measure(f'{name}, forward', bound):
        out = convolve(features, weight, None, book)
    grad = torch.randn(out.shape).to('npu', dtype)
    with rows.measure(f'{name}, backward', 2 * bound):
        out.backward(grad)


def sparse_conv(rows: Rows) -> None:
    """SubMConv3d 64->64 on 80,000 voxels of a sweep in order, forward and backward, float32 and float16."""
    indices, batch_size = voxels(80_000)
    for dtype in torch.float32, torch.float16:
        _convolve(rows, 'in order', indices.unique(dim=0), batch_size, 64, dtype)


def sparse_conv_narrow(rows: Rows) -> None:
    """SubMConv3d 16->16 in float16 on 80,000 voxels, forward and backward, as a sweep gives them and in order."""
    indices, batch_size = voxels(80_000)
    for name, sites in ('shuffled', indices), ('in order', indices.unique(dim=0)):
        _convolve(rows, name, sites, batch_size, 16, torch.float16)


def modulated_deform_conv(rows: Rows) -> None:
    """DCN v2 64->64, kernel 3, on 16 images of 100 x 200, forward and backward."""
    images, channels, points, height, width = 16, 64, 9, 100, 200
    taps = images * points * height * width
    generator = torch.Generator().manual_seed(0)
    for dtype in torch.float32, torch.float16:
        x, offset, mask, weight, bias = (
            torch.randn(*shape, generator=generator).to('npu', dtype).requires_grad_()
            for shape in (
                (images, channels, height, width),
                (images, 2 * points, height, width),
                (images, points, height, width),
                (channels, channels, 3, 3),
                (channels,),
            )
        )
        patches = traffic(4 * channels * taps * x.element_size())
        bound = max(patches, products(taps * channels**2, dtype))
        name = f'DCN v2 {channels}->{channels}, {name_of(dtype)}, {taps} taps'
        with rows.measure(f'{name}, forward', bound):
            out = convolve_deformed(x, offset, mask, weight, bias, padding=1)
        grad = torch.randn(out.shape, generator=generator).to('npu', dtype)
        with rows.measure(f'{name}, backward', 2 * bound):
            out.backward(grad)


def voxelize(rows: Rows) -> None:
    """CenterPoint's hard voxelization at 0.075 m, of one sweep and of 300,000 points."""
    for cloud in lidar(), sweep(300_000):
        points = cloud.npu()  # type: ignore[attr-defined]
        with rows.measure(f'hard voxelization, {len(points)} points') as row:
            found = voxelization(points, *VOXELS)
        row.work += f', {len(found[0])} voxels'
        moved = cloud.nbytes + sum(tensor.nbytes for tensor in found)
        row.bound = moved / DEVICE_BYTES_A_US


def bev_pool(rows: Rows) -> None:
    """A million points of 80 channels on 360 x 360 cells: plan, forward and backward."""
    points, channels, size = 1_000_000, 80, 360
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(size, (points, 4), generator=generator, dtype=torch.int32)
    coords[:, 2:] = 0
    coords = coords.to('npu')
    with rows.measure(f'bev_pool, {points} points, plan'):
        plan = bev_pool_plan(coords, 1, 1, size, size)
    feats = torch.randn(points, channels, generator=generator).to('npu').requires_grad_()
    # More than the L2 holds.
    bound = (points + size * size) * channels * 4 / DEVICE_BYTES_A_US
    with rows.measure(f'bev_pool, {points} points x {channels}, forward', bound):
        out = pool(feats, plan)
    grad = torch.randn(out.shape, generator=generator).to('npu')
    with rows.measure(f'bev_pool, {points} points x {channels}, backward', bound):
        out.backward(grad)


def bev_pool_lifted(rows: Rows) -> None:
    """BEVFusion's view transform, 6 x 118 x 88 x 32 points of 80 channels: fused, and pooling of the product."""
    channels, image, side = 80, (256, 704), [-54.0, 54.0, 0.3]
    high, deep = [-10.0, 10.0, 20.0], [1.0, 60.0, 0.5]
    transform = LSSTransform(1, channels, image, (32, 88), side, side, high, deep).to('npu')
    eyes = torch.eye(4).repeat(1, 6, 1, 1)
    intrinsics, camera2lidar = cameras(6, image)
    plan = transform.plan(camera2lidar, intrinsics, eyes, eyes[:, 0])
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(6, transform.D, 88, 32, generator=generator).softmax(1)
    context = torch.randn(6, 88, 32, channels, generator=generator)
    depth = depth.to('npu').requires_grad_()
    context = context.to('npu').requires_grad_()
    inside = int((plan.cells >= 0).sum())
    name = f'{inside} points inside of {depth.numel()} x {channels}'
    # A multiplication and addition of a row is a lane's work for each channel; backward two.
    bound = lanes(inside * channels)
    with rows.measure(f'bev_pool_fused, {name}, forward', bound):
        out = bev_pool_fused(depth, context, plan)
    grad = torch.randn(out.shape, generator=generator).to('npu')
    with rows.measure(f'bev_pool_fused, {name}, backward', 2 * bound):
        out.backward(grad)
    with rows.measure(f'product and bev_pool, {name}, forward', bound):
        out = pool((depth.unsqueeze(-1) * context.unsqueeze(1)).flatten(0, 3), plan)
    with rows.measure(f'product and bev_pool, {name}, backward', 2 * bound):
        out.backward(grad)


def dynamic_scatter(rows: Rows) -> None:
    """200,000 points of 64 channels in about 80,000 voxels, in the three ways."""
    points, channels = 200_000, 64
    generator = torch.Generator().manual_seed(0)
    coors = torch.randint(320, (points, 2), generator=generator, dtype=torch.int32).to('npu')
    feats = torch.randn(points, channels, generator=generator).to('npu').requires_grad_()
    for reduce_type in ('sum', 'mean', 'max'):
        name = f'dynamic_scatter {reduce_type}, {points} points x {channels}'
        with rows.measure(f'{name}, plan and forward') as row:
            out, _ = scatter(feats, coors, reduce_type)
        row.bound = traffic((points + len(out)) * channels * 4)
        grad = torch.randn(out.shape, generator=generator).to('npu')
        with rows.measure(f'{name}, backward', row.bound):
            out.backward(grad)


def sparse_pool(rows: Rows) -> None:
    """Max pooling, kernel 3, stride 2, of about 80,000 voxels of a sweep, 64 channels."""
    indices, batch_size = voxels(80_000)
    book = _rulebook(indices.to('npu'), batch_size, 2, subm=False)
    features = torch.randn(len(indices), 64).to('npu').requires_grad_()
    with rows.measure(f'sparse_max_pool, {len(book.pairs)} pairs x 64, forward') as row:
        out = sparse_max_pool(features, book)
    row.bound = traffic((len(book.pairs) + 2 * len(out)) * 64 * 4)
    grad = torch.randn(out.shape).to('npu')
    with rows.measure('sparse_max_pool, backward', row.bound):
        out.backward(grad)


def sparse_add(rows: Rows) -> None:
    """The sum of two sparse tensors of about 80,000 voxels each, 64 channels."""
    indices, batch_size = voxels(80_000)
    half = len(indices) // 2
    parts = [part.to('npu') for part in (indices[: half + 20_000], indices[half - 20_000 :])]
    with rows.measure(f'sparse_union, {" and ".join(str(len(part)) for part in parts)} voxels'):
        sites, places = sparse_union(parts, batch_size, GRID)
    features = [torch.randn(len(part), 64).to('npu').requires_grad_() for part in parts]
    bound = traffic((len(places) + len(sites)) * 64 * 4)
    with rows.measure(f'sparse_sum, {len(places)} rows x 64, forward', bound):
        out = sparse_sum(features, places, len(sites))
    grad = torch.randn(out.shape).to('npu')
    with rows.measure(f'sparse_sum, {len(places)} rows x 64, backward', bound):
        out.backward(grad)


def sparse_dense(rows: Rows) -> None:
    """The grid of CenterPoint's encoder, 128 channels on 2 x 180 x 180 cells, forward and backward: voxels in order."""
    indices, batch_size = voxels(80_000)
    sites = (indices // torch.tensor([1, 21, 8, 8])).unique(dim=0).int()
    for dtype in torch.float32, torch.float16:
        features = torch.randn(len(sites), 128).to('npu', dtype).requires_grad_()
        places = sites.to('npu')
        name = f'{name_of(dtype)}, {len(sites)} voxels x 128'
        with rows.measure(f'to_dense, {name}') as row:
            dense = sparse_to_dense(features, places, batch_size, [2, 180, 180])
        row.work += f' in {dense[:, 0].numel()} cells'
        row.bound = traffic((features.numel() + dense.numel()) * dense.element_size())
        grad = torch.ones_like(dense)
        with rows.measure(f'its gradient, {name}', row.bound):
            dense.backward(grad)


def rotated_iou(rows: Rows) -> None:
    """Overlaps of 200 x 60 boxes, as an assigner of BEVFusion asks, and NMS of 1,000 boxes, by overlap and distance.

    The bound is the operations of the pairs, in lanes of 64.
    """
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([54.0, 54.0, 4.0, 4.0, 6.0])
    boxes, others = (torch.rand(count, 5, generator=generator) * spread for count in (1000, 60))
    boxes, others = boxes.npu(), others.npu()  # type: ignore[attr-defined]
    scores = torch.rand(1000, generator=generator).npu()  # type: ignore[attr-defined]
    some, centers = boxes[:200].contiguous(), boxes[:, :2].contiguous()
    with rows.measure('box_iou_rotated, 200 x 60', lanes(12_000 * OPERATIONS)):
        box_iou_rotated(some, others)
    with rows.measure('nms_rotated, 1000 boxes', lanes(500_000 * OPERATIONS)):
        nms_rotated(boxes, scores, 0.2)
    with rows.measure('circle_nms, 1000 boxes'):
        suppress_near(centers, scores, 1.0)


OPS = {
    function.__name__: function
    for function in (
        deformable_aggregation,
        sparse_conv_rulebook,
        sparse_conv,
        sparse_conv_narrow,
        modulated_deform_conv,
        voxelize,
        bev_pool,
        bev_pool_lifted,
        dynamic_scatter,
        sparse_pool,
        sparse_add,
        sparse_dense,
        rotated_iou,
    )
}


def main() -> None:
    """Run the operators that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('op', nargs='*', help=f'which of {", ".join(OPS)}; all without')
    rows = Rows()
    for op in tqdm(parser.parse_args().op or OPS, unit='op'):
        OPS[op](rows)
    rows.print()


if __name__ == '__main__':
    main()
