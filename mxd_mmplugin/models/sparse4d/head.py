"""The decoder of Sparse4D: instances that look at each other, at the frame before, and into the images."""

from collections.abc import Sequence
from typing import Any, Optional, cast

import torch
from mmdet.utils import reduce_mean
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.model import BaseModule
from mmengine.registry import Registry
from torch import Tensor, nn

from ...constants import constant
from ...ops.sizes import takes_whole_numbers
from .aggregation import DeformableFeatureAggregation
from .box3d import Frame, Truth
from .loss import sum_layers

STATE = 10  # parts of a state that are learned: velocity in z is not


def _by_layer(losses: dict, kind: str) -> dict:
    """Losses [L] as one number for each layer, with its number in the name."""
    return {
        f'{name}{kind}_{i}': value
        for name, values in losses.items()
        for i, value in enumerate(values.unbind())
    }


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

    @takes_whole_numbers
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

        refinements = sum(name == 'refine' for name in operation_order)
        if not refinements or operation_order[-1] != 'refine':
            raise ValueError(f"operation_order must end with 'refine', was {[*operation_order]}")
        if num_single_frame_decoder > refinements:
            raise ValueError(
                f"num_single_frame_decoder must be at most the {refinements} 'refine' of operation_order, was "
                f'{num_single_frame_decoder}'
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
        self._check_widths()
        dims = self.instance_bank.embed_dims
        if decouple_attn:
            self.fc_before: nn.Module = nn.Linear(dims, dims * 2, bias=False)
            self.fc_after: nn.Module = nn.Linear(dims * 2, dims, bias=False)
        else:
            self.fc_before, self.fc_after = nn.Identity(), nn.Identity()

    def _check_widths(self) -> None:
        """Refuse parts whose embed_dims differ; attention has both features and embeddings with decouple_attn."""
        dims = self.instance_bank.embed_dims
        wide = dims * (2 if self.decouple_attn else 1)
        options = dict(
            temp_gnn=('temp_graph_model', wide),
            gnn=('graph_model', wide),
            ffn=('ffn', dims),
            deformable=('deformable_model', dims),
            refine=('refine_layer', dims),
        )
        widths = [('anchor_encoder', self.anchor_encoder, dims, 'output_dims')]
        for name, layer in zip(self.operation_order, self.layers):
            if name in options:
                option, expected = options[name]
                widths.append((option, layer, expected, 'embed_dims'))
        for option, part, expected, attribute in widths:
            width = getattr(part, attribute, expected)
            if width != expected:
                raise ValueError(
                    f'embed_dims of {option} must make {expected} channels, with {dims} of instance_bank and '
                    f'decouple_attn={self.decouple_attn}, made {width}'
                )

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
        goes_on = known.tolist()
        if temp_feature is None or temp_embed is None or not any(goes_on):
            return self._attend(layer, feature, embed, None, attn_mask=attn_mask)
        if all(goes_on):
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

        # The instances and the noise; one gradient goes back for both.
        sizes = [free, anchor.shape[1] - free]
        logits, boxes, qualities = (
            [(None, None) if x is None else x.split(sizes, 1) for x in values]
            for values in (logits, predictions, qualities)
        )
        out: dict[str, Any] = dict(
            classification=[x for x, _ in logits],
            prediction=[x for x, _ in boxes],
            quality=[x for x, _ in qualities],
        )
        if self.training:
            noise = None if truth is None or truth.ids is None else (temp_noisy or noisy)
            self.sampler.cache(noise, feature[:, free:], anchor[:, free:])
        if noisy is not None:
            out.update(
                noisy=noisy,
                temp_noisy=temp_noisy,
                dn_classification=[x for _, x in logits],
                dn_prediction=[x for _, x in boxes],
            )
        out['instance_id'] = bank.cache(
            feature[:, :free],
            anchor[:, :free],
            logits[-1][0],
            frame,
            feature_maps,
            getattr(self.decoder, 'score_threshold', None),
        )
        return out

    def loss(self, out: dict, truth: Truth, feature_maps: Sequence[Tensor], frame: Frame) -> dict:
        """Losses of what `forward` returned in training, each for all layers at once; one wait for the device."""
        logits, boxes = (torch.stack(out[name]) for name in ('classification', 'prediction'))
        boxes = boxes[..., :STATE]
        found = self.sampler.match(logits.detach(), boxes.detach(), truth)
        logits, boxes = logits.flatten(1, 2), boxes.flatten(1, 2)
        total = logits.new_full((), found.rows.shape[1])
        count = reduce_mean(total).clamp(min=1)
        losses = {'loss_cls': sum_layers(self.loss_cls, logits, found.labels, None, count)}

        def at_objects(values: Tensor) -> Tensor:  # [L, B * A, ...] -> [L, K, ...]
            index = found.rows.view(*found.rows.shape, *[1] * (values.dim() - 2))
            return values.gather(1, index.expand(*found.rows.shape, *values.shape[2:]))

        weights = found.weights * constant(self.reg_weights, boxes.device, boxes.dtype)
        counted = None
        if self.cls_threshold_to_reg > 0:
            scores = at_objects(logits.detach()).amax(-1).sigmoid()
            counted = (scores > self.cls_threshold_to_reg).to(boxes)
            weights = weights * counted[..., None]
        quality = out['quality'][0]
        if quality is not None:
            quality = at_objects(torch.stack(out['quality']).flatten(1, 2))
        labels = found.labels.gather(1, found.rows)
        losses.update(
            self.loss_reg(at_objects(boxes), found.boxes, weights, count, quality, labels, counted)
        )
        named = _by_layer(losses, '')
        if 'noisy' in out:
            named.update(_by_layer(self._denoising_losses(out), '_dn'))
        if self.depth_module is not None and self.kps_generator is not None:
            named['loss_depth'] = self._depth_loss(truth, feature_maps, frame) / count
        return named

    def _denoising_losses(self, out: dict) -> dict:
        """The noisy boxes' losses, [L] each: they know which object they are."""
        logits, boxes = (torch.stack(out[name]) for name in ('dn_classification', 'dn_prediction'))
        layers, before = len(logits), self.num_single_frame_decoder
        if out['temp_noisy'] is None:
            before = layers

        def of_layers(name: str) -> Tensor:
            """Of the noise that each layer sees, [L, B * G * n, ...]."""
            kinds = [(out['noisy'], before)]
            if before < layers:
                kinds.append((out['temp_noisy'], layers - before))
            rows = [getattr(noisy, name).flatten(0, 2)[None] for noisy, _ in kinds]
            return torch.cat([x.expand(n, *x.shape[1:]) for x, (_, n) in zip(rows, kinds)])

        valid, labels = of_layers('valid').to(logits), of_layers('labels')
        classes = logits.shape[-1]
        objects = (labels >= 0).to(logits) * valid
        labels = torch.where(labels < 0, classes, labels)
        count = reduce_mean(valid.sum(1)).clamp(min=1)
        weights = objects[..., None] * constant(self.reg_weights, boxes.device, boxes.dtype)
        boxes, target = boxes.flatten(1, 2)[..., :STATE], of_layers('boxes').to(boxes)
        return {
            'loss_cls': sum_layers(self.loss_cls, logits.flatten(1, 2), labels, valid, count),
            **self.loss_reg(boxes, target, weights, count),
        }

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
