"""The decoder of Sparse4D: instances that look at each other, at the frame before, and into the images."""

from collections.abc import Sequence
from typing import Any, Optional, cast

import torch
from mmdet.utils import reduce_mean
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.model import BaseModule
from mmengine.registry import Registry
from torch import Tensor, nn

from .aggregation import DeformableFeatureAggregation
from .box3d import Frame, Truth
from .target import Noisy

STATE = 10  # parts of a state that are learned: velocity in z is not


class Sparse4DHead(BaseModule):
    """A sequence of operations on the instances; their parameters are those of `layers`, one for each.

    Args:
        instance_bank, anchor_encoder (dict): configs of the instances and of the embedding of their boxes.
        graph_model, norm_layer, ffn, deformable_model, refine_layer (dict): configs of the operations 'gnn', 'norm',
            'ffn', 'deformable', 'refine'.
        temp_graph_model (dict, optional): config of 'temp_gnn', attention to the frame before.
        num_decoder (int): refinements, where there is no operation_order.
        num_single_frame_decoder (int): after so many refinements the instances of the frame before come in.
        operation_order (Sequence[str], optional): the operations.
        depth_module (dict, optional): config of the weights by depth (v1).
        kps_generator (dict, optional): config of the points at which these are learned (v1).
        loss_cls, loss_reg (dict, optional): configs of the losses.
        sampler, decoder (dict, optional): configs of the targets and of the boxes.
        reg_weights (Sequence[float], optional): factors of the 10 parts of a state in the loss.
        cls_threshold_to_reg (float): boxes of instances with a lower score are not learned; below 0 all are.
        decouple_attn (bool): features and embeddings side by side in the attention, not added (v3).
        with_instance_id (bool): predict tracks.
    """

    def __init__(
        self,
        instance_bank: dict,
        anchor_encoder: dict,
        graph_model: dict,
        norm_layer: dict,
        ffn: dict,
        deformable_model: dict,
        refine_layer: dict,
        num_decoder: int = 6,
        num_single_frame_decoder: int = -1,
        temp_graph_model: Optional[dict] = None,
        depth_module: Optional[dict] = None,
        kps_generator: Optional[dict] = None,
        loss_cls: Optional[dict] = None,
        loss_reg: Optional[dict] = None,
        decoder: Optional[dict] = None,
        sampler: Optional[dict] = None,
        reg_weights: Optional[Sequence[float]] = None,
        operation_order: Optional[Sequence[str]] = None,
        cls_threshold_to_reg: float = -1,
        decouple_attn: bool = True,
        with_instance_id: bool = True,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_single_frame_decoder = num_single_frame_decoder
        self.cls_threshold_to_reg = cls_threshold_to_reg
        self.decouple_attn = decouple_attn
        self.with_instance_id = with_instance_id
        self.reg_weights = list(reg_weights or [1.0] * STATE)
        if len(self.reg_weights) != STATE:
            raise ValueError(f'reg_weights must have {STATE} numbers, was {self.reg_weights}')
        if operation_order is None:
            # The first layer has nothing to look at yet.
            layer = 'temp_gnn', 'gnn', 'norm', 'deformable', 'norm', 'ffn', 'norm', 'refine'
            operation_order = (layer * num_decoder)[3:]
        configs = dict(
            temp_gnn=temp_graph_model,
            gnn=graph_model,
            norm=norm_layer,
            ffn=ffn,
            deformable=deformable_model,
            refine=refine_layer,
        )
        for name in operation_order:
            if name not in configs:
                raise ValueError(
                    f'operation_order must be made of {", ".join(configs)}, has {name!r}'
                )

        def build(config: Optional[dict], registry: Registry = MODELS) -> Any:
            return None if config is None else registry.build(config)

        self.operation_order = list(operation_order)
        self.instance_bank = build(instance_bank)
        self.anchor_encoder = build(anchor_encoder)
        self.depth_module = build(depth_module)
        self.kps_generator = build(kps_generator)
        self.loss_cls = build(loss_cls)
        self.loss_reg = build(loss_reg)
        self.sampler = build(sampler, TASK_UTILS)
        self.decoder = build(decoder, TASK_UTILS)
        self.layers = nn.ModuleList(build(configs[name]) for name in self.operation_order)
        dims = self.instance_bank.embed_dims
        if decouple_attn:
            self.fc_before: nn.Module = nn.Linear(dims, dims * 2, bias=False)
            self.fc_after: nn.Module = nn.Linear(dims * 2, dims, bias=False)
        else:
            self.fc_before, self.fc_after = nn.Identity(), nn.Identity()

    def init_weights(self) -> None:
        """Xavier for all but the refinements, then what the parts have of their own."""
        for name, layer in zip(self.operation_order, self.layers):
            if layer is not None and name != 'refine':
                for weight in layer.parameters():
                    if weight.dim() > 1:
                        nn.init.xavier_uniform_(weight)
        for module in self.modules():
            if module is not self and 'init_weights' in vars(type(module)):
                module.init_weights()

    def _attend(
        self,
        layer: nn.Module,
        query: Tensor,
        query_pos: Tensor,
        value: Optional[Tensor],
        key: Optional[Tensor] = None,
        key_pos: Optional[Tensor] = None,
        attn_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Attention of instances, features and embeddings added or side by side."""
        at_query: Optional[Tensor] = query_pos
        if self.decouple_attn:
            query, at_query = torch.cat([query, query_pos], -1), None
            if key is not None and key_pos is not None:
                key, key_pos = torch.cat([key, key_pos], -1), None
            if value is not None:
                value = self.fc_before(value)
        out = layer(query, key, value, query_pos=at_query, key_pos=key_pos, attn_mask=attn_mask)
        return self.fc_after(out)

    def _attend_before(
        self,
        layer: nn.Module,
        feature: Tensor,
        embed: Tensor,
        temp_feature: Optional[Tensor],
        temp_embed: Optional[Tensor],
        attn_mask: Optional[Tensor],
    ) -> Tensor:
        """Attention to the frame before; samples that begin anew attend to their own instances."""
        known = self.instance_bank.known
        if temp_feature is None or temp_embed is None or not known.any():
            return self._attend(layer, feature, embed, None, attn_mask=attn_mask)
        if known.all():
            return self._attend(layer, feature, embed, temp_feature, temp_feature, temp_embed)
        device = feature.device
        old, new = (rows.nonzero()[:, 0].to(device) for rows in (known, ~known))
        parts = [
            self._attend(
                layer,
                feature[old],
                embed[old],
                temp_feature[old],
                temp_feature[old],
                temp_embed[old],
            ),
            self._attend(layer, feature[new], embed[new], None, attn_mask=attn_mask),
        ]
        return torch.cat(parts)[torch.cat([old, new]).argsort()]

    def forward(
        self,
        feature_maps: Sequence[Tensor],
        frame: Frame,
        truth: Optional[Truth] = None,
        queue: Sequence = (),
    ) -> dict:
        """Run all operations.

        Args:
            feature_maps (Sequence[Tensor]): from `flatten_maps`.
            frame (Frame): that of the maps.
            truth (Truth, optional): the objects, in training.
            queue (Sequence): (feature_maps, frame) of frames before, the latest first, in training (v1).

        Returns:
            dict: classification, prediction, quality: lists with one item for each refinement; logits
            [B, A, classes] or None, states [B, A, 11], logits [B, A, 2] or None. instance_id, int64 [B, A]. In
            training with noise: noisy, dn_classification, dn_prediction, and temp_noisy where it goes on from the
            frame before.
        """
        bank = self.instance_bank
        feature, anchor, temp_feature, temp_anchor, seconds = bank.get(frame)
        queue = [*queue, *bank.queue(frame)]
        free = feature.shape[1]
        noisy = temp_noisy = attn_mask = None
        if self.training and truth is not None:
            noisy = self.sampler.noisy(truth, anchor.shape[-1])
        if noisy is not None:
            added = noisy.anchor.flatten(1, 2)
            anchor = torch.cat([anchor, added.to(anchor)], 1)
            zeros = feature.new_zeros(*added.shape[:2], feature.shape[-1])
            feature = torch.cat([feature, zeros], 1)
            # Instances do not see the noise, which would tell them the truth; each group sees itself.
            attn_mask = torch.ones(
                anchor.shape[1], anchor.shape[1], dtype=torch.bool, device=anchor.device
            )
            attn_mask[:free, :free] = False
            attn_mask[free:, free:] = noisy.attention_mask()

        embed = self.anchor_encoder(anchor)
        temp_embed = None if temp_anchor is None else self.anchor_encoder(temp_anchor)
        predictions: list[Tensor] = []
        logits, qualities = [], []
        for i, (name, layer) in enumerate(zip(self.operation_order, self.layers)):
            if layer is None:
                continue
            if name == 'temp_gnn':
                feature = self._attend_before(
                    layer, feature, embed, temp_feature, temp_embed, attn_mask
                )
            elif name == 'gnn':
                feature = self._attend(layer, feature, embed, feature, attn_mask=attn_mask)
            elif name == 'deformable':
                feature = layer(
                    feature,
                    anchor,
                    embed,
                    feature_maps,
                    frame,
                    queue,
                    self.depth_module,
                    self.anchor_encoder,
                )
            elif name != 'refine':
                feature = layer(feature)
            else:
                last = i == len(self.layers) - 1
                first = len(predictions) + 1 == self.num_single_frame_decoder
                anchor, cls, quality = layer(
                    feature, anchor, embed, seconds, return_cls=self.training or first or last
                )
                predictions.append(anchor)
                logits.append(cls)
                qualities.append(quality)
                if first:
                    feature, anchor = bank.update(feature, anchor, cls)
                    if noisy is not None and truth is not None and truth.ids is not None:
                        parts = noisy, bank, feature[:, free:], anchor[:, free:]
                        dn_feature, dn_anchor, temp_noisy = self.sampler.go_on(*parts)
                        feature = torch.cat([feature[:, :free], dn_feature], 1)
                        anchor = torch.cat([anchor[:, :free], dn_anchor], 1)
                if not last:
                    embed = self.anchor_encoder(anchor)
                    if temp_embed is not None and len(predictions) > self.num_single_frame_decoder:
                        temp_embed = embed[:, : bank.num_temp_instances]

        out: dict[str, Any] = dict(
            classification=[x if x is None else x[:, :free] for x in logits],
            prediction=[x[:, :free] for x in predictions],
            quality=[x if x is None else x[:, :free] for x in qualities],
        )
        if self.training:
            noise = None if truth is None or truth.ids is None else (temp_noisy or noisy)
            self.sampler.cache(noise, feature[:, free:], anchor[:, free:])
        if noisy is not None:
            out.update(
                noisy=noisy,
                temp_noisy=temp_noisy,
                dn_classification=[x[:, free:] for x in logits],
                dn_prediction=[x[:, free:] for x in predictions],
            )
        out['instance_id'] = bank.cache(
            feature[:, :free],
            anchor[:, :free],
            logits[-1][:, :free],
            frame,
            feature_maps,
            getattr(self.decoder, 'score_threshold', None),
        )
        return out

    def loss(self, out: dict, truth: Truth, feature_maps: Sequence[Tensor], frame: Frame) -> dict:
        """Losses of what `forward` returned in training."""
        losses = {}
        count = feature_maps[0].new_ones(())
        for i, (cls, box, quality) in enumerate(
            zip(out['classification'], out['prediction'], out['quality'])
        ):
            box = box[..., :STATE]
            labels, target, weight = self.sampler.sample(cls, box, truth)
            positive = labels < cls.shape[-1]
            count = reduce_mean(positive.sum().to(cls)).clamp(min=1)
            losses[f'loss_cls_{i}'] = self.loss_cls(
                cls.flatten(0, 1), labels.flatten(), avg_factor=count
            )
            if self.cls_threshold_to_reg > 0:
                positive = positive & (cls.amax(-1).sigmoid() > self.cls_threshold_to_reg)
            losses.update(
                self.loss_reg(
                    box[positive],
                    target[positive],
                    weight[positive] * weight.new_tensor(self.reg_weights),
                    count,
                    f'_{i}',
                    None if quality is None else quality[positive],
                    labels[positive],
                )
            )
        if 'noisy' in out:
            self._denoising_loss(out, losses)
        if self.depth_module is not None and self.kps_generator is not None:
            losses['loss_depth'] = self._depth_loss(truth, feature_maps, frame) / count
        return losses

    def _denoising_loss(self, out: dict, losses: dict) -> None:
        """The noisy boxes' losses: they know which object they are."""
        noisy: Noisy = out['noisy']
        for i, (cls, box) in enumerate(zip(out['dn_classification'], out['dn_prediction'])):
            if out['temp_noisy'] is not None and i == self.num_single_frame_decoder:
                noisy = out['temp_noisy']
            valid, labels = noisy.valid.flatten(1), noisy.labels.flatten(1)
            count = reduce_mean(valid.sum().to(cls)).clamp(min=1)
            labels = torch.where(labels < 0, cls.shape[-1], labels)
            losses[f'loss_cls_dn_{i}'] = self.loss_cls(cls[valid], labels[valid], avg_factor=count)
            valid = valid & (labels < cls.shape[-1])
            box, target = box[valid][:, :STATE], noisy.boxes.flatten(1, 2)[valid]
            weight = box.new_tensor(self.reg_weights).expand_as(box)
            losses.update(self.loss_reg(box, target.to(box), weight, count, f'_dn_{i}'))

    def _depth_loss(self, truth: Truth, feature_maps: Sequence[Tensor], frame: Frame) -> Tensor:
        """What is seen at the points of an object is at their depth."""
        layer = next(x for x in self.layers if hasattr(x, 'aggregation'))
        aggregator = cast(DeformableFeatureAggregation, layer)
        total = feature_maps[0].new_zeros(())
        for i, boxes in enumerate(truth.boxes):
            if len(boxes) == 0:
                continue
            sample = frame.rows(torch.tensor([i]))
            points = self.kps_generator(boxes[None].to(total))
            cameras, levels = feature_maps[1].shape[:2]
            weight = points.new_full(
                (*points.shape[:3], cameras, levels, aggregator.num_groups), 1 / (cameras * levels)
            )
            maps = [feature_maps[0][i : i + 1], *feature_maps[1:]]
            seen = aggregator.sample(points, maps, sample, weight)
            confidence = self.depth_module.confidence(seen, boxes[None, :, None].to(seen))
            total = total - confidence.log().sum()
        return total / self.kps_generator.num_pts

    def predict(self, out: dict) -> list:
        """Boxes of what `forward` returned.

        Returns:
            list[InstanceData]: see `SparseBox3DDecoder.decode`.
        """
        ids = out['instance_id'] if self.with_instance_id else None
        last = (out[name][-1] for name in ('classification', 'prediction', 'quality'))
        logits, states, quality = last
        return self.decoder.decode(logits, states, ids, quality)
