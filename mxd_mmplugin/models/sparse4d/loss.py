"""The loss of boxes and of their estimated quality."""

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from .box3d import CENTER, YAW


class SparseBox3DLoss(nn.Module):
    """Loss of states, of centerness, exp(-distance of the middles), and of yawness: does the box look forward?

    Args:
        loss_box (dict): config of the loss of states.
        loss_centerness, loss_yawness (dict, optional): configs of those of the quality.
        cls_allow_reverse (Sequence[int], optional): classes that look the same from the front and behind.
    """

    def __init__(
        self,
        loss_box: dict,
        loss_centerness: Optional[dict] = None,
        loss_yawness: Optional[dict] = None,
        cls_allow_reverse: Optional[Sequence[int]] = None,
    ) -> None:
        super().__init__()
        self.loss_box = MODELS.build(loss_box)
        self.loss_cns = None if loss_centerness is None else MODELS.build(loss_centerness)
        self.loss_yns = None if loss_yawness is None else MODELS.build(loss_yawness)
        self.cls_allow_reverse = list(cls_allow_reverse or ())

    def forward(
        self,
        box: Tensor,
        target: Tensor,
        weight: Tensor,
        avg_factor: Tensor,
        quality: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
        counts: Optional[Tensor] = None,
    ) -> dict:
        """Losses of n boxes in each of L layers.

        Args:
            box, target, weight (Tensor): [L, n, 10].
            avg_factor (Tensor): what the sums are divided by, one number or [L].
            quality (Tensor, optional): logits, [L, n, 2].
            labels (Tensor, optional): int64 [L, n].
            counts (Tensor, optional): [L, n], 1 for boxes whose quality counts, else 0; all without.

        Returns:
            dict[str, Tensor]: loss_box, and loss_cns and loss_yns where there is a quality, [L].
        """
        seen = box.detach()
        agree = F.cosine_similarity(target[..., YAW], seen[..., YAW], dim=-1) > 0
        if self.cls_allow_reverse and labels is not None:
            either = torch.zeros_like(agree)
            for label in self.cls_allow_reverse:
                either = either | (labels == label)
            sign = torch.where(either & ~agree, -1.0, 1.0).to(target)
            target = target * F.pad(
                sign[..., None].expand(*sign.shape, YAW.stop - YAW.start),
                (YAW.start, target.shape[-1] - YAW.stop),
                value=1.0,
            )
            agree = agree | either
        losses = {'loss_box': sum_layers(self.loss_box, box, target, weight, avg_factor)}
        if quality is not None:
            distance = (target[..., CENTER] - seen[..., CENTER]).norm(dim=-1)
            centerness, yawness = quality.unbind(-1)
            if self.loss_cns is not None:
                losses['loss_cns'] = sum_layers(
                    self.loss_cns, centerness, torch.exp(-distance), counts, avg_factor
                )
            if self.loss_yns is not None:
                losses['loss_yns'] = sum_layers(
                    self.loss_yns, yawness.sigmoid(), agree.to(yawness), counts, avg_factor
                )
        return losses


def sum_layers(
    loss: nn.Module,
    prediction: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    avg_factor: Tensor,
) -> Tensor:
    """One of mmdet's losses for each layer, by one call for all: the sum, divided by `avg_factor`.

    Args:
        loss (nn.Module): a loss that takes weight and reduction_override.
        prediction (Tensor): [L, n] or [L, n, C].
        target (Tensor): [L, n], or as `prediction`.
        weight (Tensor, optional): as `target`.
        avg_factor (Tensor): one number or [L].

    Returns:
        Tensor: [L].
    """
    layers = len(prediction)
    weight = None if weight is None else weight.flatten(0, 1)
    each = loss(
        prediction.flatten(0, 1), target.flatten(0, 1), weight=weight, reduction_override='none'
    )
    # mmdet's losses of no element are one zero, whatever the reduction.
    sums = each.reshape(layers, -1).sum(1) if each.ndim else each.expand(layers)
    return sums / (avg_factor + torch.finfo(torch.float32).eps)
