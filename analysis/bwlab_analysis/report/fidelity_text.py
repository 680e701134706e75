"""What scores of fidelity say, in words, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bwlab.terminal import counted
from bwlab_analysis.fidelity.recommend import WHOLE

if TYPE_CHECKING:
    from bwlab_analysis.fidelity.recommend import Trial
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores


# Percentile intervals of few values are too narrow, by sqrt((n - 1) / n) and more (Hesterberg 2015, arXiv 1411.5279).
ENOUGH = 12
MOST_CARRIERS = 4
SHOWN = 0.005  # less is +0.00
PROFILES = (
    "What single blocks of each adapter give to each score: alone (less the base), and beside the whole other adapter "
    "(both, less both without the block):"
)
SHARES = (
    "identity, style: 1 as with that adapter alone, 0 as without it; text: 1 as the base's; kept: their harmonic mean, "
    "each counted as at most 1, with its 95 % interval over prompts and seeds."
)
PROFILE_HEADS = ("identity's, alone", "identity's, beside style", "style's, alone", "style's, beside identity")


def carriers(
    conditions: Sequence[ConditionScores], profiles: Sequence[BlockProfile], leading: Sequence[str]
) -> list[str]:
    """Return in a sentence for each adapter which of its blocks raise its own score alone, the strongest first.

    Args:
        conditions: that were painted, for the number of pictures.
        profiles: of all blocks.
        leading: names of the scorers of identity and of style, in this order.

    """
    lines = []
    few = len(conditions[0].images) < ENOUGH
    for adapter, scorer in zip(("identity", "style"), leading, strict=False):
        rises = {one.block: one.knocked_in[scorer] for one in profiles if one.adapter == adapter}
        sure = [block for block, rise in rises.items() if rise.low > 0 and rise.mean >= SHOWN]
        sure.sort(key=lambda block: -rises[block].mean)
        named = ", ".join(f"{block} ({rises[block].mean:+.2f})" for block in sure[:MOST_CARRIERS])
        score = scorer.replace("_", " ")
        lines.append(
            f"Blocks of the {adapter} adapter that alone raise {score}, most first: {named}"
            + (", as far as so few pictures tell." if few else ".")
            if sure
            else f"No block of the {adapter} adapter raises {score} alone beyond the noise."
        )
    return lines


def few_pictures(conditions: Sequence[ConditionScores]) -> str:
    """Return a warning where intervals rest on so few pictures that they are too narrow; nothing otherwise."""
    count = len(conditions[0].images)
    return f"Of {counted(count, 'picture')} each they are too narrow: --seeds gives more." if count < ENOUGH else ""


def standing(trials: Sequence[Trial]) -> str:
    """Return how surely the best composition is better than the others, in words."""
    if len(trials) == 1:
        return "Nothing else was tried: give more --budget."
    tied = sum(trial.tied for trial in trials[1:])
    pictures = counted(len(trials[0].scores.images), "picture")
    whole = next((place for place, trial in enumerate(trials) if trial.reason == WHOLE), None)
    if whole == 0:
        beaten = "Nothing tried is better than both whole."
    elif whole is None or trials[whole].tied:
        beaten = "That it is better than both whole is not sure: the difference is within the noise."
    else:
        beaten = "It is better than both whole beyond the noise."
    others = f"{tied} of {counted(len(trials) - 1, 'other')} cannot be told from the best by {pictures} each"
    return f"{beaten} {others}" + ("; more --seeds tell more." if tied else ".")
