"""Whether a program is being traced, for what cannot be traced."""

import torch


def is_compiling() -> bool:
    """Whether torch.compile or torch.export is tracing the caller; always False before PyTorch 2.3."""
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()
