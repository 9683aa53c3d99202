"""Bumps on heatmaps in plain PyTorch, on any device: each bump's window, then the greatest value of each cell."""

import torch
from torch import Tensor

from .plain import plain_form


def _span(center: Tensor, radius: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cells of an axis that bumps are in, [G, S] with S those of the longest one, and which of them count."""
    first = (center - radius).clamp(min=0)
    last = (center + radius).clamp(max=size - 1)
    longest = int((last - first + 1).max().clamp(min=0)) if len(center) else 0
    cells = first[:, None] + torch.arange(longest, device=center.device)
    return cells, cells <= last[:, None]


@plain_form('draw_gaussians')
def draw(
    channels: Tensor, centers: Tensor, radii: Tensor, count: int, height: int, width: int
) -> Tensor:
    """See `mxd_mmplugin.ops.draw_gaussians`; [count, height, width]."""
    drawn = (channels >= 0) & (channels < count)
    radii = radii.long().where(drawn, -1)
    row, column = centers.long().unbind(1)
    rows, row_inside = _span(row, radii, height)
    columns, column_inside = _span(column, radii, width)
    away = (rows - row[:, None]).square()[:, :, None] + (columns - column[:, None]).square()[
        :, None
    ]
    sigma = (2 * radii + 1).double() / 6
    values = torch.exp(-away / (2 * sigma * sigma)[:, None, None]).float()
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    cells = (channels.long()[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    # Cells outside are 0 in a cell more at the end.
    maps = values.new_zeros(count * height * width + 1)
    last = maps.new_full((), count * height * width, dtype=torch.int64)
    maps.scatter_reduce_(0, cells.where(inside, last).flatten(), values.flatten(), 'amax')
    return maps[:-1].view(count, height, width)
