"""The detector: images to feature maps to boxes and tracks."""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData
from numpy.typing import DTypeLike
from torch import Tensor

from ...datasets.multi_view import GridMask
from .aggregation import cover_alike, flatten_maps, map_strides
from .box3d import Frame, Truth, encode


class Sparse4D(Base3DDetector):
    """Sparse4D v1, v2 and v3.

    It remembers the frame before: see `InstanceBank`. `eval()` makes it forget.

    Args:
        img_backbone (dict): config of the backbone.
        head (dict): config of the head.
        img_neck (dict, optional): config of the neck.
        depth_branch (dict, optional): config of the depth that is learned beside, in training only.
        use_grid_mask (bool): cover parts of the images in training.
        data_preprocessor, init_cfg: see `Base3DDetector`.
    """

    def __init__(
        self,
        img_backbone: dict,
        head: dict,
        img_neck: Optional[dict] = None,
        depth_branch: Optional[dict] = None,
        use_grid_mask: bool = True,
        data_preprocessor: Optional[dict] = None,
        train_cfg: Optional[dict] = None,
        test_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = None if img_neck is None else MODELS.build(img_neck)
        self.head = MODELS.build(head)
        self.depth_branch = None if depth_branch is None else MODELS.build(depth_branch)
        self.grid_mask = None
        if use_grid_mask:
            self.grid_mask = GridMask(True, True, 1, mode=1, prob=0.7, fixed_prob=True)

    def forget(self) -> None:
        """Begin anew with the next frame."""
        self.head.instance_bank.reset()
        if self.head.sampler is not None:
            self.head.sampler.reset()

    def extract_feat(self, images: Tensor) -> list:
        """Feature maps.

        Args:
            images (Tensor): [B, N, 3, H, W].

        Returns:
            list[Tensor]: [B, N, C, h, w], float32, for each scale.
        """
        if self.training and self.grid_mask is not None and np.random.rand() < self.grid_mask.prob:
            mask = self.grid_mask.draw(*images.shape[-2:])[..., 0]
            images = images * torch.from_numpy(mask).to(images)
        maps = self.img_backbone(images.flatten(0, 1))
        if self.img_neck is not None:
            maps = self.img_neck(maps)
        return [x.float().unflatten(0, images.shape[:2]) for x in maps]

    def frames(self, data_samples: list, device: torch.device) -> list:
        """The frames of a batch, the present one first, then those before it, the latest first (v1).

        Args:
            data_samples (list[Det3DDataSample]): with what `NuScenesSparse4DAdaptor` puts into them.
            device (torch.device): where the images are.

        Returns:
            list[Frame]: one, or one more for each frame of the queue.
        """
        metas = [sample.metainfo for sample in data_samples]

        def stacked(name: str, dtype: DTypeLike) -> Tensor:
            return torch.from_numpy(np.stack([np.asarray(meta[name], dtype) for meta in metas]))

        matrices = stacked('projection_mat', np.float32).to(device)
        sizes = stacked('image_wh', np.float32).to(device)
        focal = stacked('focal', np.float32).to(device)
        times, places = stacked('timestamp', np.float64), stacked('lidar2global', np.float64)
        sequence = [meta['sequence'] for meta in metas] if 'sequence' in metas[0] else None
        if 'queue' not in metas[0]:
            return [Frame(matrices, sizes, times, places, sequence, focal)]
        valid = stacked('queue', bool)
        return [
            Frame(
                matrices[:, t],
                sizes[:, t],
                times[:, t],
                places[:, t],
                sequence,
                focal[:, t],
                valid[:, t],
            )
            for t in range(valid.shape[1])
        ]

    @staticmethod
    def truth(data_samples: list, device: torch.device) -> Truth:
        """The objects of a batch; `instances_id` where the samples have it."""
        instances = [sample.gt_instances_3d for sample in data_samples]
        columns = {x.bboxes_3d.tensor.shape[1] for x in instances} - {9}
        if columns:
            raise ValueError(
                f'boxes must have 9 numbers, the velocity too, had {columns.pop()}: with_velocity of the data set must '
                'be True'
            )
        boxes = [
            torch.cat([x.bboxes_3d.gravity_center, x.bboxes_3d.tensor[:, 3:]], 1).to(device)
            for x in instances
        ]
        ids = None
        if all('instances_id' in x for x in instances):
            ids = [x.instances_id.to(device) for x in instances]
        return Truth([x.labels_3d.to(device) for x in instances], [encode(x) for x in boxes], ids)

    def _run(self, images: Tensor, data_samples: list, truth: Optional[Truth] = None) -> tuple:
        """What the head returns, in float32 also under autocast; the maps, as both ways, and the frames."""
        frames = self.frames(data_samples, images.device)
        images = images.unflatten(1, (len(frames), -1))
        size = images.shape[-2:]  # as the preprocessor has padded them
        maps = self.extract_feat(images[:, 0])
        covering, (height, width) = cover_alike(maps, size)
        for frame in frames:
            frame.image_wh = frame.image_wh.new_tensor([width, height]).expand_as(frame.image_wh)
        queue = []
        with torch.no_grad():
            for t in range(1, len(frames)):
                past, _ = cover_alike(self.extract_feat(images[:, t]), size)
                queue.append((flatten_maps(past), frames[t]))
        flat = flatten_maps(covering)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(flat, frames[0], truth, queue), maps, flat, frames[0]

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object) -> dict:
        """Losses of the head, and of the depth where `gt_depth` is in the samples."""
        images = batch_inputs_dict['imgs']
        truth = self.truth(batch_data_samples, images.device)
        out, maps, flat, frame = self._run(images, batch_data_samples, truth)
        with torch.autocast(images.device.type, enabled=False):
            losses = self.head.loss(out, truth, flat, frame)
            if self.depth_branch is not None and 'gt_depth' in batch_data_samples[0]:
                depths = self.depth_branch(maps, frame.focal)
                measured = self._measured(batch_data_samples, depths, images.shape[-2:])
                losses['loss_dense_depth'] = self.depth_branch.loss(
                    depths, measured.to(images.device)
                )
        return losses

    @staticmethod
    def _measured(data_samples: list, depths: list, image_size: Sequence[int]) -> Tensor:
        """`gt_depth` of a batch for the pixels of the depth maps, [B, N, pixels of all maps]; -1 in the padding."""
        strides = map_strides(depths, image_size)
        batch = []
        for sample in data_samples:
            width, height = (int(x) for x in np.reshape(sample.image_wh, (-1, 2))[0])
            sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
            pixels = [rows * columns for rows, columns in sizes]
            if sample.gt_depth.shape[-1] != sum(pixels):
                raise ValueError(
                    f'gt_depth has {sample.gt_depth.shape[-1]} pixels, and depth maps of {sizes} pixels for images of '
                    f'{(height, width)} have {sum(pixels)}: downsample of MultiScaleDepthMapGenerator must be '
                    f'{strides}, and nothing after it may change the images'
                )
            parts = []
            for part, (rows, columns), depth in zip(
                sample.gt_depth.split(pixels, -1), sizes, depths
            ):
                below, right = depth.shape[-2] - rows, depth.shape[-1] - columns
                part = F.pad(part.unflatten(-1, (rows, columns)), (0, right, 0, below), value=-1)
                parts.append(part.flatten(-2))
            batch.append(torch.cat(parts, -1))
        return torch.stack(batch)

    def predict(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object) -> list:
        """The samples with `pred_instances_3d`: see `SparseBox3DDecoder.decode`."""
        out = self._run(batch_inputs_dict['imgs'], batch_data_samples)[0]
        found = self.head.predict(out)
        empty = [InstanceData() for _ in found]
        return self.add_pred_to_datasample(batch_data_samples, found, empty)

    def _forward(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object) -> dict:
        """What the head's `forward` returns."""
        return self._run(batch_inputs_dict['imgs'], batch_data_samples)[0]
