"""Sparse4D under the names of its own configs: `custom_imports = dict(imports=['mxd_mmplugin',
'mxd_mmplugin.models.sparse4d'])`.

Papers: Lin et al., "Sparse4D: Multi-view 3D Object Detection with Sparse Spatial-Temporal Fusion" (arXiv 2211.10581),
"Sparse4D v2: Recurrent Temporal Fusion with Sparse Model" (arXiv 2305.14018), "Sparse4D v3: Advancing End-to-End 3D
Detection and Tracking" (arXiv 2311.11722).
"""

from mmdet3d.registry import DATA_SAMPLERS, DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS

from ...datasets.multi_view import BEVLoadMultiViewImageFromFiles
from ...registry import register_classes
from .aggregation import DeformableFeatureAggregation, GridSampleAggregation
from .dataset import GroupInBatchSampler, NuScenes3DDetTrackDataset, SequenceBatchSampler
from .decoder import SparseBox3DDecoder
from .detector import Sparse4D
from .head import Sparse4DHead
from .instance_bank import InstanceBank
from .layers import (
    AsymmetricFFN,
    DenseDepthNet,
    DepthReweightModule,
    LinearFusionModule,
    SparseBox3DEncoder,
    SparseBox3DKeyPointsGenerator,
    SparseBox3DRefinementModule,
)
from .loss import SparseBox3DLoss
from .metric import NuScenesTrackingMetric
from .target import SparseBox3DTarget
from .transforms import (
    BBoxRotation,
    CircleObjectRangeFilter,
    CropMultiViewImage,
    InstanceNameFilter,
    MultiScaleDepthMapGenerator,
    NuScenesSparse4DAdaptor,
    PhotoMetricDistortionMultiViewImage,
    ResizeCropFlipImage,
)

_CLASSES = {
    MODELS: (
        AsymmetricFFN,
        DeformableFeatureAggregation,
        DenseDepthNet,
        DepthReweightModule,
        GridSampleAggregation,
        InstanceBank,
        LinearFusionModule,
        Sparse4D,
        Sparse4DHead,
        SparseBox3DEncoder,
        SparseBox3DKeyPointsGenerator,
        SparseBox3DLoss,
        SparseBox3DRefinementModule,
    ),
    TASK_UTILS: (SparseBox3DDecoder, SparseBox3DTarget),
    DATASETS: (NuScenes3DDetTrackDataset,),
    DATA_SAMPLERS: (GroupInBatchSampler, SequenceBatchSampler),
    METRICS: (NuScenesTrackingMetric,),
    TRANSFORMS: (
        BBoxRotation,
        BEVLoadMultiViewImageFromFiles,
        CircleObjectRangeFilter,
        CropMultiViewImage,
        InstanceNameFilter,
        MultiScaleDepthMapGenerator,
        NuScenesSparse4DAdaptor,
        PhotoMetricDistortionMultiViewImage,
        ResizeCropFlipImage,
    ),
}
__all__ = [cls.__name__ for classes in _CLASSES.values() for cls in classes]

register_classes(_CLASSES)
