"""A hook by which a resumed training goes on as if it had never stopped."""

import functools
import random
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


class ExactResumeHook(Hook):
    """Makes a training independent of what a checkpoint does not hold.

    Each iteration draws its random numbers from `randomness.seed`, the rank and its own number, so that none depends on
    what was drawn before. A model that remembers the frame before (it has a method `forget`) forgets it where a
    checkpoint is saved, as the resumed one does.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let the model forget wherever a checkpoint is saved, in every process.

        mmengine calls `save_checkpoint` in each, but `before_save_checkpoint` in the first only, which writes it.
        """
        save = runner.save_checkpoint

        @functools.wraps(save)
        def forget_and_save(*args: Any, **kwargs: Any) -> None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            if hasattr(model, 'forget'):
                model.forget()
            save(*args, **kwargs)

        runner.save_checkpoint = forget_and_save

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Seed Python, NumPy and PyTorch with its devices."""
        sequence = np.random.SeedSequence([runner.seed or 0, get_rank(), runner.iter])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
