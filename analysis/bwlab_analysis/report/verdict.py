"""Verdicts in words: what the numbers mean, for weights and for fidelity.

Answers from a base are worded in `report.answer`, the advice in `report.advice`, and the captions and notes of tables
in `report.conflict`.

Weights are compared with the numbers of 220 pairs of 22 Stable Diffusion 1.5 LoRA files by different authors:
median |cosine| 1.1e-4 with a maximum of 0.011 (at chance); out overlap x2.4 of chance for unrelated adapters, x4.7 for
two runs on similar images, x32 for two recipes on one subject; in overlap 0.99 for unrelated authors who used one seed.
The largest cosine measured since then is between two styles by one author (docs/real-adapters.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bwlab.terminal import counted
from bwlab_analysis.fidelity.bootstrap import ENOUGH_VALUES
from bwlab_analysis.measures import Measured
from bwlab_analysis.report.numbers import cosine_text, multiple_text, signed_text, words_of
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict

if TYPE_CHECKING:
    from bwlab_analysis.fidelity.recommend import Proof, Recommendation
    from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores

SURE = 3.0  # standard deviations
NO_SPREAD = 1e-9
SAME_SPACE = 0.9
SAME_CHANGES = 1 - 1e-6
LARGEST_REAL_COSINE = 0.0144
UNRELATED, SIMILAR_IMAGES, SAME_SUBJECT = 2.4, 4.7, 32.0
AT_CHANCE = f"at chance (within {SURE:g} standard deviations of a random pair)"
# docs/study.md: rank correlations of the cosine with the identity and the style that 240 composed pairs lost.
UNINFORMATIVE = "In bwlab's study it hardly predicted the fidelity that pairs lost."

MOST_CARRIERS = 4
LEAST_RISE = 0.005  # a smaller rise is shown as +0.00


@dataclass(frozen=True)
class Reading:
    """The meaning of a number: in a sentence for whole adapters, in a few words for a block."""

    whole: str
    block: str


def weights_verdict(report: ConflictReport, by_block: bool = True) -> list[str]:
    """Return what the weights of two adapters show, for all blocks together and, if `by_block`, block by block."""
    total = report.total
    if total.disjoint:
        return [
            "No module is changed by both adapters: the conflict of their weights is exactly 0. They can still affect "
            "each other through the activations that blocks pass on, which weights do not show."
        ]
    zeros = [name for name, share in zip(report.names, (total.share_a, total.share_b), strict=True) if share is None]
    if zeros:
        return [f"Nothing to compare: all deltas of {' and '.join(zeros)} are 0."]
    cosine = total.measures.get("cosine")
    if cosine is not None and abs(cosine.value) >= SAME_CHANGES:
        return [*_disjoint(report), _same_changes(report, cosine)]
    return [
        *_disjoint(report),
        *_shared_inputs(total),
        *_cosine(total),
        *(_by_block(report.blocks, _read_cosine) if by_block else ()),
        *_out_overlap(total),
        *(_by_block(report.blocks, _read_out_overlap) if by_block else ()),
    ]


def shares_initialisation(group: GroupConflict) -> bool:
    """Return whether both adapters read from the same input directions, far beyond chance."""
    overlap = group.measures.get("in_overlap")
    return overlap is not None and overlap.details["fraction"] > SAME_SPACE and overlap.details["chance"] < 0.5


def _same_changes(report: ConflictReport, cosine: Measured) -> str:
    total, both = report.total, " and ".join(report.names)
    everywhere = total.modules_a == total.modules_b == total.shared
    where = f"{both} make" if everywhere else f"In the modules that both change, {both} make"
    if cosine.value > 0:
        return f"{where} the same changes up to a factor: they are the same adapter."
    return f"{where} the same changes with opposite signs: together they cancel out."


def _disjoint(report: ConflictReport) -> Iterator[str]:
    alone = [f"{group.name} ({_who_changes(group, report.names)})" for group in report.blocks if group.disjoint]
    if alone:
        yield f"The conflict of the weights is exactly 0 where no module is changed by both: {', '.join(alone)}."


def _who_changes(group: GroupConflict, names: tuple[str, str]) -> str:
    if group.modules_a and group.modules_b:
        return "different modules"
    return f"{names[0] if group.modules_a else names[1]} only"


def _shared_inputs(group: GroupConflict) -> Iterator[str]:
    overlap = group.measures.get("in_overlap")
    if overlap is not None and shares_initialisation(group):
        yield (
            f"Shared initialisation: both adapters read from the same input directions (in overlap "
            f"{overlap.details['fraction']:.2f}, {_of_chance(overlap)}), as adapters trained from one seed do. This is "
            "not a conflict."
        )


def _of_chance(overlap: Measured) -> str:
    value, random = multiple_text(overlap)
    return f"{value} of chance (random pair: x{random})"


def _cosine(group: GroupConflict) -> Iterator[str]:
    cosine, reading = group.measures.get("cosine"), _read_cosine(group)
    if cosine is None or reading is None:
        return
    value, random = cosine_text(cosine)
    text, scale = f"Cosine {value} (random pair: {random})", _cosine_scale(group, cosine)
    if scale != cosine.random_sd:
        text += f", and +- {scale:.2g} for a random pair with this shared initialisation"
    yield f"{text}: {reading.whole}"


def _cosine_scale(group: GroupConflict, cosine: Measured) -> float:
    """Return the standard deviation of a random pair's cosine; with a shared initialisation if there is one."""
    given_inputs = shares_initialisation(group)
    return cosine.details["random_sd_given_inputs"] if given_inputs else cosine.random_sd or 0.0


