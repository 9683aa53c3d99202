"""mmengine's wrappers of optimizers, which clip gradients without a wait for the device."""

from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from mmengine.optim import OptimWrapper as _OptimWrapper

from .scalars import log_scalars


class _Clip(_OptimWrapper):
    """Clips as mmengine does; the norm comes to the host when somebody reads it, see `log_scalars`."""

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


class OptimWrapper(_Clip):
    """mmengine's `OptimWrapper`; arguments: see there."""


class AmpOptimWrapper(_Clip, _AmpOptimWrapper):
    """mmengine's `AmpOptimWrapper`; arguments: see there.

    Its loss scaler still waits for the check of the gradients, which decides whether the step is taken.
    """
