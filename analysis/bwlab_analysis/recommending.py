"""From adapter files to a recommended composition."""

from __future__ import annotations

from pathlib import Path

from bwlab_analysis.fidelity.conditions import Condition, four_conditions
from bwlab_analysis.fidelity.measure import (
    ConditionScores,
    Judge,
    OnCondition,
    Sampling,
    measure_fidelity,
    score_condition,
)
from bwlab_analysis.function.interaction import interaction
from bwlab_analysis.lab import Lab, gathered_inputs
from bwlab_analysis.recommend import Blame, Search, Trial, recommend

LATENTS = 8
NAMES = {"a": "identity", "b": "style"}


def recommended(
    lab: Lab,
    files: tuple[Path, Path],
    judge: Judge,
    sampling: Sampling,
    budget: int,
    seed: int = 0,
    on_condition: OnCondition | None = None,
) -> list[Trial]:
    """Return the compositions that were tried, the best first.

    Proposals come from the blame of each block in the base's activations, for the sampling's prompts.

    Args:
        lab: the base.
        files: of the identity's and the style's adapter.
        judge: the scorers.
        sampling: prompts, seeds, steps.
        budget: compositions to try beside the base and each adapter alone.
        seed: of the latents.
        on_condition: called before each composition is painted.
    """
    identity, style = (lab.adapter(file) for file in files)
    inputs = gathered_inputs(lab, [], sampling.prompts, LATENTS, seed)
    found = interaction(lab.pipe, lab.scheme, identity, style, inputs, draws=0, seed=seed)
    blame = [Blame(NAMES[one.adapter], one.block, one.gain - max(one.loss or 0.0, 0.0)) for one in found.blame]
    base, alone, other, _ = four_conditions()
    known = measure_fidelity(lab.pipe, identity, style, [base, alone, other], sampling, judge, on_condition)
    without, with_identity, with_style = known
    done = 0

    def score(condition: Condition) -> ConditionScores:
        nonlocal done
        if on_condition is not None:
            on_condition(done, budget, condition.name)
        done += 1
        return score_condition(lab.pipe, identity, style, condition, sampling, judge)

    search = Search(score, without, with_identity, with_style, judge.leading, len(sampling.seeds))
    blocks = {"identity": tuple(identity.blocks()), "style": tuple(style.blocks())}
    return recommend(search, lab.scheme, blocks, blame, budget)
