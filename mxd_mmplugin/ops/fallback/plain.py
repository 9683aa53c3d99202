"""What the plain PyTorch forms share: their registration, with the checks of every backend, and their precision."""

import functools
from typing import Any, Callable, TypeVar, cast

import torch

LIBRARY = torch.library.Library('mxd', 'IMPL')

Form = TypeVar('Form', bound=Callable)


def plain_form(name: str) -> Callable[[Form], Form]:
    """Make a function the plain PyTorch form of operator `name`, on every device that has no kernel of it.

    The function need not check dtypes, shapes and numbers. The operator's C++ check, which is the same for every
    backend (csrc/ops), runs before it, whoever calls it.
    """
    check = getattr(torch.ops.mxd, f'_check_{name}')

    def register(function: Form) -> Form:
        @functools.wraps(function)
        def form(*args: Any, **kwargs: Any) -> Any:
            check(*args, **kwargs)
            return function(*args, **kwargs)

        LIBRARY.impl(name, form, 'CompositeExplicitAutograd')
        return cast(Form, form)

    return register


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that numbers of `dtype` are computed in: float32 for float16 and bfloat16."""
    return torch.promote_types(dtype, torch.float32)