def _read_cosine(group: GroupConflict) -> Reading | None:
    cosine = group.measures.get("cosine")
    if cosine is None or cosine.random_sd is None:
        return None
    if abs(cosine.value) <= SURE * _cosine_scale(group, cosine):
        whole = f"{AT_CHANCE}, as between nearly all real adapters. It does not show a conflict."
        return Reading(whole, "at chance")
    if abs(cosine.value) <= LARGEST_REAL_COSINE:
        usual = "beyond chance, but within the range of real adapters"
        return Reading(f"{usual}. It does not show a conflict.", usual)
    direction = "in the same direction" if cosine.value > 0 else "in opposite directions"
    whole = f"beyond chance. The adapters push the weights {direction}. {UNINFORMATIVE}"
    return Reading(whole, f"beyond chance, {direction}")


def _out_overlap(group: GroupConflict) -> Iterator[str]:
    overlap, reading = group.measures.get("out_overlap"), _read_out_overlap(group)
    if overlap is not None and reading is not None:
        most = f"x{1 / overlap.details['chance']:.3g} at most"
        yield f"Out overlap {_of_chance(overlap)}, {most}: {reading.whole}"


def _read_out_overlap(group: GroupConflict) -> Reading | None:
    overlap = group.measures.get("out_overlap")
    if overlap is None or overlap.random_sd is None:
        return None
    if overlap.random_sd < NO_SPREAD:
        return Reading(
            "one adapter writes into every direction, so no other value is possible. It does not show a conflict.",
            "one adapter writes into every direction, so no other value is possible",
        )
    if overlap.value < 1.0 - SURE * overlap.random_sd:
        return Reading(
            "below chance. The adapters write into directions that keep clear of each other.", "below chance"
        )
    if overlap.value <= 1.0 + SURE * overlap.random_sd:
        return Reading(f"{AT_CHANCE}. The adapters write into unrelated directions.", "at chance")
    # The multiples of real adapters come from small ranks; large ranks cannot reach them.
    if 1 / overlap.details["chance"] < SAME_SUBJECT:
        whole = f"beyond chance. The adapters write into some of the same directions. {UNINFORMATIVE}"
        return Reading(whole, "beyond chance")
    return _among_real_adapters(overlap.value)


def _among_real_adapters(multiple: float) -> Reading:
    """Return where a multiple of chance lies among the multiples of real adapters."""
    unrelated = f"unrelated real adapters (median x{UNRELATED})"
    similar, subject = f"two runs on similar images (x{SIMILAR_IMAGES})", f"one subject twice (x{SAME_SUBJECT:.0f})"
    if multiple <= UNRELATED:
        whole = f"beyond chance, but not above the overlap of {unrelated}."
        return Reading(whole, f"up to the median of unrelated adapters, x{UNRELATED}")
    if multiple <= SIMILAR_IMAGES:
        whole = f"between the overlap of {unrelated} and the overlap of {similar}."
        return Reading(whole, f"above unrelated adapters, x{UNRELATED}")
    if multiple < SAME_SUBJECT:
        whole = f"between the overlap of {similar} and the overlap of {subject}."
        return Reading(whole, f"above two runs on similar images, x{SIMILAR_IMAGES}")
    whole = f"as high as the overlap of {subject}, or higher."
    return Reading(whole, f"as for one subject twice, x{SAME_SUBJECT:.0f}, or higher")


