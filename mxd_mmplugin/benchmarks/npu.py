"""One call of each operator at the size of a model on an NPU, for the profile of the software NPU.

mxd softnpu profile -m mxd_mmplugin.benchmarks.npu [OP...]
"""

import argparse

import torch

from ..ops import deformable_aggregation as aggregate
from .deformable_aggregation import make_inputs


def deformable_aggregation() -> None:
    """Sparse4D's, forward and backward: an anchor is in the view of one camera, half of its points in the image."""
    inputs = make_inputs(900, everywhere=False)
    maps, spatial_shape, start, locations, weight = inputs
    _, anchors, points, cams, _ = locations.shape
    generator = torch.Generator().manual_seed(0)
    seen = torch.arange(anchors).view(-1, 1, 1) % cams == torch.arange(cams)
    inside = torch.rand(anchors, points, 1, 2, generator=generator) * 1.408 - 0.204
    locations = torch.where(seen[..., None], inside, -1.0)[None].requires_grad_()
    inputs = maps, spatial_shape, start, locations, weight
    out = aggregate(*(tensor.to('npu') for tensor in inputs))
    out.backward(torch.randn(out.shape, generator=generator).to(out.device))


OPS = {function.__name__: function for function in (deformable_aggregation,)}


def main() -> None:
    """Run the operators that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('op', nargs='*', help=f'which of {", ".join(OPS)}; all without')
    for op in parser.parse_args().op or OPS:
        OPS[op]()
    torch.npu.synchronize()


if __name__ == '__main__':
    main()
