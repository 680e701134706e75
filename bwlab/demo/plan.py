"""What the demo trains and shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

IDENTITY, STYLE_FULL, STYLE_UPPER = "identity", "style-full", "style-upper"


@dataclass(frozen=True)
class DemoPlan:
    """All settings of the demo.

    Attributes:
        base: `"emoji"` or the folder of a diffusers pipeline.
        identity: a held-out identity of the benchmark, learned from its pictures in the styles that the base knows.
        style: a held-out style, learned from other identities, which the base knows.
        identity_blocks, style_blocks, upper_blocks: ranks of the three adapters.
        identity_steps, style_steps: optimiser steps.
        lr: learning rate of all three.
        cfg: guidance of the pictures.
        sampling_steps: of DPM++ 2M Karras.
        seeds: pictures in each column of the sheet: seeds 0, 1, ...
        seed: of the first training; the others count up, since adapters that start from one seed share directions
            that have nothing to do with what they learned.
    """

    base: str = "emoji"
    identity: str = "fox"
    style: str = "ink"
    identity_blocks: str = "all=16"
    style_blocks: str = "all=16"
    upper_blocks: str = "upper=16"
    identity_steps: int = 100
    style_steps: int = 150
    batch_size: int = 8
    lr: float = 1e-3
    cfg: float = 3.0
    sampling_steps: int = 25
    seeds: int = 4
    seed: int = 0


FULL = DemoPlan()
QUICK = replace(FULL, identity_steps=50, style_steps=60, seeds=2)


@dataclass(frozen=True)
class Training:
    """One of the demo's adapters.

    Attributes:
        name: of its folder.
        blocks: ranks.
        steps: optimiser steps.
        data: name of the data folder.
        seed: of its start, batches and noise.
    """

    name: str
    blocks: str
    steps: int
    data: str
    seed: int


def trainings(plan: DemoPlan) -> tuple[Training, ...]:
    """Return the adapters to train, in order."""
    return (
        Training(IDENTITY, plan.identity_blocks, plan.identity_steps, "identity", plan.seed),
        Training(STYLE_FULL, plan.style_blocks, plan.style_steps, "style", plan.seed + 1),
        Training(STYLE_UPPER, plan.upper_blocks, plan.style_steps, "style", plan.seed + 2),
    )


@dataclass(frozen=True)
class Column:
    """One column of the sheet: which adapters act together, each at scale 1."""

    label: str
    note: str
    adapters: tuple[str, ...]


def columns(plan: DemoPlan) -> tuple[Column, ...]:
    """Return the painted columns of the sheet; the true picture follows them."""
    return (
        Column("base alone", f"knows neither {plan.identity} nor {plan.style}", ()),
        Column("identity alone", plan.identity_blocks, (IDENTITY,)),
        Column("style alone", plan.style_blocks, (STYLE_FULL,)),
        Column("full + full", f"identity {plan.identity_blocks}, style {plan.style_blocks}", (IDENTITY, STYLE_FULL)),
        Column("full + upper", f"identity {plan.identity_blocks}, style {plan.upper_blocks}", (IDENTITY, STYLE_UPPER)),
    )
