"""One call of each operator at the size of a model on an NPU, for the profile of the software NPU.

mxd softnpu profile -m mxd_mmplugin.benchmarks.npu [OP...]
"""

import argparse

import torch
from torch import Tensor

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
from .deformable_aggregation import make_inputs
from .inputs import GRID, cameras, voxels
from .inputs import points as lidar
from .rotated_iou import OPERATIONS
from .voxelize import VOXELS, sweep

# Of an Ascend910B3: of device memory, bytes a microsecond.
MEMORY_BYTES_A_MICROSECOND = 1.6e6
# Bytes a cycle are those that a core reads from the L2.
CUBE_CORES, VECTOR_CORES, CYCLES_A_MICROSECOND, L2_BYTES_A_CYCLE = 20, 40, 1800, 110


def deformable_aggregation() -> None:
    """Sparse4D's, forward and backward: an anchor is in the view of one camera, half of its points in the image."""
    inputs = make_inputs(900, everywhere=False)
    maps, spatial_shape, start, locations, weight = inputs
    _, anchors, points, cams, _ = locations.shape
    generator = torch.Generator().manual_seed(0)
    seen = torch.arange(anchors).view(-1, 1, 1) % cams == torch.arange(cams)
    inside = torch.rand(anchors, points, 1, 2, generator=generator) * 1.408 - 0.204
    locations = torch.where(seen[..., None], inside, -1.0)[None].requires_grad_()
    inputs = [maps, spatial_shape, start, locations, weight]
    out = aggregate(*(tensor.to('npu') for tensor in inputs))
    out.backward(torch.randn(out.shape, generator=generator).to(out.device))


def _rulebook(indices: Tensor, batch_size: int, stride: int, subm: bool) -> Rulebook:
    kernel, strides, ones = ([size] * 3 for size in (3, stride, 1))
    return build_rulebook(indices, batch_size, GRID, kernel, strides, ones, ones, subm)


def sparse_conv_rulebook() -> None:
    """Of a submanifold convolution and of one with stride 2, and its transpose, on about 80,000 voxels of a sweep."""
    indices, batch_size = voxels(80_000)
    for stride, subm in ((1, True), (2, False)):
        book = _rulebook(indices.to('npu'), batch_size, stride, subm)
    _ = book.transpose


def sparse_conv() -> None:
    """SubMConv3d 64->64 on 80,000 voxels of a sweep in order, forward and backward, float32 and float16."""
    indices, batch_size = voxels(80_000)
    indices = indices.unique(dim=0).to('npu')
    book = _rulebook(indices, batch_size, 1, subm=True)
    multiplies = len(book.pairs) * 64 * 64
    for dtype, rate in (torch.float32, 1024), (torch.float16, 4096):
        bound = multiplies / rate / CUBE_CORES / CYCLES_A_MICROSECOND
        print(
            f'SubMConv3d 64->64, {dtype}: {len(indices)} voxels, {len(book.pairs)} pairs, bound {bound:.1f} us'
        )
        features = torch.randn(len(indices), 64).to('npu', dtype).requires_grad_()
        weight = (torch.randn(3, 3, 3, 64, 64) / 16).to('npu', dtype).requires_grad_()
        convolve(features, weight, None, book).sum().backward()


def sparse_conv_narrow() -> None:
    """SubMConv3d 16->16 in float16 on 80,000 voxels, forward and backward, as a sweep gives them and in order."""
    indices, batch_size = voxels(80_000)
    for rows in indices, indices.unique(dim=0):
        book = _rulebook(rows.to('npu'), batch_size, 1, subm=True)
        features = torch.randn(len(rows), 16).to('npu', torch.float16).requires_grad_()
        weight = (torch.randn(3, 3, 3, 16, 16) / 8).to('npu', torch.float16).requires_grad_()
        convolve(features, weight, None, book).sum().backward()


def modulated_deform_conv() -> None:
    """DCN v2 64->64, kernel 3, on 4 images of 100 x 200, forward and backward; 16 images are four launches of it."""
    images, channels, points, height, width = 4, 64, 9, 100, 200
    taps = images * points * height * width
    generator = torch.Generator().manual_seed(0)
    for dtype, rate in (torch.float32, 1024), (torch.float16, 4096):
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
        patches = 4 * channels * taps * x.element_size()
        traffic = patches / L2_BYTES_A_CYCLE / VECTOR_CORES / CYCLES_A_MICROSECOND
        product = taps * channels * channels / rate / CUBE_CORES / CYCLES_A_MICROSECOND
        print(
            f'DCN v2 64->64, {dtype}: {taps} taps, bound {max(traffic, product):.0f} us forward, '
            f'{max(2 * traffic, 2 * product):.0f} us backward'
        )
        out = convolve_deformed(x, offset, mask, weight, bias, padding=1)
        out.backward(torch.randn(out.shape, generator=generator).to('npu', dtype))


def voxelize() -> None:
    """CenterPoint's hard voxelization at 0.075 m, of one sweep and of 300,000 points."""
    for cloud in lidar(), sweep(300_000):
        found = voxelization(cloud, *VOXELS)
        traffic = (
            cloud.nbytes + sum(tensor.nbytes for tensor in found)
        ) / MEMORY_BYTES_A_MICROSECOND
        print(
            f'hard voxelization: {len(cloud)} points, {len(found[0])} voxels, bound {traffic:.1f} us'
        )
        voxelization(cloud.npu(), *VOXELS)  # type: ignore[attr-defined]


