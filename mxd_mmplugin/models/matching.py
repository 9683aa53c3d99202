"""Bipartite matching on the host: one copy there, however many matchings there are."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

FORBIDDEN = 1e8  # the cost of a pair whose cost is no finite number


@contextlib.contextmanager
def labels_below(count: int, option: str) -> Iterator[None]:
    """Name the option where labels take a class that the model does not have; only a CPU's indexing tells.

    Args:
        count (int): classes of the model.
        option (str): where that is set.

    Raises:
        ValueError: in place of an IndexError.
    """
    try:
        yield
    except IndexError as error:
        raise ValueError(
            f'labels_3d must be below {count} ({option}); the data set has more classes than the model: {error}'
        ) from None


def match(costs: Sequence[Tensor]) -> list:
    """The cheapest matching of each matrix.

    Args:
        costs (Sequence[Tensor]): [rows, columns] each, on one device; this waits for it once.

    Returns:
        list[tuple[array, array]]: rows, ascending, and columns of the pairs, int64, as many as the
        shorter side has.
    """
    if not costs:
        return []
    flat = torch.cat([cost.detach().float().flatten() for cost in costs]).cpu().numpy()
    flat = np.nan_to_num(flat, nan=FORBIDDEN, posinf=FORBIDDEN, neginf=FORBIDDEN)
    ends = np.cumsum([cost.numel() for cost in costs])
    matrices = np.split(flat, ends[:-1])
    return [
        linear_sum_assignment(matrix.reshape(cost.shape)) for matrix, cost in zip(matrices, costs)
    ]
