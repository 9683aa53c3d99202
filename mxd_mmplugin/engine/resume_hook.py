"""A hook by which a resumed training goes on as if it had never stopped."""

import random
from typing import Optional

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
    checkpoint is saved, as the resumed one does; on other ranks than the first the memory goes on.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Seed Python, NumPy and PyTorch with its devices."""
        sequence = np.random.SeedSequence([runner.seed or 0, get_rank(), runner.iter])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let the model forget."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if hasattr(model, 'forget'):
            model.forget()
