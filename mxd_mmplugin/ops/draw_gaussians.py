"""Bumps on heatmaps: the targets of detectors that look for the middles of objects."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_gaussians(
    channels: Tensor, centers: Tensor, radii: Tensor, shape: Sequence[int]
) -> Tensor:
    """Draw a bump for each box, the greater one where bumps overlap.

    A cell that is (dy, dx) cells away from the middle has exp(-(dy^2 + dx^2) / (2 sigma^2)) with
    sigma = (2 radius + 1) / 6, computed in float64 on a CPU (Law and Deng 2018, and with the same bits mmdet3d's
    `draw_heatmap_gaussian`). How many boxes there are, and how large, is not waited for where the
    device has a kernel.

    Args:
        channels (Tensor): int32 [G], which of the C maps a box is drawn in; one that is not there
            leaves the box out.
        centers (Tensor): int32 [G, 2], row and column; outside of the map is allowed.
        radii (Tensor): int32 [G], cells; the bump is cut off beyond the radius along each axis. A
            negative one leaves the box out.
        shape (Sequence[int]): C, H, W.

    Returns:
        Tensor: float32 [C, H, W], 1 at the centres and 0 where there is no bump.

    Raises:
        TypeError: another dtype; ValueError: shapes that do not match, H or W below 1.
    """
    return torch.ops.mxd.draw_gaussians(channels, centers, radii, *shape)
