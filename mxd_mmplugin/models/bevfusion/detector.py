"""BEVFusion: LiDAR and cameras joined in one map from above (Liu et al. 2022)."""

import copy
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmdet3d.models import Base3DDetector
from mmdet3d.registry import MODELS
from torch import Tensor

from ...bevfusion_ops import Voxelization
from ...ops import hard_voxelize_batch
from ...ops.sizes import whole, wholes
from .view_transform import ViewTransform


class BEVFusion(Base3DDetector):
    """Detector of LiDAR, or of LiDAR and cameras.

    Args:
        data_preprocessor (dict): mmdet3d's, and in it voxelize_cfg: the arguments of `Voxelization`,
            max_num_points at least 1, and voxelize_reduce (bool): take the mean of a voxel's points.
        pts_voxel_encoder (dict): built as the configs have it, and not used: voxelize_reduce does it.
        pts_middle_encoder (dict): voxels -> map.
        fusion_layer (dict, optional): camera map and LiDAR map -> map.
        img_backbone, img_neck, view_transform (dict, optional): images -> map; all or none.
        pts_backbone, pts_neck (dict): what follows the fusion.
        bbox_head (dict): the head.
        init_cfg (dict, optional): see mmengine's `BaseModule`.
        **kwargs: not used; the configs of other detectors have train_cfg and test_cfg here.

    Raises:
        ValueError: some of img_backbone, img_neck and view_transform, but not all; a part that is needed is absent;
            grids that differ.
    """

    def __init__(
        self,
        data_preprocessor: dict,
        pts_voxel_encoder: Optional[dict] = None,
        pts_middle_encoder: Optional[dict] = None,
        fusion_layer: Optional[dict] = None,
        img_backbone: Optional[dict] = None,
        pts_backbone: Optional[dict] = None,
        view_transform: Optional[dict] = None,
        img_neck: Optional[dict] = None,
        pts_neck: Optional[dict] = None,
        bbox_head: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
        **kwargs: object,
    ) -> None:
        camera = dict(img_backbone=img_backbone, img_neck=img_neck, view_transform=view_transform)
        absent = [name for name, cfg in camera.items() if cfg is None]
        if absent and len(absent) < len(camera):
            raise ValueError(f'{", ".join(camera)} must be given together, absent: {absent}')
        needed = dict(
            pts_middle_encoder=pts_middle_encoder,
            pts_backbone=pts_backbone,
            pts_neck=pts_neck,
            bbox_head=bbox_head,
        )
        for name, cfg in needed.items():
            if cfg is None:
                raise ValueError(
                    f'{name} must be given, was None: BEVFusion is of LiDAR, or of LiDAR and cameras, '
                    'not of cameras alone'
                )
        if 'voxelize_cfg' not in (data_preprocessor or {}):
            raise ValueError(
                f'data_preprocessor must have voxelize_cfg, has {[*(data_preprocessor or {})]}'
            )
        data_preprocessor = copy.deepcopy(data_preprocessor)
        voxelize_cfg = data_preprocessor.pop('voxelize_cfg')
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.voxelize_reduce = voxelize_cfg.pop('voxelize_reduce')
        self.pts_voxel_layer = Voxelization(**voxelize_cfg)
        parts = dict(
            pts_voxel_encoder=pts_voxel_encoder,
            **camera,
            pts_middle_encoder=pts_middle_encoder,
            fusion_layer=fusion_layer,
            pts_backbone=pts_backbone,
            pts_neck=pts_neck,
            bbox_head=bbox_head,
        )
        for name, cfg in parts.items():
            setattr(self, name, None if cfg is None else MODELS.build(cfg))
        self._check_grids(bbox_head or {})

    def _check_grids(self, bbox_head: dict) -> None:
        """Refuse grids of the parts that differ in x and y; in z the encoder may have cells to spare."""
        layer = self.pts_voxel_layer
        cells = layer.grid_size.tolist()
        where = f'{layer.point_cloud_range} (point_cloud_range) in steps of {layer.voxel_size} (voxel_size)'
        grids = {
            'sparse_shape of pts_middle_encoder': getattr(
                self.pts_middle_encoder, 'sparse_shape', cells
            )
        }
        for name in ('train_cfg', 'test_cfg'):
            part = bbox_head.get(name) or {}
            grids[f'grid_size of {name} of bbox_head'] = part.get('grid_size', cells)
        for name, grid in grids.items():
            grid = wholes(name, grid, 1)
            if list(grid[:2]) != cells[:2] or grid[2:] < tuple(cells[2:]):
                raise ValueError(
                    f'{name} must be the {cells} cells of voxelize_cfg, {where}, was {[*grid]}'
                )
        if isinstance(self.view_transform, ViewTransform) and 'test_cfg' in bbox_head:
            self._check_maps(self.view_transform, bbox_head['test_cfg'])

    def _check_maps(self, view_transform: ViewTransform, test_cfg: dict) -> None:
        """Refuse a map of the cameras that does not lie on that of the LiDAR, cell on cell."""
        area, bounds = self.pts_voxel_layer.point_cloud_range, view_transform.bounds
        factor = test_cfg['out_size_factor']
        for axis, (name, (low, high, step)) in enumerate(bounds.items()):
            if abs(low - area[axis]) > 1e-3 or abs(high - area[axis + 3]) > 1e-3:
                raise ValueError(
                    f'{name} of view_transform must begin and end as point_cloud_range of voxelize_cfg, {area}, was '
                    f'{[low, high, step]}'
                )
            mine = view_transform.map_size[axis]
            cells = whole('grid_size', test_cfg['grid_size'][axis]) // factor
            if mine != cells:
                raise ValueError(
                    f'{name} and downsample of view_transform must make the map of the LiDAR, {cells} cells (grid_size '
                    f'// out_size_factor of test_cfg of bbox_head), made {mine}, was {[low, high, step]}'
                )

    def init_weights(self) -> None:
        """Initialise the image backbone, from its checkpoint where it names one; the rest is as it was built."""
        if self.img_backbone is not None:
            self.img_backbone.init_weights()

    @property
    def with_bbox_head(self) -> bool:
        """Whether there is a box head."""
        return self.bbox_head is not None

    @torch.no_grad()
    def voxelize(self, points: list) -> tuple:
        """Voxels of all samples.

        Args:
            points (list[Tensor]): [P_i, C] a sample.

        Returns:
            tuple[Tensor, Tensor, Tensor]: features [M, C], the means (with voxelize_reduce), else
            [M, max_num_points, C]; batch index, x, y, z, int32 [M, 4]; points a voxel, int32 [M].
        """
        layer = self.pts_voxel_layer
        voxels, coors, sizes = hard_voxelize_batch(
            points,
            layer.voxel_size,
            layer.point_cloud_range,
            layer.max_num_points,
            layer.max_voxels[0 if layer.training else 1],
        )
        coors = torch.cat([coors[:, :1], coors[:, 1:].flip(1)], dim=1)
        if self.voxelize_reduce:
            voxels = voxels.sum(dim=1) / sizes[:, None].to(voxels)
        return voxels, coors, sizes

    def extract_pts_feat(self, batch_inputs_dict: dict) -> Tensor:
        """Map of the LiDAR [B, C, X, Y] from `points`, [P_i, C] a sample."""
        points = [sample.float() for sample in batch_inputs_dict['points']]
        voxels, coors, _ = self.voxelize(points)
        return self.pts_middle_encoder(voxels, coors, len(points))

    def extract_img_feat(
        self, x: Tensor, points: list, *matrices: Tensor, img_metas: Optional[list] = None
    ) -> Tensor:
        """Map of the cameras [B, C, X, Y].

        Args:
            x (Tensor): images [B, N, 3, H, W].
            points (list[Tensor]): [P_i, C] a sample.
            *matrices: see `LSSTransform.forward`.
            img_metas (list[dict], optional): of the samples.

        Raises:
            ValueError: the images, as the preprocessor has padded them, are not of the view transform's image_size.
        """
        expected = getattr(self.view_transform, 'image_size', x.shape[-2:])
        if x.shape[-2:] != expected:
            raise ValueError(
                f'image_size of the view_transform must be the size of the images after padding, '
                f'{tuple(x.shape[-2:])}, was {expected}'
            )
        features = self.img_neck(self.img_backbone(x.flatten(0, 1)))
        if not isinstance(features, Tensor):
            features = features[0]
        features = features.unflatten(0, x.shape[:2])
        with torch.autocast(x.device.type, enabled=False):
            return self.view_transform(features.float(), points, *matrices, img_metas)

    def extract_feat(
        self, batch_inputs_dict: dict, batch_input_metas: list, **kwargs: object
    ) -> Sequence[Tensor]:
        """What the head predicts from.

        Args:
            batch_inputs_dict (dict): points, and imgs where there are cameras.
            batch_input_metas (list[dict]): lidar2img, cam2img and cam2lidar where there are cameras,
                and what the augmentation did: img_aug_matrix, lidar_aug_matrix.

        Returns:
            tuple[Tensor]: of `pts_neck`.
        """
        maps, images = [], batch_inputs_dict.get('imgs')
        if images is not None and self.img_backbone is not None:
            # On the CPU: the view transform compares them without waiting for the device.
            names = 'lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix', 'lidar_aug_matrix'
            alone = np.eye(4), np.broadcast_to(np.eye(4), (images.shape[1], 4, 4))
            missing = dict(lidar_aug_matrix=alone[0], img_aug_matrix=alone[1])
            matrices = [
                torch.from_numpy(
                    np.stack(
                        [
                            np.asarray(meta[name] if name in meta else missing[name], np.float32)
                            for meta in batch_input_metas
                        ]
                    )
                )
                for name in names
            ]
            maps.append(
                self.extract_img_feat(
                    images, batch_inputs_dict['points'], *matrices, img_metas=batch_input_metas
                )
            )
        maps.append(self.extract_pts_feat(batch_inputs_dict))
        if self.fusion_layer is not None:
            fused = self.fusion_layer(maps)
        elif len(maps) == 1:
            fused = maps[0]
        else:
            raise ValueError('fusion_layer must be given where there are images and points')
        return self.pts_neck(self.pts_backbone(fused))

    def _forward(
        self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object
    ) -> tuple:
        """What the head's `forward` returns."""
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.bbox_head(self.extract_feat(batch_inputs_dict, metas), metas)

    def loss(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object) -> dict:
        """Losses of the head."""
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.bbox_head.loss(self.extract_feat(batch_inputs_dict, metas), batch_data_samples)

    def predict(self, batch_inputs_dict: dict, batch_data_samples: list, **kwargs: object) -> list:
        """The samples with `pred_instances_3d`: bboxes_3d, scores_3d, labels_3d."""
        metas = [sample.metainfo for sample in batch_data_samples]
        found = self.bbox_head.predict(self.extract_feat(batch_inputs_dict, metas), metas)
        return self.add_pred_to_datasample(batch_data_samples, found)
