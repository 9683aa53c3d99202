"""mmdet's Swin Transformer, with the masks of its shifted windows made once for each size of map."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.backbones import swin
from torch import Tensor


@lru_cache(maxsize=32)
def shift_mask(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """What is added to the attention in shifted windows (Liu et al. 2021, figure 4).

    Args:
        rows, columns (int): size of the map, multiples of `window`.
        window, shift (int): side of a window, and how far the map was rolled.
        device (torch.device): where the mask is to be.

    Returns:
        Tensor: [windows, window**2, window**2], 0 between pixels that are neighbours in the map as it
        was before, else -100.
    """

    def part(length: int) -> Tensor:
        place = torch.arange(length)
        return (place >= length - window).int() + (place >= length - shift).int()

    parts = 3 * part(rows)[:, None] + part(columns)
    parts = parts.unfold(0, window, window).unfold(1, window, window).reshape(-1, window**2)
    mask = torch.where(parts[:, None] == parts[:, :, None], 0.0, -100.0)
    with torch.inference_mode(False):  # what is made in that mode cannot be used in training
        return mask.to(device)


class ShiftWindowMSA(swin.ShiftWindowMSA):
    """mmdet's `ShiftWindowMSA`, which makes its mask in every call by some 16 operators."""

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attention within windows.

        Args:
            query (Tensor): [B, rows * columns, C].
            hw_shape (tuple[int, int]): rows and columns.

        Returns:
            Tensor: as `query`.
        """
        size = self.window_size
        image = query.unflatten(1, hw_shape)
        below, right = (-length % size for length in hw_shape)
        image = F.pad(image, (0, 0, 0, right, 0, below))
        rows, columns = image.shape[1:3]
        mask = None
        if self.shift_size:
            image = image.roll((-self.shift_size, -self.shift_size), (1, 2))
            mask = shift_mask(rows, columns, size, self.shift_size, image.device)
        windows = self.w_msa(self.window_partition(image).flatten(1, 2), mask=mask)
        image = self.window_reverse(windows.unflatten(1, (size, size)), rows, columns)
        if self.shift_size:
            image = image.roll((self.shift_size, self.shift_size), (1, 2))
        if below or right:  # the gradient of one pad is one operator, that of two slices four
            image = F.pad(image, (0, 0, 0, -right, 0, -below))
        return self.drop(image.flatten(1, 2))


class SwinTransformer(swin.SwinTransformer):
    """mmdet's `SwinTransformer`, with the same arguments, weights and numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if type(module) is swin.ShiftWindowMSA:
                module.__class__ = ShiftWindowMSA
