"""How the learning rate changes over a run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bwlab.errors import BwlabError
from bwlab.training.config import OptimizerConfig

Factor = Callable[[int], float]

# The names that diffusers has for them.
NAMES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}


def rate_factor(config: OptimizerConfig) -> Factor:
    """Return the function from the steps taken so far to what the learning rate is multiplied by, 0..1.

    It is diffusers' schedule of that name. Being a function of the step alone, it has no state to save.

    Raises:
        BwlabError: the warm-up takes the whole run.
    """
    from diffusers.optimization import get_scheduler

    if config.warmup >= config.steps:
        found = f"the run has {config.steps} steps"
        raise BwlabError(f"training.warmup = {config.warmup}", found, "Give fewer steps of warm-up, or more in all")
    # diffusers' schedules want an optimiser, of which they read the rate only: 1 makes rates factors.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(NAMES[config.schedule], optimizer, None, config.warmup, config.steps, config.cycles)
    factor: Factor = schedule.lr_lambdas[0]
    return factor
