"""What each instance should predict: Hungarian matching, and noisy copies of the truth to be denoised (Sparse4D v3)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Callable, NamedTuple, Optional, Union, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...constants import constant
from ...ops.sizes import takes_whole_numbers
from ..matching import labels_below, match
from .box3d import Truth
from .instance_bank import InstanceBank

PAD, NEGATIVE = -1, -3  # labels of what is only there to fill up, and of noise that is no object


@dataclass
class Noisy:
    """Noisy boxes in G groups of n, each group a noisy copy of the whole truth.

    Attributes:
        anchor (Tensor): states, [B, G, n, 11].
        boxes (Tensor): the states they should become, [B, G, n, 10]; zeros where there is none.
        labels (Tensor): int64 [B, G, n]; `PAD` or `NEGATIVE` where there is no object.
        valid (Tensor): bool [B, G, n], whether it is there at all.
        ids (Tensor): int64 [B, G, n], which object it is; -1 unknown.
        feature (Tensor, optional): [B, G, n, C], as the last layer left it.
    """

    anchor: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    ids: Tensor
    feature: Optional[Tensor] = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> 'Noisy':
        """`function` of each tensor."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else function(v) for k, v in values.items()}
        return Noisy(**changed)

    def attention_mask(self) -> Tensor:
        """Bool [G * n, G * n]: what must not see each other, other groups."""
        groups, size = self.labels.shape[1:]
        group = torch.arange(groups * size, device=self.labels.device) // size
        return group[:, None] != group


def _padded(values: Sequence[Tensor], size: int, fill: float) -> Tensor:
    """Stack [n_i, ...] as [B, size, ...]."""
    out = values[0].new_full((len(values), size, *values[0].shape[1:]), fill)
    for row, value in zip(out, values):
        row[: len(value)] = value
    return out


class Matched(NamedTuple):
    """What the A instances of B samples should predict in each of L layers.

    Attributes:
        labels (Tensor): int64 [L, B * A], `classes` where there is no object.
        rows (Tensor): int64 [L, K], the instances that predict an object, ascending.
        objects (Tensor): int64 [L, K], which of the batch's objects.
        boxes, weights (Tensor): [L, K, 10], states and the weights of their parts.
    """

    labels: Tensor
    rows: Tensor
    objects: Tensor
    boxes: Tensor
    weights: Tensor


