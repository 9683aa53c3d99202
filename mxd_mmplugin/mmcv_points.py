"""Functions of mmcv for points that ask `torch.cuda` serve CPU and npu tensors.

mmcv takes the tensors that `furthest_point_sample` writes from `torch.cuda`, and `knn`, `points_in_boxes_part` and
`points_in_boxes_all` ask it for the current GPU. Tensors on a GPU go on to mmcv's own code.
"""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .packages import is_installed


class _WithoutGPU(ModuleType):
    """`torch` with a `torch.cuda` of no GPU: the current device is that of CPU tensors, and none is chosen."""

    cuda = SimpleNamespace(current_device=lambda: -1, set_device=lambda device: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# mmcv's modules that get such a `torch` where there is no GPU.
ASKING_MODULES = ('mmcv.ops.knn', 'mmcv.ops.points_in_boxes')


def _furthest_point_sample(ctx: Any, points_xyz: Tensor, num_points: int) -> Tensor:
    """`FurthestPointSampling.forward` of mmcv, on the device of the points."""
    if points_xyz.device.type == 'cuda':  # is_cuda answers for NPUs too under transfer_to_npu
        return _MMCVS['forward'](ctx, points_xyz, num_points)
    import mmcv._ext as extension

    assert points_xyz.is_contiguous()
    batches, count = points_xyz.shape[:2]
    sampled = points_xyz.new_zeros((batches, num_points), dtype=torch.int32)
    distance = points_xyz.new_full((batches, count), 1e10, dtype=torch.float32)
    extension.furthest_point_sampling_forward(
        points_xyz, distance, sampled, b=batches, n=count, m=num_points
    )
    ctx.mark_non_differentiable(sampled)
    return sampled


_MMCVS: dict[str, Any] = {}


def serve_points() -> bool:
    """Exchange what asks for a GPU.

    Returns:
        bool: whether mmcv is installed with its operators.
    """
    if not is_installed('mmcv._ext'):
        return False
    sampling = importlib.import_module('mmcv.ops.furthest_point_sample').FurthestPointSampling
    if not _MMCVS:
        _MMCVS['forward'] = sampling.forward
        sampling.forward = staticmethod(_furthest_point_sample)
        if not torch.cuda.is_available():
            for name in ASKING_MODULES:
                importlib.import_module(name).torch = _WithoutGPU('torch')  # type: ignore[attr-defined]
    return True
