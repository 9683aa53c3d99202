"""BEVFusion under the names of mmdet3d's project: `custom_imports = dict(imports=['mxd_mmplugin',
'mxd_mmplugin.models.bevfusion'])`.

Papers: Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation" (arXiv
2205.13542); Bai et al., "TransFusion: Robust LiDAR-Camera Fusion for 3D Object Detection with Transformers" (arXiv
2203.11496); Philion and Fidler, "Lift, Splat, Shoot" (arXiv 2008.05711).
"""

from mmdet3d.registry import MODELS, TASK_UTILS, TRANSFORMS

from ...datasets.multi_view import BEVLoadMultiViewImageFromFiles, GridMask
from ...registry import register_classes
from .assigner import BBoxBEVL1Cost, HeuristicAssigner3D, HungarianAssigner3D, IoU3DCost
from .box_coder import TransFusionBBoxCoder
from .detector import BEVFusion
from .head import TransFusionHead
from .layers import (
    BEVFusionSparseEncoder,
    ConvFuser,
    GeneralizedLSSFPN,
    TransformerDecoderLayer,
)
from .transforms import (
    BEVFusionGlobalRotScaleTrans,
    BEVFusionRandomFlip3D,
    ImageAug3D,
)
from .view_transform import DepthLSSTransform, LSSTransform

_CLASSES = {
    MODELS: (
        BEVFusion,
        BEVFusionSparseEncoder,
        ConvFuser,
        DepthLSSTransform,
        GeneralizedLSSFPN,
        LSSTransform,
        TransFusionHead,
        TransformerDecoderLayer,
    ),
    TASK_UTILS: (
        BBoxBEVL1Cost,
        HeuristicAssigner3D,
        HungarianAssigner3D,
        IoU3DCost,
        TransFusionBBoxCoder,
    ),
    TRANSFORMS: (
        BEVFusionGlobalRotScaleTrans,
        BEVFusionRandomFlip3D,
        BEVLoadMultiViewImageFromFiles,
        GridMask,
        ImageAug3D,
    ),
}
__all__ = [cls.__name__ for classes in _CLASSES.values() for cls in classes]

register_classes(_CLASSES)
