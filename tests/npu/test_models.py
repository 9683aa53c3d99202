"""Stock models on the NPU: losses, gradients and predictions as on the CPU."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mxd_mmplugin  # noqa: F401

pytestmark = pytest.mark.npu
CONFIGS = Path(find_spec('mmdet3d').origin).parent / '.mim' / 'configs'

# Stock configs, and numbers of theirs that are replaced so that the scene is some ten metres wide.
NUSCENES = {51.2: 6.4, 61.2: 7.0, 512: 64, 1024: 128}
KITTI = {70.4: 12.8, 69.12: 10.24, 40: 6.4, 39.68: 5.12, 1600: 256, 1408: 256, 496: 64, 432: 64}
MODELS = {
    'centerpoint pillar': (
        'centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
        NUSCENES,
    ),
    'centerpoint voxel': (
        'centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
        NUSCENES,
    ),
    'centerpoint dcn': (
        'centerpoint/centerpoint_voxel01_second_secfpn_head-dcn-circlenms_8xb4-cyclic-20e_nus-3d.py',
        NUSCENES,
    ),
    'pointpillars': ('pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py', KITTI),
    'pointpillars dynamic': (
        'dynamic_voxelization/pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car.py',
        KITTI,
    ),
    'second': ('second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py', KITTI),
    'second dynamic': (
        'dynamic_voxelization/second_dv_secfpn_8xb2-cosine-80e_kitti-3d-3class.py',
        KITTI,
    ),
}


def replace(value, numbers):
    if isinstance(value, dict):
        return {key: replace(item, numbers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace(item, numbers) for item in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) in numbers:
        return type(value)(numbers[abs(value)]) * (1 if value > 0 else -1)
    return value