def _print_traffic(name: str, moved: int) -> None:
    """The bound of work that moves so many bytes between the L2 and all cores."""
    bound = moved / L2_BYTES_A_CYCLE / VECTOR_CORES / CYCLES_A_MICROSECOND
    print(f'{name}: bound {bound:.1f} us')


def bev_pool() -> None:
    """A million points of 80 channels on 360 x 360 cells: plan, forward and backward."""
    points, channels, size = 1_000_000, 80, 360
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(size, (points, 4), generator=generator, dtype=torch.int32)
    coords[:, 2:] = 0
    plan = bev_pool_plan(coords.to('npu'), 1, 1, size, size)
    feats = torch.randn(points, channels, generator=generator).to('npu').requires_grad_()
    # More than the L2 holds: from device memory, 1.6 TB/s.
    bound = (points + size * size) * channels * 4 / 1.6e6
    print(f'bev_pool: {points} points x {channels}, bound {bound:.0f} us')
    pool(feats, plan).sum().backward()


def bev_pool_lifted() -> None:
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
    # A multiplication and addition of a row is a lane's work for each channel; backward two.
    bound = inside * channels / 64 / VECTOR_CORES / CYCLES_A_MICROSECOND
    print(
        f'bev_pool_fused: {inside} points inside of {depth.numel()} x {channels}, '
        f'bound {bound:.0f} us forward, {2 * bound:.0f} us backward'
    )
    bev_pool_fused(depth, context, plan).sum().backward()
    pool((depth.unsqueeze(-1) * context.unsqueeze(1)).flatten(0, 3), plan).sum().backward()


def dynamic_scatter() -> None:
    """200,000 points of 64 channels in about 80,000 voxels, in the three ways."""
    points, channels = 200_000, 64
    generator = torch.Generator().manual_seed(0)
    coors = torch.randint(320, (points, 2), generator=generator, dtype=torch.int32).to('npu')
    feats = torch.randn(points, channels, generator=generator).to('npu').requires_grad_()
    for reduce_type in ('sum', 'mean', 'max'):
        out, _ = scatter(feats, coors, reduce_type)
        _print_traffic(f'dynamic_scatter {reduce_type}', (points + len(out)) * channels * 4)
        out.sum().backward()


def sparse_pool() -> None:
    """Max pooling, kernel 3, stride 2, of about 80,000 voxels of a sweep, 64 channels."""
    indices, batch_size = voxels(80_000)
    book = _rulebook(indices.to('npu'), batch_size, 2, subm=False)
    features = torch.randn(len(indices), 64).to('npu').requires_grad_()
    out = sparse_max_pool(features, book)
    _print_traffic('sparse_max_pool', (len(book.pairs) + 2 * len(out)) * 64 * 4)
    out.sum().backward()


def sparse_add() -> None:
    """The sum of two sparse tensors of about 80,000 voxels each, 64 channels."""
    indices, batch_size = voxels(80_000)
    half = len(indices) // 2
    parts = [indices[: half + 20_000], indices[half - 20_000 :]]
    sites, rows = sparse_union([part.to('npu') for part in parts], batch_size, GRID)
    features = [torch.randn(len(part), 64).to('npu').requires_grad_() for part in parts]
    _print_traffic('sparse_sum', (len(rows) + len(sites)) * 64 * 4)
    sparse_sum(features, rows, len(sites)).sum().backward()


def sparse_dense() -> None:
    """The grid of CenterPoint's encoder, 128 channels on 2 x 180 x 180 cells, forward and backward: voxels in order."""
    indices, batch_size = voxels(80_000)
    sites = (indices // torch.tensor([1, 21, 8, 8])).unique(dim=0).int()
    for dtype in torch.float32, torch.float16:
        features = torch.randn(len(sites), 128).to('npu', dtype).requires_grad_()
        dense = sparse_to_dense(features, sites.to('npu'), batch_size, [2, 180, 180])
        moved = (features.numel() + dense.numel()) * dense.element_size()
        _print_traffic(
            f'dense grid, {dtype}: {len(sites)} voxels in {dense[:, 0].numel()} cells', moved
        )
        dense.backward(torch.ones_like(dense))


def rotated_iou() -> None:
    """Overlaps of 200 x 60 boxes, as an assigner of BEVFusion asks, and NMS of 1,000 boxes, by overlap and distance.

    The bound is the operations of the pairs, in lanes of 64.
    """
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([54.0, 54.0, 4.0, 4.0, 6.0])
    boxes, others = (torch.rand(count, 5, generator=generator) * spread for count in (1000, 60))
    for name, pairs in ('IoU of 200 x 60', 12_000), ('NMS of 1,000', 500_000):
        bound = pairs * OPERATIONS / 64 / VECTOR_CORES / CYCLES_A_MICROSECOND
        print(f'{name} rotated boxes: bound {bound:.2f} us')
    boxes, others = boxes.npu(), others.npu()  # type: ignore[attr-defined]
    scores = torch.rand(1000, generator=generator).npu()  # type: ignore[attr-defined]
    box_iou_rotated(boxes[:200], others)
    nms_rotated(boxes, scores, 0.2)
    suppress_near(boxes[:, :2], scores, 1.0)


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
    for op in parser.parse_args().op or OPS:
        OPS[op]()
    torch.npu.synchronize()  # type: ignore[attr-defined]


if __name__ == '__main__':
    main()
