"""What a benchmark measures: one call of ours, and the same by each rival that is installed."""

from dataclasses import dataclass, field
from typing import Callable, Optional

# A benchmark module has `cases(shapes)`, a generator of Case, and knows each of these:
SHAPES = {
    'small': 'a second or two in all, to see that it works',
    'model': 'the sizes that the models of mmdet3d have',
    'large': 'a growing series, to see how time and memory grow',
}


@dataclass
class Case:
    """One row of the table.

    Attributes:
        name (str): the layer or function, a comma, and its size: 'SubMConv3d 64->64, 87545 voxels'.
        step (str): 'forward', 'backward' or another word for what is timed.
        run (Callable): our call, with no arguments. It is called often: what it builds it drops.
        rivals (dict[str, Callable]): the same work by others, those that are installed.
        flop (float, optional): floating point operations of one call, where arithmetic is the bound.
        bytes (float, optional): bytes that one call has to read and write at least, where memory is
            the bound.
        size (int, optional): what the series of 'large' grows in, voxels or points or samples.
    """

    name: str
    step: str
    run: Callable
    rivals: dict = field(default_factory=dict)
    flop: Optional[float] = None
    bytes: Optional[float] = None
    size: Optional[int] = None
