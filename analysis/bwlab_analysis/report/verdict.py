"""What two adapters' numbers mean, in words, and no more than they mean.

The orientation numbers are of 220 pairs from 22 Stable Diffusion 1.5 LoRA files by different authors: median |cosine|
1.1e-4 with a maximum of 0.011 (at chance); out overlap x2.4 of chance for unrelated ones, x4.7 for two runs on like
pictures, x32 for two recipes on one subject; in overlap 0.99 for unrelated authors who used one seed. The largest
cosine measured since is that of two styles by one author (docs/real-adapters.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bwlab_analysis.measures import Measured
from bwlab_analysis.report.numbers import cosine_text, multiple_text
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict

SURE = 3.0  # standard deviations
EXACT = 1e-9  # a spread that is none
SAME_SPACE = 0.9
SAME_CHANGES = 1 - 1e-6
LARGEST_REAL_COSINE = 0.0144
# docs/study.md: rank correlations of -0.05 and -0.02 with what 162 composed pairs lost.
IDLE = "In bwlab's study that told nothing of the fidelity that pairs lost."
UNRELATED, LIKE_PICTURES, SAME_SUBJECT = 2.4, 4.7, 32.0
AT_CHANCE = f"at chance (within {SURE:g} standard deviations of a random pair)"

FROM_WEIGHTS = (
    "What to do: weights do not tell. With --base BASE, and the adapters' own pictures in --data-a DIR and "
    "--data-b DIR, bwlab looks at both at work and says what to turn down."
)


@dataclass(frozen=True)
class Reading:
    """What a number means: of whole adapters in a sentence, of a block in a few words."""

    whole: str
    block: str


def verdict(report: ConflictReport) -> list[str]:
    """Return the lines below the table: of all blocks together, then of each."""
    if report.total.disjoint:
        return [
            "No module is changed by both: the conflict of their weights is exactly 0. They can still act on each "
            "other through what the blocks pass on, which weights do not show."
        ]
    zeros = [name for name, share in (("a", report.total.share_a), ("b", report.total.share_b)) if share is None]
    if zeros:
        return [f"Nothing to compare: all deltas of {' and of '.join(zeros)} are 0."]
    cosine = report.total.measures.get("cosine")
    if cosine is not None and abs(cosine.value) >= SAME_CHANGES:
        return [*_disjoint(report), _same_changes(report.total, cosine)]
    return [
        *_disjoint(report),
        *_inputs(report.total),
        *_cosine(report.total),
        *_by_block(report.blocks, _cosine_reading),
        *_outputs(report.total),
        *_by_block(report.blocks, _outputs_reading),
    ]


def _same_changes(group: GroupConflict, cosine: Measured) -> str:
    everywhere = group.modules_a == group.modules_b == group.shared
    where = "a and b hold" if everywhere else "In the modules that both change, a and b hold"
    if cosine.value > 0:
        return f"{where} the same changes, up to a factor: one adapter twice."
    return f"{where} the same changes with opposite signs: one takes the other back."


def shares_initialisation(group: GroupConflict) -> bool:
    """Whether both read from the same input directions although chance would not have it so."""
    overlap = group.measures.get("in_overlap")
    return overlap is not None and overlap.details["fraction"] > SAME_SPACE and overlap.details["chance"] < 0.5


def _disjoint(report: ConflictReport) -> Iterator[str]:
    alone = [f"{group.name} ({'a' if group.modules_a else 'b'} only)" for group in report.blocks if group.disjoint]
    if alone:
        yield f"Conflict of weights exactly 0, as no module is changed by both: {', '.join(alone)}."


def _inputs(group: GroupConflict) -> Iterator[str]:
    overlap = group.measures.get("in_overlap")
    if overlap is not None and shares_initialisation(group):
        yield (
            f"Shared initialisation: both read from the same input directions (in overlap "
            f"{overlap.details['fraction']:.2f}, {multiple_text(overlap, words=True)}), as adapters trained from one "
            "seed do. This is no conflict."
        )


def _cosine(group: GroupConflict) -> Iterator[str]:
    cosine, reading = group.measures.get("cosine"), _cosine_reading(group)
    if cosine is None or reading is None:
        return
    scale = _cosine_scale(group, cosine)
    text = f"Cosine {cosine_text(cosine, words=True)}"
    if scale != cosine.random_sd:
        text += f", and +- {scale:.2g} for a random pair with this shared initialisation"
    yield f"{text}: {reading.whole}"


def _cosine_scale(group: GroupConflict, cosine: Measured) -> float:
    """Return the standard deviation of a random pair's, with the shared initialisation where there is one."""
    given_inputs = shares_initialisation(group)
    return cosine.details["random_sd_given_inputs"] if given_inputs else cosine.random_sd or 0.0


