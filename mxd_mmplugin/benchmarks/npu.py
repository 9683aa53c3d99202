"""One call of each operator at the size of a model on an NPU, for the profile of the software NPU.

mxd softnpu profile -m mxd_mmplugin.benchmarks.npu [OP...]
"""

import argparse

import torch
from torch import Tensor

from ..ops import Rulebook, build_rulebook, hard_voxelize
from ..ops import deformable_aggregation as aggregate
from ..ops import modulated_deform_conv2d as convolve_deformed
from ..ops import sparse_conv as convolve
from .deformable_aggregation import make_inputs
from .inputs import GRID, voxels
from .inputs import points as lidar
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
        found = hard_voxelize(cloud, *VOXELS)
        traffic = (
            cloud.nbytes + sum(tensor.nbytes for tensor in found)
        ) / MEMORY_BYTES_A_MICROSECOND
        print(
            f'hard voxelization: {len(cloud)} points, {len(found.voxels)} voxels, bound {traffic:.1f} us'
        )
        hard_voxelize(cloud.npu(), *VOXELS)


OPS = {
    function.__name__: function
    for function in (
        deformable_aggregation,
        sparse_conv_rulebook,
        sparse_conv,
        modulated_deform_conv,
        voxelize,
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
