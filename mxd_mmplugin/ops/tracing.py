"""What torch.compile and torch.export need to trace the operators."""

from typing import Any

import torch
from torch.autograd import Function


def is_compiling() -> bool:
    """Whether torch.compile or torch.export is tracing the caller; always False before PyTorch 2.3."""
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


class _NoContext:
    """Takes what a forward keeps for its backward, and forgets it."""

    def save_for_backward(self, *tensors: Any) -> None:
        """Do nothing."""


def apply(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`; where no gradients are recorded, its forward alone.

    PyTorch before 2.8 cannot export an autograd function whose sizes are dynamic: there a model is
    exported under `torch.no_grad()`. The exporter of ONNX files by tracing asks the function for its `symbolic`.
    """
    if torch.is_grad_enabled() or (torch.jit.is_tracing() and hasattr(function, 'symbolic')):
        return function.apply(*args)
    return function.forward(_NoContext(), *args)
