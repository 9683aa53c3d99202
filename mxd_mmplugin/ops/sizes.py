"""Numbers of a config that become sizes: whole ones, of whatever type, and no others."""

import functools
import inspect
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional, TypeVar, Union, cast

from torch import Tensor

Init = TypeVar('Init', bound=Callable)

# What a parameter that is a size, or several, is annotated with.
_SIZES = int, Optional[int], Sequence[int], Union[int, Sequence[int]]


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


def takes_whole_numbers(init: Init) -> Init:
    """Let the options of a constructor that are annotated as integers, or several, be whole numbers of any type.

    Args:
        init (Callable): an `__init__`; others of its options are left as they are.

    Returns:
        Callable: the same, which raises `whole`'s ValueError for other numbers.
    """
    parameters = [*inspect.signature(init).parameters.values()][1:]
    sizes = {parameter.name for parameter in parameters if parameter.annotation in _SIZES}
    places = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    def size(name: str, value: Any) -> Any:
        if name not in sizes or value is None:
            return value
        several = hasattr(value, '__len__') and not isinstance(value, (str, Tensor))
        return list(wholes(name, value)) if several else whole(name, value)

    @functools.wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        named = [*map(size, places, args), *args[len(places) :]]
        init(self, *named, **{name: size(name, value) for name, value in kwargs.items()})

    return cast(Init, checked)
