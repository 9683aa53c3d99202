"""mmdet3d's FCAF3D, which is written in MinkowskiEngine's layers, gets those of `mxd_mmplugin.minkowski`."""

import importlib

from .packages import is_installed

# mmdet3d's modules that import MinkowskiEngine when they are imported, and go on without it.
ASKING_MODULES = (
    'mmdet3d.models.backbones.mink_resnet',
    'mmdet3d.models.dense_heads.fcaf3d_head',
    'mmdet3d.models.detectors.mink_single_stage',
)


def serve_minkowski() -> bool:
    """Fill in what the modules did not find.

    Returns:
        bool: whether mmdet3d is installed and MinkowskiEngine is not.
    """
    if not is_installed('mmdet3d') or is_installed('MinkowskiEngine'):
        return False
    from . import minkowski

    for name in ASKING_MODULES:
        importlib.import_module(name).ME = minkowski  # type: ignore[attr-defined]
    from mmdet3d.models.backbones import MinkResNet

    MinkResNet.arch_settings = {
        depth: (minkowski.BasicBlock if depth < 50 else minkowski.Bottleneck, blocks)
        for depth, (_, blocks) in MinkResNet.arch_settings.items()
    }
    return True
