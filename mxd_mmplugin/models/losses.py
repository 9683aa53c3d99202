"""mmdet's losses without a wait for the device: the same numbers, bit for bit."""

from typing import Optional, Union

import torch
from mmdet.models import losses
from mmdet.models.losses.smooth_l1_loss import l1_loss
from torch import Tensor


class L1Loss(losses.L1Loss):
    """mmdet's `L1Loss`, which asks the device whether any weight is above zero; arguments: see there."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[Union[float, Tensor]] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """See mmdet; with no weight above zero the loss is zero as it is."""
        if reduction_override not in (None, 'none', 'mean', 'sum'):
            raise ValueError(
                f"reduction_override must be None, 'none', 'mean' or 'sum', was {reduction_override!r}"
            )
        if weight is not None and not pred.numel():  # no mean of nothing
            return (pred * weight.reshape(pred.shape)).sum()
        reduction = reduction_override or self.reduction
        loss = l1_loss(pred, target, weight, reduction=reduction, avg_factor=avg_factor)
        return self.loss_weight * loss


class FocalLoss(losses.FocalLoss):
    """mmdet's `FocalLoss`, whose `one_hot` looks at the labels first; arguments: see there."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[Union[float, Tensor]] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """See mmdet; a label that is no class, whichever, is the background."""
        if target.dim() < pred.dim() and not self.activated and pred.device.type != 'cuda':
            classes = torch.arange(pred.shape[1], device=target.device)
            target = target[:, None] == classes
        return super().forward(pred, target, weight, avg_factor, reduction_override)
