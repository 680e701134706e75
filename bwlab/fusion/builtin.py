"""The fusion methods that bwlab has; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.config.options import POSITIVE, flag, number, whole_number
from bwlab.fusion.types import SUM, FusionType

if TYPE_CHECKING:
    from bwlab.fusion.method import FusionMethod

SHARE = number(above=0.0, most=1.0)


def load_sum() -> type[FusionMethod]:
    """Return the plain sum."""
    from bwlab.fusion.decoding import Sum

    return Sum


def load_guided() -> type[FusionMethod]:
    """Return the sum that is led away from the base."""
    from bwlab.fusion.decoding import Guided

    return Guided


def load_switch() -> type[FusionMethod]:
    """Return LoRA Switch."""
    from bwlab.fusion.decoding import Switch

    return Switch


def load_composite() -> type[FusionMethod]:
    """Return LoRA Composite."""
    from bwlab.fusion.decoding import Composite

    return Composite


def load_k_lora() -> type[FusionMethod]:
    """Return K-LoRA."""
    from bwlab.fusion.selection import KLora

    return KLora


def load_est_lora() -> type[FusionMethod]:
    """Return EST-LoRA."""
    from bwlab.fusion.selection import EstLora

    return EstLora


def load_kl() -> type[FusionMethod]:
    """Return the selection by KL divergence."""
    from bwlab.fusion.features import FeatureSelection

    return FeatureSelection


def load_ties() -> type[FusionMethod]:
    """Return TIES."""
    from bwlab.fusion.merges import Ties

    return Ties


def load_dare() -> type[FusionMethod]:
    """Return DARE."""
    from bwlab.fusion.merges import Dare

    return Dare


def load_b_lora() -> type[FusionMethod]:
    """Return B-LoRA."""
    from bwlab.fusion.two_blocks import TwoBlocks

    return TwoBlocks


FUSIONS: tuple[FusionType, ...] = (
    FusionType(SUM, "the parts of all adapters are added", load_sum),
    FusionType(
        "guided",
        "the sum; what the adapters change in each prediction is enlarged",
        load_guided,
        "formula: arXiv 2406.02507",
        {"guidance": number(least=0.0)},
        {"guidance": 0.3},
        evaluations="two",
    ),
    FusionType(
        "switch",
        "one adapter acts at a time, the next one after some steps (LoRA Switch)",
        load_switch,
        "arXiv 2402.16843",
        {"steps": whole_number(1)},
        {"steps": 5},
        ordered=True,
    ),
    FusionType(
        "composite",
        "the predictions with each adapter alone are averaged (LoRA Composite)",
        load_composite,
        "arXiv 2402.16843",
        evaluations="one for each adapter",
    ),
    FusionType(
        "k-lora",
        "in each layer and step, the adapter with the larger top-K numbers acts; content first, then style",
        load_k_lora,
        "arXiv 2502.18461",
        {"alpha": number(least=0.0), "beta": POSITIVE, "k": whole_number(), "balance": flag},
        {"alpha": 1.5, "beta": 0.5, "k": 0, "balance": True},
        ordered=True,
        most=2,
    ),
    FusionType(
        "est-lora",
        "in each layer and step, the adapter with more energy acts; content first, then style",
        load_est_lora,
        "arXiv 2508.02165",
        {"alpha": number(least=0.0), "similarity": number(least=-1.0, below=1.0), "balance": flag},
        {"alpha": 1.5, "similarity": 0.5, "balance": True},
        ordered=True,
        most=2,
    ),
    FusionType(
        "kl",
        "in each layer and sample, the adapter that moves the features furthest acts (KL divergence)",
        load_kl,
        "arXiv 2602.15539",
    ),
    FusionType(
        "ties",
        "one delta for each layer: trimmed deltas, with an elected sign for each number",
        load_ties,
        "arXiv 2306.01708",
        {"density": SHARE},
        {"density": 0.2},
    ),
    FusionType(
        "dare",
        "one delta for each layer: numbers are dropped at random, the others rescaled and added",
        load_dare,
        "arXiv 2311.03099",
        {"density": SHARE, "seed": whole_number()},
        {"density": 0.5, "seed": 0},
        ordered=True,
    ),
    FusionType(
        "b-lora",
        "SDXL: the first adapter acts in the block of the content, the second in that of the style",
        load_b_lora,
        "arXiv 2403.14572",
        ordered=True,
        most=2,
    ),
)
PLAIN_SUM = FUSIONS[0].with_options({})
