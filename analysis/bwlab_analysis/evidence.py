"""The headline of ``bwlab analyze conflict``, and how far the study (docs/study.md) bears it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bwlab_analysis.function.losses import LossReport

# Spearman's rho with the fidelity that composed pairs lost: of all 162 pairs, and of the 54 held-out ones
# (docs/study/tables.md, "What predicts the loss").
SCORE_RHO, SCORE_RHO_HELD_OUT = 0.31, 0.68
COSINE_RHO, COSINE_RHO_HELD_OUT = -0.05, 0.11
# How often the block of most gain less cost in activations was the best one to switch off, and by chance; by losses
# it was at chance ("Blame against exhaustive search").
TOP_1, CHANCE = 0.22, 0.06


def conflict_score(losses: Sequence[LossReport]) -> float | None:
    """Return the mean harm of two adapters to each other's loss on its own pictures; None unless both are known."""
    return (losses[0].harm.value + losses[1].harm.value) / 2 if len(losses) == 2 else None


def headline(losses: Sequence[LossReport]) -> str:
    """Return the conflict score in words, and what it is worth."""
    score = conflict_score(losses)
    if score is None:
        return (
            "No conflict score: it takes the pictures of both adapters (--data-a, --data-b). What adapters do to "
            "activations told little of the fidelity that pairs lost in bwlab's study (docs/study.md)."
        )
    harms = ", ".join(f"{one.adapter} {one.harm.value:+.3f}" for one in losses)
    return (
        f"Conflict score {score:.3f}: how far the loss on each adapter's own pictures rises beside the other, the "
        f"mean ({harms}). In bwlab's study its rank correlation with the fidelity that pairs lost was {SCORE_RHO:.2f} "
        f"({SCORE_RHO_HELD_OUT:.2f} on held-out pairs), that of the weights' cosine {COSINE_RHO:.2f} "
        f"({COSINE_RHO_HELD_OUT:.2f}): a hint. Only painting tells; 'bwlab analyze recommend' does it."
    )


def remarks(losses: Sequence[LossReport]) -> list[str]:
    """Return a line for each adapter that does not lower the loss on what is said to be its own pictures."""
    return [
        f"{one.adapter} does not surely lower the loss on these pictures ({one.base.value:.3f} without it, "
        f"{one.own.value:.3f} with it), as adapters do on what they were trained on: are they {one.adapter}'s "
        f"(--data-{one.adapter})? If not, the conflict score means nothing."
        for one in losses
        if one.doubtful
    ]


def caution() -> str:
    """Return how far blame is to be trusted."""
    return (
        f"In the study the block that gives most for its cost was the best to switch off in {100 * TOP_1:.0f} % of "
        f"pairs ({100 * CHANCE:.0f} % by chance): score what you change."
    )
