"""mmengine's hook that logs the losses, without a wait for the device in each step."""

from typing import Any, Optional

from mmengine.hooks import runtime_info_hook
from mmengine.runner import Runner

from .scalars import log_scalars


class RuntimeInfoHook(runtime_info_hook.RuntimeInfoHook):
    """mmengine's `RuntimeInfoHook`; the losses come to the host when somebody reads them, see `log_scalars`."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Log what the model returned."""
        named = {f'train/{name}': value for name, value in (outputs or {}).items()}
        log_scalars(runner.message_hub, named)
