"""Numbers of a config that become sizes: whole ones, of whatever type, and no others."""

import operator
from collections.abc import Iterable
from typing import Any, Optional

from torch import Tensor


def whole(name: str, value: Any, least: Optional[int] = None) -> int:
    """A size.

    Args:
        name (str): of the option, for the error.
        value (int or float): an integer of any type, numpy's too, or a float without a fraction. 0.3 / 0.1 * 5 is
            14.999999999999998, and to cut it off would be to take 14 for 15.
        least (int, optional): the least that is allowed.

    Returns:
        int: the number.

    Raises:
        ValueError: another number, or none.
    """
    if isinstance(value, int):
        number = value
    else:
        try:
            number = operator.index(value)
        except TypeError:
            number = _without_fraction(name, value)
    if least is not None and number < least:
        raise ValueError(f'{name} must be at least {least}, was {value!r}')
    return number


def _without_fraction(name: str, value: Any) -> int:
    try:
        number = float('nan') if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):  # the last one from a tensor of several numbers
        number = float('nan')
    if not number.is_integer():
        raise ValueError(f'{name} must be a whole number, was {value!r}')
    return int(number)


def wholes(name: str, values: Iterable, least: Optional[int] = None) -> tuple[int, ...]:
    """Several sizes, see `whole`; the error shows all of them. A tensor is read at once."""
    values = tuple(values.tolist() if isinstance(values, Tensor) else values)
    try:
        return tuple(whole(name, value, least) for value in values)
    except ValueError as error:
        raise ValueError(f'{error}, in {values!r}') from None