def _by_block(blocks: Sequence[GroupConflict], read: Callable[[GroupConflict], Reading | None]) -> Iterator[str]:
    """Yield one line with the readings of all blocks; blocks with the same reading are grouped."""
    names: dict[str, list[str]] = {}
    for group in blocks:
        reading = read(group)
        if reading is not None:
            names.setdefault(reading.block, []).append(group.name)
    if names:
        parts = [
            f"{reading} ({'all blocks that both change' if len(names) == 1 and len(same) > 1 else ', '.join(same)})"
            for reading, same in names.items()
        ]
        yield f"Block by block: {'; '.join(parts)}."


def carrier_lines(
    conditions: Sequence[ConditionScores], profiles: Sequence[BlockProfile], leading: Sequence[str]
) -> list[str]:
    """Return a sentence for each adapter that names the blocks that alone raise its score, the strongest first.

    Args:
        conditions: the generated compositions, for their number of images.
        profiles: profiles of all blocks.
        leading: names of the scorers of identity and of style, in this order.

    """
    lines = []
    few = len(conditions[0].images) < ENOUGH_VALUES
    for adapter, scorer in zip(("identity", "style"), leading, strict=False):
        rises = {profile.block: profile.knocked_in[scorer] for profile in profiles if profile.adapter == adapter}
        sure = [block for block, rise in rises.items() if rise.low > 0 and rise.mean >= LEAST_RISE]
        sure.sort(key=lambda block: -rises[block].mean)
        named = ", ".join(f"{block} ({rises[block].mean:+.2f})" for block in sure[:MOST_CARRIERS])
        lines.append(
            f"Blocks of the {adapter} adapter that alone raise {words_of(scorer)}, the strongest first: {named}"
            + (", as far as so few images can show." if few else ".")
            if sure
            else f"No block of the {adapter} adapter alone raises {words_of(scorer)} beyond the noise."
        )
    return lines


def few_images_warning(count: int, option: str = "--seeds") -> str:
    """Return a warning if so few images of each composition make intervals too narrow; otherwise an empty text."""
    if count >= ENOUGH_VALUES:
        return ""
    return f"With only {counted(count, 'image')} for each composition the intervals are too narrow: raise {option}."


def interval_name(proof: Proof) -> str:
    """Return what the interval of a proof's gain is."""
    return "95 % interval" + (f", corrected for {proof.rounds} rounds of images," if proof.rounds > 1 else "")


def recommendation_text(recommendation: Recommendation) -> str:
    """Return the recommendation, and its gain in images that the search did not use."""
    proof, tried = recommendation.proof, counted(len(recommendation.trials), "composition")
    if proof is None:
        return f"Leave both as they are: none of {tried} is better than both at scale 1."
    images = counted(len(proof.best.images), "image")
    where = f"{images} for {'prompts and seeds' if proof.new_prompts else 'seeds'} that the search did not use"
    gain = proof.gain
    between = f"{interval_name(proof)} {signed_text(gain.low)} to {signed_text(gain.high)}"
    if not recommendation.improves:
        return (
            f"Leave both as they are: in {where}, the best of {tried} changes the balance by {signed_text(gain.mean)} "
            f"({between}), {_why_not(proof)}"
        )
    shares = " and ".join(
        f"the {name} covers {100 * before:.0f} % without and {100 * after:.0f} % with the change"
        for name, before, after in (
            ("identity", proof.whole_shares.identity, proof.best_shares.identity),
            ("style", proof.whole_shares.style, proof.best_shares.style),
        )
    )
    ways = f"Of the way from the base to the reference images, {shares}."
    if not recommendation.recommended:
        return (
            f"No composition is recommended: the best of {tried} is better than both at scale 1, but it shows too "
            f"little of an adapter. {ways} Inspect the images, and try other training or other adapters."
        )
    return f"Use the scales below: in {where}, they change the balance by {signed_text(gain.mean)} ({between}). {ways}"


def _why_not(proof: Proof) -> str:
    """Return why a composition is not proved to be better."""
    if proof.gain.high < 0:
        return "which is worse. A larger --budget searches more compositions."
    if proof.gain.low > 0:
        return (
            f"but fewer than {ENOUGH_VALUES} images prove nothing. Give more prompts, or more --seeds to "
            "'bwlab analyze recommend'."
        )
    return (
        "which may be chance. More prompts, a larger --budget, or more --seeds of 'bwlab analyze recommend' can find "
        "smaller gains."
    )
