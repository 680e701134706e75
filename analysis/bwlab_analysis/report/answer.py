"""Answers in words: what each adapter keeps beside others in a base, and how far the answer can be trusted."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bwlab.terminal import counted
from bwlab_analysis.measures import PREDICTION, Measured
from bwlab_analysis.report.numbers import number_text
from bwlab_analysis.report.verdict import few_images_warning

if TYPE_CHECKING:
    from bwlab_analysis.activations.losses import LossReport
    from bwlab_analysis.activations.pair import Cost, MeasuredConflict, PairInBase

# Spearman's rho with what composed pairs lost of identity and of style, over 240 pairs (docs/study/tables.md, "What
# predicts the loss of identity", "... of style"): of the harm to the loss on the images of the same adapter, and of the
# cosine of the weights.
HARM_RHO = {"identity": 0.32, "style": 0.03}
COSINE_RHO = {"identity": 0.21, "style": -0.04}
# How often the block with the largest gain minus cost in activations was the best block to switch off, and how often
# by chance; by losses it was at chance ("Blame against exhaustive search").
TOP_1, CHANCE = 0.17, 0.06


def answer_lines(names: tuple[str, str], in_base: PairInBase) -> Iterator[str]:
    """Yield what each of two adapters loses beside the other one in generated images.

    Where this was not measured or not scored: what it keeps of its training by the losses, else of its effect.
    """
    losses = {report.adapter: report for report in in_base.losses}
    prediction = in_base.interaction.at(PREDICTION).measures
    measured = in_base.measured
    for key, own, other in (("a", *names), ("b", *reversed(names))):
        cost = None if measured is None else measured.cost(key)
        if cost is not None:
            yield cost_text(cost, own, other)
            if cost.scored:
                continue
        if key in losses:
            yield kept_text(losses[key], own, other, f"random adapters of {other}'s norms")
        else:
            yield retained_text(prediction[f"retention_{key}"], own, other)


def cost_text(cost: Cost, own: str, other: str) -> str:
    """Return how much one adapter loses beside another in generated images, in words."""
    if not cost.scored:
        return changed_text(cost, own, other)
    what = "its likeness to its training images" if cost.of == "likeness" else f"its {cost.of}"
    if cost.lost is None:
        return (
            f"{own} alone does not bring {what} into the generated images beyond doubt, so what it loses beside "
            f"{other} cannot be measured."
        )
    share, low, high = (100 * value for value in (cost.lost.mean, cost.lost.low, cost.lost.high))
    gain = high < 0
    first, last = (-high, -low) if gain else (low, high)
    between = f"95 % interval {first:.0f} to {last:.0f} %"
    null = ""
    if cost.random_lost is not None:
        null = f"; beside a random adapter of {other}'s norms, {100 * cost.random_lost.mean:.0f} %"
    if low > 0:
        return f"Beside {other}, {own} loses {share:.0f} % of {what} ({between}{null})."
    if gain:
        return f"Beside {other}, {own} gains {-share:.0f} % of {what} ({between}{null})."
    return f"Beside {other}, {own} loses nothing measurable of {what} ({share:.0f} %, {between}{null})."


def changed_text(cost: Cost, own: str, other: str) -> str:
    """Return how far one adapter's images change beside another, for which no scorer shows whether this is damage."""
    assert cost.lost is not None
    null = ""
    if cost.random_lost is not None:
        null = f"; beside a random adapter of {other}'s norms, {cost.random_lost.mean:.2f}"
    return (
        f"Beside {other}, the images of {own} change by {cost.lost.mean:.2f} (95 % interval {cost.lost.low:.2f} to "
        f"{cost.lost.high:.2f}; 0: not at all, 1: into unrelated ones{null}). Without a scorer (--clip MODEL) it "
        "is unknown whether this is damage."
    )


def measured_text(measured: MeasuredConflict) -> str:
    """Return how the images were generated in which conflict was measured."""
    count, prompts = measured.seeds * len(measured.prompts), measured.prompts
    asked = repr(prompts[0]) if len(prompts) == 1 else counted(len(prompts), "prompt")
    return (
        f"Measured in {counted(count, 'image')} with neither adapter, with each and with both, generated in "
        f"{counted(measured.steps, 'step')} at CFG {measured.cfg:g} for {asked}. "
        f"{few_images_warning(count, '--samples')}"
    ).rstrip()


