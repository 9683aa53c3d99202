"""Everything that importing the package changes in other packages; `mxd doctor` lists it."""

from dataclasses import dataclass
from functools import cache
from typing import Callable

from .bevfusion_ops import serve_project
from .compat import allow_mmengine_checkpoints
from .mmcv_boxes import serve_boxes
from .mmcv_points import serve_points
from .mmcv_sparse import serve_sparse
from .modules.modulated_deform_conv import upgrade_old_checkpoints
from .modules.sparse_modules import (
    convert_norms_of_sparse_tensors,
    let_all_parameters_take_part,
)
from .ops.library import fill_mmcv_registry, load_mmcv_registry
from .registry import cuda_serves, register


@dataclass(frozen=True)
class Effect:
    """A change in another package.

    Attributes:
        target: what is changed.
        change: how.
        apply: makes the change; returns whether there was something to do on this machine.
    """

    target: str
    change: str
    apply: Callable[[], bool]


def _serve_project() -> bool:
    return not cuda_serves() and serve_project()


EFFECTS = (
    Effect('registries of mmengine and mmdet3d', 'the names in the table above', register),
    Effect(
        "mmcv's C++ registry",
        'CPU tensors are served where mmcv has GPU code alone: point sets, points in boxes, pooling by RoI',
        lambda: bool(fill_mmcv_registry()),
    ),
    Effect(
        'mmcv.ops: furthest_point_sample, knn, points_in_boxes_part, points_in_boxes_all',
        'CPU and npu tensors need no torch.cuda',
        serve_points,
    ),
    Effect(
        "mmcv's C++ registry, mmcv._ext.nms_rotated and nms_quadri",
        'npu tensors are served where mmcv was built without FORCE_NPU',
        load_mmcv_registry,
    ),
    Effect(
        "mmcv._ext's functions of rotated boxes",
        'CPU tensors are served by our operators, also where mmcv has none for them',
        serve_boxes,
    ),
    Effect(
        "mmcv._ext's functions of sparse convolution and pooling",
        "mmcv's own sparse layers, which some models import by name, run on our operators without a GPU",
        serve_sparse,
    ),
    Effect(
        'sys.modules',
        "projects.BEVFusion.bevfusion.ops, mmdet3d's project, runs on our operators",
        _serve_project,
    ),
    Effect(
        'torch.nn.Module',
        'a module that gets a DCN layer reads the offsets of old checkpoints',
        upgrade_old_checkpoints,
    ),
    Effect(
        'torch.nn.Module',
        'a converted SparseBatchNorm (SyncBN) goes on to take sparse tensors',
        convert_norms_of_sparse_tensors,
    ),
    Effect(
        "mmcv's and spconv's SparseSequential",
        'without voxels all parameters have a gradient, which distributed training waits for',
        lambda: not cuda_serves() and let_all_parameters_take_part(),
    ),
    Effect(
        'torch.serialization',
        "torch.load(weights_only=True) reads the checkpoints of mmengine's Runner",
        allow_mmengine_checkpoints,
    ),
)


@cache
def activate() -> dict[Effect, bool]:
    """Make every change; again does nothing.

    Returns:
        dict[Effect, bool]: each change, and whether it was made on this machine.
    """
    return {effect: effect.apply() for effect in EFFECTS}
