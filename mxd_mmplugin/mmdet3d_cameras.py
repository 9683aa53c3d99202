"""Functions of mmdet3d that invert a small matrix are run on the host for npu tensors: CANN inverts on its AI CPU."""

import functools
import importlib
from typing import Any, Callable

from torch import Tensor

from .packages import is_installed

# The functions, and mmdet3d's modules that import each by its name.
MODULES = {
    'points_img2cam': (
        'mmdet3d.models.dense_heads.pgd_head',
        'mmdet3d.models.dense_heads.fcos_mono3d_head',
        'mmdet3d.models.layers.fusion_layers.point_fusion',
    ),
    'apply_3d_transformation': (
        'mmdet3d.models.layers.fusion_layers.point_fusion',
        'mmdet3d.models.layers.fusion_layers.vote_fusion',
    ),
}


_OURS: set[Callable] = set()


def on_host(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function whose first argument are a few points [N, 3], on the host where they are on an NPU. Differentiable."""

    @functools.wraps(function)
    def run(points: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(points, Tensor) or points.device.type in ('cpu', 'cuda'):
            return function(points, *args, **kwargs)
        rest = (item.cpu() if isinstance(item, Tensor) else item for item in args)
        return function(points.cpu(), *rest, **kwargs).to(points.device)

    return run


def serve_cameras() -> bool:
    """Exchange the functions in the modules.

    Returns:
        bool: whether mmdet3d is installed.
    """
    if not is_installed('mmdet3d'):
        return False
    for function, modules in MODULES.items():
        for name in modules:
            module = importlib.import_module(name)
            stock = getattr(module, function)
            if stock not in _OURS:
                ours = on_host(stock)
                _OURS.add(ours)
                setattr(module, function, ours)
    return True
