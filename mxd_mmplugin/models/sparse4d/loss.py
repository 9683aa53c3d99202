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
        suffix: str = '',
        quality: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
    ) -> dict:
        """Losses of n boxes.

        Args:
            box, target, weight (Tensor): [n, 10].
            avg_factor (Tensor): what the sums are divided by.
            suffix (str): end of the losses' names.
            quality (Tensor, optional): logits, [n, 2].
            labels (Tensor, optional): int64 [n].

        Returns:
            dict[str, Tensor]: loss_box, and loss_cns and loss_yns where there is a quality.
        """
        agree = F.cosine_similarity(target[:, YAW], box[:, YAW].detach(), dim=-1) > 0
        if self.cls_allow_reverse and labels is not None:
            either = torch.isin(labels, labels.new_tensor(self.cls_allow_reverse))
            sign = torch.where(either & ~agree, -1.0, 1.0).to(target)
            yaw = target[:, YAW] * sign[:, None]
            target = torch.cat([target[:, : YAW.start], yaw, target[:, YAW.stop :]], -1)
            agree = agree | either
        losses = {
            f'loss_box{suffix}': self.loss_box(box, target, weight=weight, avg_factor=avg_factor)
        }
        if quality is not None:
            distance = (target[:, CENTER] - box[:, CENTER]).detach().norm(dim=-1)
            centerness, yawness = quality.unbind(-1)
            if self.loss_cns is not None:
                losses[f'loss_cns{suffix}'] = self.loss_cns(
                    centerness, torch.exp(-distance), avg_factor=avg_factor
                )
            if self.loss_yns is not None:
                losses[f'loss_yns{suffix}'] = self.loss_yns(
                    yawness.sigmoid(), agree.to(yawness), avg_factor=avg_factor
                )
        return losses
