"""The optimisers that bwlab has; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab.optimizers.types import FRACTION, POSITIVE, OptimizerType, flag, number, pair, whole_number

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


def load_prodigy() -> type[torch.optim.Optimizer]:
    """Return Prodigy (Mishchenko and Defazio, arXiv 2306.06101); BwlabError if its package is not installed."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise missing("prodigy", "prodigyopt") from error
    kind: type[torch.optim.Optimizer] = Prodigy
    return kind


def load_lion() -> type[torch.optim.Optimizer]:
    """Return Lion (Chen et al., arXiv 2302.06675); BwlabError if its package is not installed."""
    try:
        from lion_pytorch import Lion
    except ImportError as error:
        raise missing("lion", "lion-pytorch") from error
    kind: type[torch.optim.Optimizer] = Lion
    return kind


def load_adamw8bit() -> type[torch.optim.Optimizer]:
    """Return the AdamW of bitsandbytes, whose moments have 8 bits (Dettmers et al., arXiv 2110.02861).

    Raises:
        BwlabError: its package is not installed, or does not run on this machine.

    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise missing("adamw8bit", "bitsandbytes") from error
    kind: type[torch.optim.Optimizer] = AdamW8bit
    return kind


def missing(name: str, package: str) -> BwlabError:
    """Return the error for an optimiser whose package is not installed."""
    return BwlabError(
        f"training.optimizer = {name}", f"the package {package} is not installed", f"pip install 'bwlab[{name}]'"
    )


OPTIMIZERS: tuple[OptimizerType, ...] = (
    OptimizerType(
        "adamw",
        "PyTorch's AdamW",
        load_adamw,
        {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "amsgrad": flag},
        takes_fused=True,
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
    ),
    # The authors of Prodigy recommend both defaults for diffusion models, with a weight decay of 0.01.
    OptimizerType(
        "prodigy",
        "Prodigy, which finds its learning rate",
        load_prodigy,
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
    ),
    # Every step of Lion has the size of the rate; its authors suggest a tenth to a third of AdamW's.
    OptimizerType(
        "lion",
        "Lion: steps of one size, half the memory of AdamW",
        load_lion,
        {"betas": pair(FRACTION, FRACTION)},
        rate=1e-4,
    ),
    OptimizerType(
        "adamw8bit",
        "AdamW with moments of 8 bits (bitsandbytes)",
        load_adamw8bit,
        {"betas": pair(FRACTION, FRACTION), "eps": POSITIVE, "min_8bit_size": whole_number()},
    ),
)