def kept_text(report: LossReport, own: str, others: str, null: str) -> str:
    """Return which share of its training an adapter keeps beside others, by the losses on its training images.

    Args:
        report: the losses on the adapter's training images.
        own: name of the adapter.
        others: names of the adapters that are added.
        null: words for the random adapters in their place.

    """
    kept = report.kept
    if report.doubtful:
        return doubt_text(report, own)
    if kept is None:
        return f"What {own} keeps beside {others} is unknown: a single image gives no standard error. Give more images."
    learned = "of what it learned from its images"
    if kept.value <= 0:
        share = f"keeps nothing {learned}: {percent_text(kept.value, kept.error)}"
    else:
        share = f"keeps {percent_text(kept.value, kept.error)} {learned}"
    return f"Beside {others}, {own} {share}{_null_text(null, report.random_kept)}."


def retained_text(measured: Measured | None, own: str, other: str) -> str:
    """Return which share of its effect on the base's prediction an adapter keeps beside another one."""
    if measured is None:
        return f"{own} has no effect on the base's prediction here, so there is nothing to keep beside {other}."
    share = percent_text(measured.value, measured.details.get("error", math.nan))
    null = ""
    if measured.random is not None:
        mean = percent_text(measured.random, measured.random_sd)
        null = f"; beside random adapters of {other}'s norms, {mean}"
    return f"Beside {other}, {own} keeps {share} of its effect on the base's prediction{null}."


def percent_text(share: float, spread: float | None = None) -> str:
    """Return a share in percent with its standard error or deviation if that is known.

    >>> percent_text(0.482, 0.061), percent_text(-0.001), percent_text(0.9971, 0.0004)
    ('48 % +- 6 %', '0 %', '99.71 % +- 0.04 %')
    """
    if spread is None or math.isnan(spread):
        return f"{number_text(100 * share, 0)} %"
    digits = sum(spread < limit for limit in (0.005, 0.0005))
    return f"{number_text(100 * share, digits)} % +- {100 * spread:.{digits}f} %"


def _null_text(null: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return f"; beside {null}, {percent_text(statistics.fmean(values), spread)}"


def weights_only_text(names: Sequence[str]) -> str:
    """Return that weights cannot answer, and which options would."""
    return (
        f"Weights cannot show whether {_listed(names)} conflict. Add --base and the training images "
        f"({_data_options(names)}) to measure it."
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _data_options(names: Sequence[str]) -> str:
    return " ".join(f"--data {shlex.quote(name)}=DIR" for name in names)


def conflict_score(losses: Sequence[LossReport]) -> float | None:
    """Return the mean harm of two adapters to each other's loss on its own images; None unless both are known."""
    return (losses[0].harm.value + losses[1].harm.value) / 2 if len(losses) == 2 else None


def conflict_score_text(losses: Sequence[LossReport], names: tuple[str, str]) -> str:
    """Return the conflict score in words, and how far it can be trusted."""
    score = conflict_score(losses)
    if score is None:
        return (
            f"No conflict score: it needs the training images of both adapters ({_data_options(names)}). Effects on "
            "activations alone hardly predicted the fidelity that pairs lost in bwlab's study (docs/study.md)."
        )
    harms = ", ".join(f"{name} {report.harm.value:+.3f}" for name, report in zip(names, losses, strict=True))
    return (
        f"Conflict score {score:.3f}: the mean rise of the loss on each adapter's training images beside the other "
        f"adapter ({harms}). In bwlab's study the rise on an identity's images was somewhat correlated with "
        f"the identity that was lost (rank correlation {HARM_RHO['identity']:.2f}), the rise on a style's images not "
        f"with the style ({HARM_RHO['style']:.2f}), and the cosine of the weights hardly with either "
        f"({COSINE_RHO['identity']:.2f}, {COSINE_RHO['style']:.2f}). Take the score as a hint; 'bwlab analyze "
        "recommend' generates and scores images to make sure."
    )


def loss_warnings(losses: Sequence[LossReport], names: Mapping[str, str]) -> list[str]:
    """Return a line for each adapter that does not lower the loss on its supposed training images.

    Args:
        losses: the losses on the images of each adapter.
        names: names of the adapters by their letters.

    """
    return [doubt_text(report, names[report.adapter]) for report in losses if report.doubtful]


def doubt_text(report: LossReport, own: str) -> str:
    """Return that an adapter does not lower the loss on its supposed training images."""
    return (
        f"{own} does not lower the loss on these images beyond doubt ({report.base.value:.3f} without it, "
        f"{report.own.value:.3f} with it), as adapters do on their training images. Check --data {shlex.quote(own)}=: "
        "with other images the conflict score is meaningless."
    )


def no_advice() -> str:
    """Return why no block is advised, and which command searches for scales that help."""
    return (
        "No block is advised from these numbers: in bwlab's study, the block with the largest recovery for its cost "
        f"was the best block to switch off in {100 * TOP_1:.0f} % of pairs ({100 * CHANCE:.0f} % by chance). "
        "--advise searches for scales that are better, as 'bwlab analyze recommend' does, by generating and scoring "
        "images."
    )
