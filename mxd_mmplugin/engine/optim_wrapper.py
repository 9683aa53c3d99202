"""mmengine's wrappers of optimizers, with fewer launches and waits on a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from mmengine.optim import OptimWrapper as _OptimWrapper
from torch.optim import Optimizer

from .scalars import log_scalars


@contextmanager
def merged_groups(optimizer: Optimizer) -> Iterator[None]:
    """Within: the optimizer's groups of parameters with equal settings are one.

    With `paramwise_cfg`, mmengine makes a group for each parameter, and an optimizer starts its operators anew for each
    group. Afterwards the groups are as they were, and so are checkpoints.

    Args:
        optimizer (Optimizer): those of torch.optim go through each group by itself; another one may not, and is left.
    """
    groups = optimizer.param_groups
    merged: list[dict[str, Any]] = []
    if type(optimizer).__module__.startswith('torch.optim'):
        for group in groups:
            settings = {key: value for key, value in group.items() if key != 'params'}
            for other in merged:
                if all(
                    other[key] is value or other[key] == value for key, value in settings.items()
                ):
                    other['params'] += group['params']
                    break
            else:
                merged.append({**group, 'params': list(group['params'])})
    optimizer.param_groups = merged or groups
    try:
        yield
    finally:
        optimizer.param_groups = groups


class _Lean(_OptimWrapper):
    """Clips and steps as mmengine does, see `merged_groups`; a log reads the norm later, see `log_scalars`."""

    def step(self, **kwargs: Any) -> None:
        """Take a step of the optimizer.

        Args:
            **kwargs: for the optimizer's `step`.
        """
        with merged_groups(self.optimizer):
            super().step(**kwargs)

    def _clip_grad(self) -> None:
        groups = self.optimizer.param_groups
        parameters = [
            parameter
            for group in groups
            for parameter in group['params']
            if parameter.requires_grad and parameter.grad is not None
        ]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs) if parameters else None
        if norm is not None:  # clipping by value has none
            log_scalars(self.message_hub, {f'train/{self.grad_name}': norm})


class OptimWrapper(_Lean):
    """mmengine's `OptimWrapper`; arguments: see there."""


class AmpOptimWrapper(_Lean, _AmpOptimWrapper):
    """mmengine's `AmpOptimWrapper`; arguments: see there.

    Its loss scaler still waits for the check of the gradients, which decides whether the step is taken.
    """