def _cosine_reading(group: GroupConflict) -> Reading | None:
    cosine = group.measures.get("cosine")
    if cosine is None or cosine.random_sd is None:
        return None
    if abs(cosine.value) <= SURE * _cosine_scale(group, cosine):
        whole = f"{AT_CHANCE}, as between nearly all real adapters. It says nothing about conflict."
        return Reading(whole, "at chance")
    if abs(cosine.value) <= LARGEST_REAL_COSINE:
        no_more = "beyond chance, but no more than between real adapters"
        return Reading(f"{no_more}. It says nothing about conflict.", no_more)
    way = "the same way" if cosine.value > 0 else "the opposite way"
    ways = way if cosine.value > 0 else "opposite ways"
    return Reading(f"beyond chance. They push the weights {ways}. {IDLE}", f"beyond chance, {way}")


def _outputs(group: GroupConflict) -> Iterator[str]:
    overlap, reading = group.measures.get("out_overlap"), _outputs_reading(group)
    if overlap is not None and reading is not None:
        most = f"x{1 / overlap.details['chance']:.3g} at most"
        yield f"Out overlap {multiple_text(overlap, words=True)}, {most}: {reading.whole}"


def _outputs_reading(group: GroupConflict) -> Reading | None:
    overlap = group.measures.get("out_overlap")
    if overlap is None or overlap.random_sd is None:
        return None
    if overlap.random_sd < EXACT:
        return Reading(
            "no other is possible, as one of them writes into every direction. It tells nothing.",
            "one writes into every direction, which tells nothing",
        )
    if overlap.value <= 1.0 + SURE * overlap.random_sd:
        return Reading(f"{AT_CHANCE}. They write into unrelated directions.", "at chance")
    # Multiples of real adapters, which are of small ranks, cannot be reached by all.
    if 1 / overlap.details["chance"] < SAME_SUBJECT:
        return Reading(f"beyond chance. They write into some of the same directions. {IDLE}", "beyond chance")
    return _among_real(overlap.value)


def _among_real(multiple: float) -> Reading:
    """Where it stands among what was found between real adapters."""
    unrelated, alike = f"unrelated real adapters (median x{UNRELATED})", f"two runs on like pictures (x{LIKE_PICTURES})"
    subject = f"one subject twice (x{SAME_SUBJECT:.0f})"
    if multiple <= UNRELATED:
        whole = f"beyond chance, but no more than of {unrelated}."
        return Reading(whole, f"up to the median of unrelated adapters, x{UNRELATED}")
    if multiple <= LIKE_PICTURES:
        return Reading(
            f"between that of {unrelated} and of {alike}.", f"above that of unrelated adapters, x{UNRELATED}"
        )
    if multiple < SAME_SUBJECT:
        return Reading(
            f"between that of {alike} and of {subject}.", f"above two runs on like pictures, x{LIKE_PICTURES}"
        )
    return Reading(f"as that of {subject}, or more.", f"as one subject twice, x{SAME_SUBJECT:.0f}, or more")


def _by_block(blocks: Sequence[GroupConflict], read: Callable[[GroupConflict], Reading | None]) -> Iterator[str]:
    """One line with the same of each block, those with one reading together."""
    found: dict[str, list[str]] = {}
    for group in blocks:
        reading = read(group)
        if reading is not None:
            found.setdefault(reading.block, []).append(group.name)
    if found:
        parts = [
            f"{told} ({'all that both change' if len(found) == 1 and len(names) > 1 else ', '.join(names)})"
            for told, names in found.items()
        ]
        yield f"Block by block: {'; '.join(parts)}."