class SparseBox3DTarget:
    """Matches predictions to the truth, and makes noisy boxes.

    Args:
        cls_weight, box_weight (float): factors of the costs of class and box.
        alpha, gamma (float): of the focal cost.
        eps (float): least probability in it.
        reg_weights (Sequence[float], optional): factors of a state's 10 parts in the cost.
        cls_wise_reg_weights (dict, optional): label -> factors of the 10 parts, in cost and loss.
        num_dn_groups (int): groups of noisy boxes; none below 1.
        num_temp_dn_groups (int): how many of them go on to the next frame.
        dn_noise_scale (float or Sequence[float]): greatest noise of each part of a positive box; a negative one has
            once to twice as much.
        max_dn_gt (int): at most so many objects of a frame get noisy boxes; all below 1.
        add_neg_dn (bool): also make noisy boxes that are too far off.
    """

    @takes_whole_numbers
    def __init__(
        self,
        cls_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2,
        eps: float = 1e-12,
        box_weight: float = 0.25,
        reg_weights: Optional[Sequence[float]] = None,
        cls_wise_reg_weights: Optional[dict] = None,
        num_dn_groups: int = 0,
        num_temp_dn_groups: int = 0,
        dn_noise_scale: Union[float, Sequence[float]] = 0.5,
        max_dn_gt: int = 32,
        add_neg_dn: bool = True,
    ) -> None:
        if num_temp_dn_groups > num_dn_groups:
            raise ValueError(
                f'num_temp_dn_groups must be at most num_dn_groups, was {num_temp_dn_groups} of {num_dn_groups}'
            )
        numbers: dict[str, Any] = {
            f'cls_wise_reg_weights[{k}]': v for k, v in (cls_wise_reg_weights or {}).items()
        }
        numbers.update(reg_weights=reg_weights, dn_noise_scale=dn_noise_scale)
        for name, values in numbers.items():
            if isinstance(values, Sequence) and len(values) != 10:
                raise ValueError(
                    f'{name} must have 10 numbers, one for each part of a state, was {values}'
                )
        self.cls_weight = cls_weight
        self.alpha, self.gamma, self.eps = alpha, gamma, eps
        self.box_weight = box_weight
        self.reg_weights = reg_weights or [1.0] * 8 + [0.0] * 2
        self.cls_wise_reg_weights = cls_wise_reg_weights or {}
        self.num_dn_groups = num_dn_groups
        self.num_temp_dn_groups = num_temp_dn_groups
        self.dn_noise_scale = dn_noise_scale
        self.max_dn_gt = max_dn_gt
        self.add_neg_dn = add_neg_dn
        self.history: Optional[Noisy] = None

    def sample(self, cls_pred: Tensor, box_pred: Tensor, truth: Truth) -> tuple:
        """Match.

        Args:
            cls_pred (Tensor): logits, [B, A, classes].
            box_pred (Tensor): states, [B, A, 10].
            truth (Truth): the objects.

        Returns:
            tuple[Tensor, Tensor, Tensor]: labels, int64 [B, A], `classes` where there is no object; states and the
            weights of their parts, [B, A, 10].
        """
        found = self.match(cls_pred[None], box_pred[None], truth)
        rows = found.rows[0]
        boxes, weights = (
            torch.zeros_like(box_pred)
            .flatten(0, 1)
            .index_copy(0, rows, values[0])
            .view_as(box_pred)
            for values in (found.boxes, found.weights)
        )
        return found.labels[0].view(cls_pred.shape[:2]), boxes, weights

    @torch.no_grad()
    def match(self, cls_pred: Tensor, box_pred: Tensor, truth: Truth) -> Matched:
        """Match the predictions of all layers, with one wait for the device.

        Args:
            cls_pred (Tensor): logits, [L, B, A, classes].
            box_pred (Tensor): states, [L, B, A, 10].
            truth (Truth): the objects.

        Returns:
            Matched: see there.
        """
        layers, size, instances, classes = cls_pred.shape
        counts = [len(labels) for labels in truth.labels]
        gt_labels, gt_boxes = torch.cat(truth.labels), torch.cat(truth.boxes)
        factors = (~gt_boxes.isnan()).to(box_pred)
        gt_boxes = gt_boxes.nan_to_num().to(box_pred)
        for label, values in self.cls_wise_reg_weights.items():
            of_class = constant(values, factors.device, factors.dtype)
            factors = torch.where((gt_labels == int(label))[:, None], of_class, factors)
        gain = self._cls_gain(cls_pred)
        costs: list[Tensor] = []
        per_sample = (x.split(counts) for x in (gt_labels, gt_boxes, factors))
        for i, (labels, boxes, weights) in enumerate(zip(*per_sample)):
            with labels_below(classes, 'num_cls of refine_layer'):
                cost = gain[:, i][..., labels] * self.cls_weight
            costs += (cost + self._box_cost(box_pred[:, i], boxes, weights)).unbind(0)
        pairs = match(costs)

        # Sample by sample in `pairs`, and in each layer by layer.
        firsts = np.cumsum([0, *counts])
        index = np.array(
            [
                [
                    np.concatenate(
                        [i * instances + pairs[i * layers + layer][0] for i in range(size)]
                    ),
                    np.concatenate([firsts[i] + pairs[i * layers + layer][1] for i in range(size)]),
                ]
                for layer in range(layers)
            ]
        )
        rows, objects = torch.from_numpy(index).to(gt_labels.device).unbind(1)
        layer = torch.arange(layers, device=rows.device)[:, None] * (size * instances)
        labels = gt_labels.new_full((layers * size * instances,), classes)
        labels = labels.index_copy(0, (rows + layer).flatten(), gt_labels[objects].flatten())
        return Matched(labels.view(layers, -1), rows, objects, gt_boxes[objects], factors[objects])

    def _cls_gain(self, logits: Tensor) -> Tensor:
        """What a focal loss loses by taking an instance for an object of a class, [..., classes]."""
        share = logits.sigmoid()
        no = -(1 - share + self.eps).log() * (1 - self.alpha) * share.pow(self.gamma)
        yes = -(share + self.eps).log() * self.alpha * (1 - share).pow(self.gamma)
        return yes - no

    def _box_cost(self, boxes: Tensor, truth: Tensor, factors: Tensor) -> Tensor:
        """Weighed distance of states [..., A, 10] and [..., n, 10], [..., A, n]."""
        factors = factors * constant(self.reg_weights, factors.device, factors.dtype)
        gap = (boxes[..., :, None, :] - truth[..., None, :, :]).abs()
        return (gap * factors[..., None, :, :]).sum(-1) * self.box_weight

    @torch.no_grad()
    def noisy(self, truth: Truth, state_dims: int) -> Optional[Noisy]:
        """Noisy boxes around the truth.

        Args:
            truth (Truth): the objects.
            state_dims (int): parts of a state; what the truth has less is zero.

        Returns:
            Noisy: or None where there is no object, or noisy boxes are not wanted.
        """
        most = self.max_dn_gt if self.max_dn_gt > 0 else None
        size = max((len(labels[:most]) for labels in truth.labels), default=0)
        if self.num_dn_groups < 1 or size == 0:
            return None
        labels = _padded([x[:most] for x in truth.labels], size, PAD)
        boxes = _padded([x[:most].nan_to_num() for x in truth.boxes], size, 0.0)
        ids = torch.full_like(labels, -1)
        if truth.ids is not None:
            ids = _padded([x[:most] for x in truth.ids], size, -1)

        groups = self.num_dn_groups
        labels, ids = (x[:, None].expand(-1, groups, -1) for x in (labels, ids))
        boxes = boxes[:, None].expand(-1, groups, -1, -1)
        noise = self.dn_noise_scale
        scale: Union[float, Tensor] = (
            constant(noise, boxes.device, boxes.dtype) if isinstance(noise, Sequence) else noise
        )
        anchor, slot = boxes + (torch.rand_like(boxes) * 2 - 1) * scale, labels
        if self.add_neg_dn:
            distance = torch.rand_like(boxes) + 1
            away = boxes + torch.where(torch.rand_like(boxes) > 0.5, distance, -distance) * scale
            anchor, slot = torch.cat([anchor, away], 2), torch.cat([labels, labels], 2)

        # Noise may have carried a box to another object: the nearest ones are meant.
        costs = self._box_cost(anchor, boxes, torch.ones_like(boxes)).flatten(0, 1)
        pairs = torch.from_numpy(np.array(match(costs.unbind(0)))).to(labels.device)
        found, meant = pairs.unflatten(0, (-1, groups)).unbind(2)
        full = anchor.shape[:3]
        places = (found, full[2]), (meant, size)
        group = torch.arange(found.shape[0] * groups, device=found.device)[:, None]
        to, source = ((x.flatten(0, 1) + group * n).flatten() for x, n in places)

        def place(values: Tensor, fill: float) -> Tensor:
            """What is meant, where it is found, and elsewhere `fill`."""
            given = values.flatten(0, 2)[source]
            out = given.new_full((full.numel(), *given.shape[1:]), fill)
            return out.index_copy(0, to, given).unflatten(0, full)

        targets = Noisy(
            anchor=F.pad(anchor, (0, state_dims - anchor.shape[-1])),
            boxes=place(boxes, 0.0),
            labels=place(labels, NEGATIVE),
            valid=torch.zeros(full, dtype=torch.bool, device=labels.device),
            ids=place(ids, -1),
        )
        targets.valid = (targets.labels >= 0) | ((slot >= 0) & (targets.labels == NEGATIVE))
        return targets

    def go_on(self, now: Noisy, bank: InstanceBank, feature: Tensor, anchor: Tensor) -> tuple:
        """Put the groups that the frame before handed on in the place of the present frame's first ones.

        Args:
            now (Noisy): the present frame's.
            bank (InstanceBank): knows how the samples go on.
            feature (Tensor): [B, G * n, C], of the present frame's.
            anchor (Tensor): states, [B, G * n, 11].

        Returns:
            tuple: features, states, and the `Noisy` that they are now; None where nothing goes on.
        """
        if self.history is None or bank.before is None or bank.rows is None:
            return feature, anchor, None
        shape = now.labels.shape[1:]
        now = Noisy(
            anchor.unflatten(1, shape),
            now.boxes,
            now.labels,
            now.valid,
            now.ids,
            feature.unflatten(1, shape),
        )
        rows = bank.rows.to(anchor.device)
        past = self.history.apply(lambda x: x[rows])
        kept, size = past.labels.shape[1:]
        past.anchor = bank.project(past.anchor.flatten(1, 2)).unflatten(1, (kept, size))
        # Where the objects are now; what is gone is no object any more.
        same = past.ids[..., None] == now.ids[:, :kept, None]
        same &= past.ids[..., None] >= 0
        past.boxes = same.to(now.boxes) @ now.boxes[:, :kept]
        gone = (past.labels >= 0) & ~same.any(-1)
        past.labels = torch.where(gone, PAD, past.labels)

        def merge(old: Tensor, new: Tensor) -> Tensor:
            short = new.shape[2] - size
            if short > 0:
                old = torch.cat([old, old.new_zeros(*old.shape[:2], short, *old.shape[3:])], 2)
            old = old[:, :, : new.shape[2]]
            known = bank.mask.view(-1, *[1] * (new.dim() - 1))
            return torch.cat([torch.where(known, old, new[:, :kept]), new[:, kept:]], 1)

        merged = Noisy(*(merge(getattr(past, f.name), getattr(now, f.name)) for f in fields(Noisy)))
        feature = cast(Tensor, merged.feature)  # `now` has one
        return feature.flatten(1, 2), merged.anchor.flatten(1, 2), merged

    @torch.no_grad()
    def cache(
        self, noisy: Optional[Noisy], feature: Optional[Tensor], anchor: Optional[Tensor]
    ) -> None:
        """Keep some groups for the next frame.

        Args:
            noisy (Noisy, optional): the present frame's.
            feature (Tensor): [B, G * n, C], as the last layer left them.
            anchor (Tensor): states, [B, G * n, 11].
        """
        self.history = None
        if noisy is None or feature is None or anchor is None or self.num_temp_dn_groups < 1:
            return
        shape = noisy.labels.shape[1:]
        whole = Noisy(
            anchor.detach().unflatten(1, shape),
            noisy.boxes,
            noisy.labels,
            noisy.valid,
            noisy.ids,
            feature.detach().unflatten(1, shape),
        )
        groups = torch.randperm(self.num_dn_groups)[: self.num_temp_dn_groups].sort().values
        groups = groups.to(anchor.device)
        self.history = whole.apply(lambda x: x[:, groups])

    def reset(self) -> None:
        """Forget the frame before."""
        self.history = None
