"""The optimisers that bwlab has; light to import."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from bwlab.config.options import FRACTION, POSITIVE, flag, number, pair, whole_number
from bwlab.errors import BwlabError
from bwlab.optimizers.types import OptimizerType

if TYPE_CHECKING:
    import torch


def load_adamw() -> type[torch.optim.Optimizer]:
    """Return PyTorch's AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    import torch

    return torch.optim.AdamW


def load_adafactor() -> type[torch.optim.Optimizer]:
    """Return transformers' Adafactor (Shazeer and Stern, arXiv 1804.04235).

    PyTorch's Adafactor always scales steps by the size of a weight, which is close to zero for a new adapter.
    """
    from transformers.optimization import Adafactor

    kind: type[torch.optim.Optimizer] = Adafactor
    return kind


def from_package(name: str, package: str, module: str, kind: str) -> Callable[[], type[torch.optim.Optimizer]]:
    """Return a function that imports an optimiser's class from a package that bwlab does not need otherwise.

    Args:
        name: name of the optimiser, and of bwlab's extra that installs the package.
        package: name of the package on PyPI.
        module: the module that holds the class.
        kind: name of the class.

    Raises:
        BwlabError: (by the function) the package is not installed, or does not run on this machine.

    """

    def load() -> type[torch.optim.Optimizer]:
        try:
            optimizer: type[torch.optim.Optimizer] = getattr(import_module(module), kind)
        except ImportError as error:
            reason = f"the package {package} is not installed"
            raise BwlabError(f"training.optimizer = {name}", reason, f"pip install 'bwlab[{name}]'") from error
        return optimizer

    return load


OPTIMIZERS: tuple[OptimizerType, ...] = (
    OptimizerType(
        "adamw",
        "PyTorch's AdamW",
        load_adamw,
        {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "amsgrad": flag},
        takes_fused=True,
        state_bytes=8,
    ),
    # The learning rate is that of the settings, as in other LoRA trainers: no relative steps, no scaling by the weight.
    OptimizerType(
        "adafactor",
        "Adafactor with the rate of the settings: little memory",
        load_adafactor,
        {
            "eps": pair(number(least=0.0), number(least=0.0)),
            "clip_threshold": POSITIVE,
            "decay_rate": number(below=0.0),
            "beta1": FRACTION,
            "scale_parameter": flag,
        },
        {"scale_parameter": False},
        {"relative_step": False, "warmup_init": False},
        state_bytes=0.3,  # a number for each row and each column
    ),
    # Mishchenko and Defazio, arXiv 2306.06101. The authors recommend both defaults for diffusion models, with a weight
    # decay of 0.01.
    OptimizerType(
        "prodigy",
        "Prodigy, which finds its learning rate",
        from_package("prodigy", "prodigyopt", "prodigyopt", "Prodigy"),
        {
            "betas": pair(FRACTION, FRACTION),
            "beta3": FRACTION,
            "eps": POSITIVE,
            "decouple": flag,
            "use_bias_correction": flag,
            "safeguard_warmup": flag,
            "d0": POSITIVE,
            "d_coef": POSITIVE,
            "growth_rate": number(least=1.0),
        },
        {"use_bias_correction": True, "safeguard_warmup": True},
        rate=1.0,
        one_rate=True,
        state_bytes=16,
    ),
    # Chen et al., arXiv 2302.06675. Every step has the size of the rate; the authors suggest a tenth to a third of
    # AdamW's.
    OptimizerType(
        "lion",
        "Lion: steps of one size, half the memory of AdamW",
        from_package("lion", "lion-pytorch", "lion_pytorch", "Lion"),
        {"betas": pair(FRACTION, FRACTION)},
        rate=1e-4,
        state_bytes=4,
    ),
    # Dettmers et al., arXiv 2110.02861.
    OptimizerType(
        "adamw8bit",
        "AdamW with moments of 8 bits (bitsandbytes)",
        from_package("adamw8bit", "bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
        {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "min_8bit_size": whole_number()},
        state_bytes=2.1,
    ),
)
