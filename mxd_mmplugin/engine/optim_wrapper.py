"""mmengine's wrappers of optimizers, with fewer launches and waits on a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Union

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from mmengine.optim import OptimWrapper as _OptimWrapper
from torch.optim import Optimizer

from .scalars import log_scalars

_GradScaler = getattr(torch.amp, 'GradScaler', torch.cuda.amp.GradScaler)  # PyTorch before 2.3


@contextmanager
def merged_groups(optimizer: Optimizer) -> Iterator[None]:
    """Join the optimizer's groups of parameters that have equal settings, for the time of a `with` block.

    With `paramwise_cfg`, mmengine makes a group for each parameter, and an optimizer starts its operators anew for each
    group. Afterwards the groups are as they were, and so are checkpoints.

    Args:
        optimizer (Optimizer): one of torch.optim. Others are left alone: groups may mean more to them.
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
    """mmengine's `AmpOptimWrapper`, also on a CPU.

    Its loss scaler still waits for the check of the gradients, which decides whether the step is taken. On a CPU, where
    mmengine's refuses to be built, autocast is to bfloat16, whose range is float32's: no loss is scaled, and
    `loss_scale` and `dtype` are not used.

    Args:
        loss_scale, dtype, use_fsdp, **kwargs: see mmengine's.
    """

    def __init__(
        self,
        loss_scale: Union[str, float, dict] = 'dynamic',
        dtype: Union[str, torch.dtype, None] = None,
        use_fsdp: bool = False,
        **kwargs: Any,
    ) -> None:
        self._on_cpu = get_device() == 'cpu'
        if not self._on_cpu:
            super().__init__(loss_scale, dtype, use_fsdp, **kwargs)
            return
        _OptimWrapper.__init__(self, **kwargs)
        self.cast_dtype = torch.bfloat16
        self.loss_scaler = _GradScaler(enabled=False)
        self._scale_update_param = None

    def state_dict(self) -> dict:
        """The optimizer's, and the loss scaler's where there is one: another device can go on from either."""
        return _OptimWrapper.state_dict(self) if self._on_cpu else super().state_dict()
