"""TransFusion's head: queries from the peaks of a heatmap, decoded with the map from above (Bai et al. 2022)."""

import copy
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_conv_layer
from mmdet3d.models.dense_heads.centerpoint_head import SeparateHead
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...constants import constant
from ...ops import circle_nms, nms_rotated
from ...ops.sizes import takes_whole_numbers, whole, wholes
from .classes import class_tables
from .targets import Targets, assign, draw_heatmap

# The branches that predict a box, in the order of its code.
CODES = 'center', 'height', 'dim', 'rot', 'vel'
# Of a heatmap's logits before training: one cell in ten has an object (Law and Deng 2018).
PRIOR = -2.19


class TransFusionHead(nn.Module):
    """Predicts boxes from a map from above whose rows are x and whose columns are y.

    Args:
        num_proposals (int): queries P.
        auxiliary (bool): a loss for each decoder layer, not only for the last.
        in_channels, hidden_channel (int): channels of the map and of the queries.
        num_classes (int): classes.
        num_decoder_layers (int): decoder layers L.
        decoder_layer (dict): config of one.
        num_heads (int): not used: decoder_layer has its own.
        nms_kernel_size (int): a peak is the greatest of as many cells squared.
        bn_momentum (float): of all batch norms of the head.
        common_heads (dict): quantity -> (channels, layers) of the branches beside the scores.
        num_heatmap_convs (int): layers of the branch of the scores.
        conv_cfg, norm_cfg (dict), bias (str or bool): of the branches and convolutions.
        loss_cls, loss_bbox, loss_heatmap (dict): the losses; loss_cls with use_sigmoid.
        train_cfg (dict, optional): dataset, point_cloud_range, grid_size, voxel_size, out_size_factor,
            gaussian_overlap, min_radius, pos_weight, code_weights, assigner.
        test_cfg (dict): dataset ('nuScenes', 'Waymo' or another), grid_size, out_size_factor, nms_type
            (None, 'circle' or 'rotate'), for the last pre_maxsize and post_maxsize too. Known for the two data sets,
            and told here for another: small_classes, names of classes whose objects are so small that each cell may be
            a peak; nms_radius, name of a class -> metres of circle NMS or overlap of rotated NMS, the others are not
            suppressed.
        bbox_coder (dict): `TransFusionBBoxCoder`.
        class_names (Sequence[str], optional): the classes in the order of their labels; without it those of the
            data set's published config, where there are as many.

    Raises:
        ValueError: options that are out of their range or do not go together.
    """

    @takes_whole_numbers
    def __init__(
        self,
        num_proposals: int = 128,
        auxiliary: bool = True,
        in_channels: int = 128 * 3,
        hidden_channel: int = 128,
        num_classes: int = 4,
        num_decoder_layers: int = 3,
        decoder_layer: dict = dict(),
        num_heads: int = 8,
        nms_kernel_size: int = 1,
        bn_momentum: float = 0.1,
        common_heads: dict = dict(),
        num_heatmap_convs: int = 2,
        conv_cfg: dict = dict(type='Conv1d'),
        norm_cfg: dict = dict(type='BN1d'),
        bias: Union[bool, str] = 'auto',
        loss_cls: dict = dict(type='mmdet.FocalLoss', use_sigmoid=True, reduction='mean'),
        loss_bbox: dict = dict(type='mmdet.L1Loss', reduction='mean'),
        loss_heatmap: dict = dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        train_cfg: Optional[dict] = None,
        test_cfg: Optional[dict] = None,
        bbox_coder: Optional[dict] = None,
        class_names: Optional[Sequence[str]] = None,
    ) -> None:
        super().__init__()
        if not loss_cls.get('use_sigmoid', False):
            raise ValueError(f'loss_cls must have use_sigmoid=True, was {loss_cls}')
        if nms_kernel_size % 2 != 1:
            raise ValueError(f'nms_kernel_size must be odd, was {nms_kernel_size}')
        self.num_proposals = num_proposals
        self.auxiliary = auxiliary
        self.num_classes = num_classes
        self.num_decoder_layers = num_decoder_layers
        self.nms_kernel_size = nms_kernel_size
        self.bn_momentum = bn_momentum
        if test_cfg is None:
            raise ValueError('test_cfg must be given, with grid_size and out_size_factor, was None')
        if test_cfg.get('nms_type') not in (None, 'circle', 'rotate'):
            raise ValueError(
                f"nms_type of test_cfg must be None, 'circle' or 'rotate', was {test_cfg['nms_type']!r}"
            )
        self.train_cfg, self.test_cfg = train_cfg or {}, test_cfg
        self.small_labels, self.nms_radius = class_tables(num_classes, class_names, self.test_cfg)

        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_heatmap = MODELS.build(loss_heatmap)
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.bbox_assigner = None if train_cfg is None else TASK_UTILS.build(train_cfg['assigner'])

        conv2d = dict(type='Conv2d')
        conv = dict(kernel_size=3, padding=1, bias=bias)
        self.shared_conv = build_conv_layer(conv2d, in_channels, hidden_channel, **conv)
        self.heatmap_head = nn.Sequential(
            ConvModule(
                hidden_channel,
                hidden_channel,
                conv_cfg=conv2d,
                norm_cfg=dict(type='BN2d'),
                **conv,
            ),
            build_conv_layer(conv2d, hidden_channel, num_classes, **conv),
        )
        self.class_encoding = nn.Conv1d(num_classes, hidden_channel, 1)
        self.decoder = nn.ModuleList(
            MODELS.build(copy.deepcopy(decoder_layer)) for _ in range(num_decoder_layers)
        )
        branches = dict(common_heads, heatmap=(num_classes, num_heatmap_convs))
        self.prediction_heads = nn.ModuleList(
            SeparateHead(
                hidden_channel, dict(branches), conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=bias
            )
            for _ in range(num_decoder_layers)
        )
        self.init_weights()
        self._check_codes(common_heads)
        cfg = self.test_cfg
        size_x, size_y = self._map_size(cfg)
        if not 1 <= num_proposals <= num_classes * size_x * size_y:
            raise ValueError(
                f'num_proposals must be 1 to the {num_classes} classes (num_classes) times the {size_x} x {size_y} '
                f'cells of the map, was {num_proposals}'
            )
        self.bev_pos = self._cell_centers(size_x, size_y)

    @staticmethod
    def _map_size(cfg: dict) -> list[int]:
        """Rows and columns of the map."""
        factor = whole('out_size_factor', cfg['out_size_factor'], 1)
        return [size // factor for size in wholes('grid_size', cfg['grid_size'][:2], 1)]

    def _check_codes(self, common_heads: dict) -> None:
        """Refuse branches, code_size and code_weights, and places of the map, that do not go together."""
        channels = {name: common_heads[name][0] for name in CODES if name in common_heads}
        size, total = self.bbox_coder.code_size, sum(channels.values())
        if size != total:
            raise ValueError(
                f'code_size of bbox_coder must be {total}, the channels of common_heads {channels}, was {size} '
                '(10 with the velocity vel, 8 without)'
            )
        weights = self.train_cfg.get('code_weights')
        if weights is not None and len(weights) != size:
            raise ValueError(f'code_weights must have {size} numbers (code_size), was {weights}')
        for name, mine in (('point_cloud_range', 'pc_range'), ('voxel_size', 'voxel_size')):
            value, expected = self.train_cfg.get(name), getattr(self.bbox_coder, mine)
            if value is not None and list(value[:2]) != list(expected[:2]):
                raise ValueError(
                    f'{name} of train_cfg must begin as {mine} of bbox_coder, {expected}, was {value}'
                )
        for cfg in (self.train_cfg, self.test_cfg):
            factor = cfg.get('out_size_factor', self.bbox_coder.out_size_factor)
            if factor != self.bbox_coder.out_size_factor:
                raise ValueError(
                    f'out_size_factor of train_cfg and test_cfg must be that of bbox_coder, '
                    f'{self.bbox_coder.out_size_factor}, was {factor}'
                )

    @staticmethod
    def _cell_centers(size_x: int, size_y: int) -> Tensor:
        """[1, X * Y, 2], in cells."""
        axes = (torch.arange(size) + 0.5 for size in (size_x, size_y))
        return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).view(1, -1, 2)

    def init_weights(self) -> None:
        """Draw the decoder's weights and set the biases of the heatmaps to `PRIOR`."""
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        heads: list[SeparateHead] = [*self.prediction_heads]
        layers: list[Any] = [self.heatmap_head[-1], *(head.heatmap[-1] for head in heads)]
        for layer in layers:
            nn.init.constant_(layer.bias, PRIOR)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = self.bn_momentum

    def _peaks(self, heatmap: Tensor) -> Tensor:
        """Scores [B, C, X, Y] with all but the peaks set to zero; the border has none."""
        border = self.nms_kernel_size // 2
        greatest = F.pad(F.max_pool2d(heatmap, self.nms_kernel_size, stride=1), [border] * 4)
        for label in self.small_labels:
            greatest[:, label] = heatmap[:, label]
        return heatmap * (heatmap == greatest)

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Labels [B, P] -> bool [B, num_classes, P]; PyTorch's `one_hot` looks at them first on a CPU."""
        classes = torch.arange(self.num_classes, device=labels.device)
        return labels[:, None] == classes[:, None]

    def forward(self, feats: Union[Tensor, Sequence[Tensor]], metas: object = None) -> tuple:
        """Predict.

        Args:
            feats (Tensor or Sequence[Tensor]): the map [B, in_channels, X, Y], alone or in a list.
            metas: not used.

        Returns:
            tuple[list[dict]]: one dict: 'center' [B, 2, L * P] in cells, 'height', 'dim', 'rot', 'vel',
            'heatmap' (logits) and what else common_heads has, with auxiliary of all layers one after the
            other, else of the last (L = 1); 'dense_heatmap' [B, num_classes, X, Y] (logits);
            'query_heatmap_score' [B, num_classes, P]; 'query_labels' [B, P].
        """
        (above,) = [feats] if isinstance(feats, Tensor) else feats
        features = self.shared_conv(above)
        with torch.autocast(features.device.type, enabled=False):
            dense_heatmap = self.heatmap_head(features.float())
        key = features.flatten(2)
        if key.shape[2] != self.bev_pos.shape[1]:
            raise ValueError(
                f'grid_size // out_size_factor of test_cfg must be the map, {list(features.shape[2:])}, was '
                f'{self._map_size(self.test_cfg)}'
            )
        scores = self._peaks(dense_heatmap.detach().sigmoid()).flatten(2)
        proposals = scores.flatten(1).topk(self.num_proposals, dim=1).indices
        cells, labels = proposals % scores.shape[2], proposals // scores.shape[2]

        def at_queries(values: Tensor) -> Tensor:  # [B, C, X * Y] -> [B, C, P]
            return values.gather(2, cells[:, None].expand(-1, values.shape[1], -1))

        if self.bev_pos.device != features.device:
            self.bev_pos = self.bev_pos.to(features.device)
        query = at_queries(key) + self.class_encoding(self._one_hot(labels).to(key.dtype))
        query_pos = self.bev_pos[0][cells]
        layers = []
        for decoder, head in zip(self.decoder, self.prediction_heads):
            query = decoder(query, key=key, query_pos=query_pos, key_pos=self.bev_pos)
            layer = head(query)
            layer['center'] = layer['center'] + query_pos.transpose(1, 2)
            layers.append(layer)
            query_pos = layer['center'].detach().transpose(1, 2)
        if not self.auxiliary:
            layers = layers[-1:]
        result = {name: torch.cat([layer[name] for layer in layers], dim=2) for name in layers[0]}
        result.update(
            dense_heatmap=dense_heatmap,
            query_heatmap_score=at_queries(scores),
            query_labels=labels,
        )
        return ([result],)

    def predict(
        self, batch_feats: Union[Tensor, Sequence[Tensor]], batch_input_metas: list
    ) -> list:
        """Boxes of each sample; see `forward` and `predict_by_feat`."""
        return self.predict_by_feat(self(batch_feats, batch_input_metas), batch_input_metas)

    def predict_by_feat(self, preds_dicts: tuple, metas: list) -> list:
        """Boxes from what `forward` returned.

        Args:
            preds_dicts (tuple[list[dict]]): see `forward`.
            metas (list[dict]): `box_type_3d` of each sample.

        Returns:
            list[InstanceData]: bboxes_3d, scores_3d and labels_3d of each sample.
        """
        predicted = preds_dicts[0][0]
        last = {
            name: predicted[name][..., -self.num_proposals :].float()
            for name in ('heatmap', 'rot', 'dim', 'center', 'height', 'vel')
            if name in predicted
        }
        # A query keeps the class of its peak.
        own = self._one_hot(predicted['query_labels'])
        scores = last['heatmap'].sigmoid() * predicted['query_heatmap_score'] * own
        decoded = self.bbox_coder.decode(
            scores,
            last['rot'],
            last['dim'],
            last['center'],
            last['height'],
            last.get('vel'),
            filter=True,
        )
        results = []
        for sample, meta in zip(decoded, metas):
            boxes, scores, labels = sample['bboxes'], sample['scores'], sample['labels']
            if self.test_cfg['nms_type'] is not None:
                keep = self._suppress(boxes, scores, labels, meta['box_type_3d'])
                boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
            results.append(
                InstanceData(
                    bboxes_3d=meta['box_type_3d'](boxes, box_dim=boxes.shape[-1]),
                    scores_3d=scores,
                    labels_3d=labels.int(),
                )
            )
        return results

    def _suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor, box_type: type) -> Tensor:
        """The boxes that non-maximum suppression leaves, bool [P]."""
        keep = torch.ones_like(scores, dtype=torch.bool)
        for label, radius in self.nms_radius.items():
            group = (labels == label).nonzero().squeeze(1)
            if len(group):
                keep[group] = False
                keep[group[self._nms(boxes[group], scores[group], radius, box_type)]] = True
        return keep

    def _nms(self, boxes: Tensor, scores: Tensor, radius: float, box_type: type) -> Tensor:
        if self.test_cfg['nms_type'] == 'circle':
            return circle_nms(boxes[:, :2], scores, radius)
        # As nms_bev of mmdet3d: the best ones before, the best ones after.
        order = scores.sort(descending=True).indices[: self.test_cfg['pre_maxsize']]
        seen = box_type(boxes[order, :7], 7).bev
        _, kept = nms_rotated(seen, scores[order], radius)
        return order[kept[: self.test_cfg['post_maxsize']]]

    @torch.no_grad()
    def get_targets(self, batch_gt_instances_3d: list, preds_dict: list) -> Targets:
        """Assign the ground truth to the queries.

        Args:
            batch_gt_instances_3d (list[InstanceData]): bboxes_3d and labels_3d of each sample.
            preds_dict (list[dict]): one dict, see `forward`.

        Returns:
            Targets: see there.
        """
        predicted = {name: values.detach() for name, values in preds_dict[0].items()}
        score = predicted['heatmap']
        decoded = self.bbox_coder.decode(
            score,
            predicted['rot'],
            predicted['dim'],
            predicted['center'],
            predicted['height'],
            predicted.get('vel'),
        )
        layers = score.shape[2] // self.num_proposals
        assigned = assign(
            self.bbox_assigner, decoded, batch_gt_instances_3d, predicted, self.train_cfg
        )
        labels_of, boxes_of, found_of, ious = [], [], [], []
        for i, truth in enumerate(batch_gt_instances_3d):
            of_layers = assigned[i * layers : (i + 1) * layers]
            gt_inds = torch.cat([assignment.gt_inds for assignment in of_layers])
            overlaps = torch.cat([assignment.max_overlaps for assignment in of_layers])
            found = gt_inds > 0
            # A row more before the others, for the queries that have no object.
            encoded = self.bbox_coder.encode(truth.bboxes_3d.tensor.to(score.device))
            labels = F.pad(truth.labels_3d.to(score.device), (1, 0), value=self.num_classes)
            labels_of.append(labels[gt_inds])
            boxes_of.append(F.pad(encoded, (0, 0, 1, 0))[gt_inds])
            found_of.append(found)
            ious.append((overlaps.clamp(0, 1) * found).sum() / found.sum().clamp(min=1))
        positive, boxes = torch.stack(found_of), torch.stack(boxes_of)
        label_weights = torch.ones_like(positive, dtype=torch.float)
        if self.train_cfg['pos_weight'] > 0:
            label_weights.masked_fill_(positive, self.train_cfg['pos_weight'])
        return Targets(
            torch.stack(labels_of),
            label_weights,
            boxes,
            positive[..., None].expand_as(boxes).float(),
            positive.float().sum(),
            torch.stack(ious).mean(),
            draw_heatmap(
                batch_gt_instances_3d,
                self.num_classes,
                self._map_size(self.train_cfg),
                self.train_cfg,
                score.device,
            ),
        )

    def loss(self, batch_feats: Union[Tensor, Sequence[Tensor]], batch_data_samples: list) -> dict:
        """Losses of a batch; see `forward` and `loss_by_feat`."""
        metas = [sample.metainfo for sample in batch_data_samples]
        truth = [sample.gt_instances_3d for sample in batch_data_samples]
        return self.loss_by_feat(self(batch_feats, metas), truth)

    def loss_by_feat(self, preds_dicts: tuple, batch_gt_instances_3d: list) -> dict:
        """Losses of what `forward` returned.

        Args:
            preds_dicts (tuple[list[dict]]): see `forward`.
            batch_gt_instances_3d (list[InstanceData]): see `get_targets`.

        Returns:
            dict[str, Tensor]: loss_heatmap, for each layer its loss_cls and loss_bbox ('layer_-1' is the
            last), and matched_ious, which is no loss.
        """
        if self.bbox_assigner is None:
            raise ValueError('train_cfg must be given where losses are asked for, was None')
        predicted = preds_dicts[0][0]
        targets = self.get_targets(batch_gt_instances_3d, preds_dicts[0])
        probability = predicted['dense_heatmap'].float().sigmoid().clamp(1e-4, 1 - 1e-4)
        peaks = targets.heatmap.eq(1).float().sum().clamp(min=1)
        losses = dict(
            loss_heatmap=self.loss_heatmap(probability, targets.heatmap, avg_factor=peaks)
        )
        codes = torch.cat([predicted[name] for name in CODES if name in predicted], dim=1)
        codes = codes.transpose(1, 2).float()
        scores = predicted['heatmap'].transpose(1, 2).float()
        weights = targets.box_weights
        if self.train_cfg.get('code_weights') is not None:
            weights = weights * constant(self.train_cfg['code_weights'], weights.device)
        count, layers = targets.num_pos.clamp(min=1), scores.shape[1] // self.num_proposals
        for index in range(layers):
            layer = slice(index * self.num_proposals, (index + 1) * self.num_proposals)
            name = 'layer_-1' if index == layers - 1 else f'layer_{index}'
            losses[f'{name}_loss_cls'] = self.loss_cls(
                scores[:, layer].flatten(0, 1),
                targets.labels[:, layer].flatten(),
                targets.label_weights[:, layer].flatten(),
                avg_factor=count,
            )
            losses[f'{name}_loss_bbox'] = self.loss_bbox(
                codes[:, layer], targets.boxes[:, layer], weights[:, layer], avg_factor=count
            )
        losses['matched_ious'] = targets.matched_iou
        return losses
