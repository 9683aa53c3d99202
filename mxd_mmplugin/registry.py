"""The one table of what is registered, and the only place that writes into a registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from mmcv.ops import get_compiling_cuda_version
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, Registry

from . import modules
from .engine.bev_hook import BEVPictureHook, CameraPictureHook
from .engine.optim_wrapper import AmpOptimWrapper, OptimWrapper
from .engine.resume_hook import ExactResumeHook
from .engine.runtime_info_hook import RuntimeInfoHook
from .packages import is_installed


@dataclass(frozen=True)
class Entry:
    """A class and the names that it is registered under.

    Attributes:
        registry (Registry): mmengine's registry or a child of it.
        cls (type): what is registered.
        explicit_name (str): a name that no other package uses, by which a config can choose this
            class alone.
        name (str, optional): the name of another package's class that it stands in for.
        swapped (bool): whether `name` is taken on this machine.
        note (str): what it is for, for the report.
    """

    registry: Registry
    cls: type
    explicit_name: str
    name: Optional[str] = None
    swapped: bool = False
    note: str = ''

    @property
    def names(self) -> list[str]:
        """The names to register."""
        return (
            [self.explicit_name, self.name] if self.name and self.swapped else [self.explicit_name]
        )


@dataclass(frozen=True)
class Status:
    """What a registry holds under a name, for `mxd doctor`."""

    registry: str
    name: str
    swapped: bool
    cls: str
    note: str


def gpu_count() -> int:
    """How many GPUs PyTorch itself finds.

    torch.cuda cannot be asked: torch_npu.contrib.transfer_to_npu, which mx_driving imports, lets
    its functions answer for the NPUs. The function below them stays as it is; only builds of
    PyTorch for GPUs have it.

    Returns:
        int: their number; 0 with no driver, or in another build of PyTorch.
    """
    count = getattr(torch._C, '_cuda_getDeviceCount', None)
    return count() if count else 0


def cuda_serves() -> bool:
    """Whether the ops run on a GPU through mmcv's own kernels, so that nothing of mmcv's is swapped."""
    return gpu_count() > 0 and get_compiling_cuda_version() != 'not available'


# The layers that stand in for mmcv's, by the names that configs know.
SPARSE_LAYERS = {
    f'{stem}{ndim}d': getattr(modules, f'{stem}{ndim}d')
    for stem in (
        'SparseConv',
        'SparseConvTranspose',
        'SparseInverseConv',
        'SparseMaxPool',
        'SubMConv',
    )
    for ndim in (1, 2, 3, 4)
}
# On npu tensors the backward pass of mmcv's calls torch.npu_deformable_conv2dbk, which torch_npu 2.1
# and later refuse.
DEFORM_LAYERS = {'DCN': modules.DeformConv2dPack, 'DCNv2': modules.ModulatedDeformConv2dPack}


def table() -> list[Entry]:
    """All entries for the packages that are installed."""
    swap = not cuda_serves()
    note = "for mmcv's" if swap else "left to mmcv's CUDA kernel"
    entries = [
        Entry(MODELS, cls, f'Mxd{cls.__name__}', name, swap, note)
        for name, cls in {**SPARSE_LAYERS, **DEFORM_LAYERS}.items()
    ]
    entries.append(
        Entry(
            MODELS,
            modules.DeformableAggregation,
            'MxdDeformableAggregation',
            'DeformableAggregation',
            swapped=True,
            note='no other package has it in the registry',
        )
    )
    note = 'a resumed training goes on as if it had not stopped'
    entries.append(Entry(HOOKS, ExactResumeHook, ExactResumeHook.__name__, note=note))
    note = 'pictures of validation frames'
    entries += [
        Entry(HOOKS, cls, cls.__name__, note=note) for cls in (BEVPictureHook, CameraPictureHook)
    ]
    entries += [
        _waitless(parent, cls, "mmengine's", 'which waits for each loss', swap)
        for parent, cls in (
            (HOOKS, RuntimeInfoHook),
            (OPTIM_WRAPPERS, OptimWrapper),
            (OPTIM_WRAPPERS, AmpOptimWrapper),
        )
    ]
    if is_installed('mmdet3d'):
        entries += _mmdet3d_table(swap)
    return entries


def _mmdet3d_table(swap: bool) -> list[Entry]:
    """The entries of what needs mmdet3d, and mmdet with it; `swap` on a machine where no GPU serves."""
    from mmdet.registry import MODELS as MMDET_MODELS
    from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
    from mmdet3d.registry import MODELS as MMDET3D_MODELS
    from mmdet3d.registry import TASK_UTILS, TRANSFORMS

    from .datasets.db_sampler import DataBaseSampler
    from .models import host_targets
    from .models.anchor_heads import Anchor3DHead, PartA2RPNHead, ShapeAwareHead
    from .models.assigners import Max3DIoUAssigner, MaxIoUAssigner
    from .models.centerpoint import CenterHead
    from .models.data_preprocessor import Det3DDataPreprocessor
    from .models.losses import CrossEntropyLoss, FocalLoss, L1Loss
    from .models.minkunet import MinkUNetBackbone, MinkUNetBackboneV2, SPVCNNBackbone
    from .models.mono3d_heads import FCOSMono3DHead, PGDHead
    from .models.smoke_coder import SMOKECoder
    from .models.sparse_encoder import SparseEncoder
    from .models.swin import SwinTransformer

    note = "for mmdet3d's, which needs np.long"
    entries = [
        Entry(TRANSFORMS, DataBaseSampler, 'MxdDataBaseSampler', 'DataBaseSampler', True, note)
    ]
    note = (
        "for mmdet3d's, on torchsparse, MinkowskiEngine or spconv" if swap else "left to mmdet3d's"
    )
    entries += [
        Entry(MODELS, cls, f'Mxd{cls.__name__}', cls.__name__, swap, note)
        for cls in (MinkUNetBackbone, MinkUNetBackboneV2, SPVCNNBackbone)
    ]
    entries += [
        _waitless(parent, cls, owner, why, swap)
        for parent, cls, owner, why in (
            (MMDET3D_MODELS, CenterHead, "mmdet3d's", 'which waits for each box'),
            (MMDET3D_MODELS, Det3DDataPreprocessor, "mmdet3d's", 'which takes sample by sample'),
            *(
                (MMDET3D_MODELS, cls, "mmdet3d's", 'which sorts the numbers of the anchors')
                for cls in (Anchor3DHead, PartA2RPNHead, ShapeAwareHead)
            ),
            *(
                (MMDET3D_MODELS, cls, "mmdet3d's", 'which writes into labels at places')
                for cls in (FCOSMono3DHead, PGDHead)
            ),
            *(
                (MMDET3D_MODELS, cls, "mmdet3d's", 'which waits for each box or patch')
                for cls in (
                    host_targets.VoteHead,
                    host_targets.GroupFree3DHead,
                    host_targets.SSD3DHead,
                    host_targets.PointRPNHead,
                    host_targets.PointwiseSemanticHead,
                    host_targets.ForegroundSegmentationHead,
                    host_targets.PartAggregationROIHead,
                    host_targets.PVRCNNRoiHead,
                    host_targets.PointRCNNRoIHead,
                    host_targets.EncoderDecoder3D,
                    host_targets.VoteFusion,
                )
            ),
            (MMDET3D_MODELS, SparseEncoder, "mmdet3d's", 'which takes voxels in any order'),
            (TASK_UTILS, SMOKECoder, "mmdet3d's", 'whose inverse of a matrix is on the AI CPU'),
            *(
                (parent, cls, owner, 'which sorts integers')
                for parent, cls, owner in (
                    (MMDET_MODELS, host_targets.RPNHead, "mmdet's"),
                    (MMDET_MODELS, host_targets.Shared2FCBBoxHead, "mmdet's"),
                    (MMDET_TASK_UTILS, host_targets.RandomSampler, "mmdet's"),
                    (TASK_UTILS, host_targets.IoUNegPiecewiseSampler, "mmdet3d's"),
                )
            ),
            (MMDET_TASK_UTILS, MaxIoUAssigner, "mmdet's", 'which waits for each box'),
            (TASK_UTILS, Max3DIoUAssigner, "mmdet3d's", 'which waits for each box'),
            (MMDET_MODELS, FocalLoss, "mmdet's", 'which looks at the labels'),
            (MMDET_MODELS, CrossEntropyLoss, "mmdet's", 'which writes int64 at places'),
            (MMDET_MODELS, L1Loss, "mmdet's", 'which looks at the weights'),
            (MMDET_MODELS, SwinTransformer, "mmdet's", 'which makes its masks again in each step'),
        )
    ]
    return entries


def _waitless(parent: Registry, cls: type, owner: str, why: str, swap: bool) -> Entry:
    """A class of ours under the name of one that needs more launches or waits."""
    note = f'for {owner}, {why}' if swap else f'left to {owner}'
    return Entry(parent, cls, f'Mxd{cls.__name__}', cls.__name__, swap, note)


def register() -> bool:
    """Register every entry of the table; again does nothing new.

    Returns:
        bool: True.
    """
    if is_installed('mmdet3d'):
        # It registers spconv's layers over mmcv's when it is imported: let it be first.
        import mmdet3d.models.layers.spconv  # noqa: F401
    for entry in table():
        entry.registry.register_module(name=entry.names, module=entry.cls, force=True)
    _resolve_scopes()
    return True


def _resolve_scopes() -> None:
    """Let `mmcv.SubMConv3d` and `mmdet3d.SubMConv3d` mean what `SubMConv3d` means.

    mmcv has no scope: it registers in mmengine's registry. And a scope asks its own registry alone where the search
    begins there.
    """
    if 'mmcv' not in MODELS.children:
        Registry('model', scope='mmcv', parent=MODELS, locations=['mmcv.ops'])
    if is_installed('mmdet3d'):
        from mmdet3d.registry import MODELS as MMDET3D_MODELS

        for entry in table():
            for name in (entry.explicit_name, entry.name):
                cls = MODELS.get(name) if name and entry.registry is MODELS else None
                if cls is not None:
                    MMDET3D_MODELS.register_module(name=name, module=cls, force=True)


def register_classes(classes: Mapping[Registry, Sequence[type]]) -> None:
    """Register the classes of a model under their own names, also over those of its project.

    Args:
        classes (dict[Registry, Sequence[type]]): the classes for each registry.
    """
    for registry, members in classes.items():
        for cls in members:
            registry.register_module(module=cls, force=True)


def status() -> list[Status]:
    """What the registries hold now under the names of the table.

    Returns:
        list[Status]: one for each name that can be swapped and each explicit name.
    """
    rows = []
    for entry in table():
        for name in filter(None, (entry.name, entry.explicit_name)):
            cls = entry.registry.get(name)
            held = f'{cls.__module__}.{cls.__qualname__}' if cls else 'nothing'
            rows.append(Status(entry.registry.name, name, cls is entry.cls, held, entry.note))
    return rows
