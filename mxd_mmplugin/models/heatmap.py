"""How large the bumps on a heatmap are."""

import torch
from torch import Tensor


def gaussian_radii(sizes: Tensor, min_overlap: float) -> Tensor:
    """How far a box can be moved so that it overlaps with itself by `min_overlap` (Law and Deng 2018).

    The operations are those of mmdet3d's `gaussian_radius` and in their order, so that the bits are the same.

    Args:
        sizes (Tensor): [G, 2], length and width in cells.
        min_overlap (float): intersection over union, from 0 to 1.

    Returns:
        Tensor: [G], cells; the least of the three ways to move its two corners, by the formula of
        CornerNet's code, in which the roots are halved whatever the leading coefficient is.
    """
    length, width = sizes.unbind(1)
    total = width + length
    quadratics = (
        (1, total, length * width * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * total, (1 - min_overlap) * length * width),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * length * width),
    )
    linear = torch.stack([b for _, b, _ in quadratics])
    offset = torch.stack([4 * a * c for a, _, c in quadratics])
    return ((linear + (linear**2 - offset).sqrt()) / 2).amin(0)
