"""What two adapters' numbers mean, in words, and no more than they mean.

The orientation numbers are of 220 pairs from 22 Stable Diffusion 1.5 LoRA files by different authors: median |cosine|
1.1e-4 with a maximum of 0.011 (at chance); out overlap x2.4 of chance for unrelated ones, x4.7 for two runs on like
pictures, x32 for two recipes on one subject; in overlap 0.99 for unrelated authors who used one seed. The largest
cosine measured since is that of two styles by one author (docs/real-adapters.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from bwlab_analysis.conflict import ConflictReport, GroupConflict
from bwlab_analysis.figures import cosine_text, multiple_text
from bwlab_analysis.registry import Measured

SURE = 3.0  # standard deviations
SAME_SPACE = 0.9
LARGEST_REAL_COSINE = 0.0144
# docs/study.md: rank correlations of -0.05 and -0.02 with what 162 composed pairs lost.
IDLE = "In bwlab's study that told nothing of the fidelity that pairs lost."
UNRELATED, LIKE_PICTURES, SAME_SUBJECT = 2.4, 4.7, 32.0


def verdict(report: ConflictReport) -> list[str]:
    """The lines below the table."""
    if report.total.disjoint:
        return [
            "No module is changed by both: the conflict of their weights is exactly 0. They can still act on each "
            "other through what the blocks pass on, which weights do not show."
        ]
    zeros = [name for name, share in (("a", report.total.share_a), ("b", report.total.share_b)) if share is None]
    if zeros:
        return [f"Nothing to compare: all deltas of {' and of '.join(zeros)} are 0."]
    return [*_disjoint(report), *_inputs(report.total), *_cosine(report.total), *_outputs(report)]


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
    cosine = group.measures.get("cosine")
    if cosine is None or cosine.random_sd is None:
        return
    scale = cosine.random_sd
    text = f"Cosine {cosine_text(cosine, words=True)}"
    if shares_initialisation(group):
        scale = cosine.details["random_sd_given_inputs"]
        text += f", and +- {scale:.2g} for a random pair with this shared initialisation"
    if abs(cosine.value) <= SURE * scale:
        yield f"{text}: at chance, as between nearly all real adapters. It says nothing about conflict."
    elif abs(cosine.value) <= LARGEST_REAL_COSINE:
        yield f"{text}: beyond chance, but no more than between real adapters. It says nothing about conflict."
    elif cosine.value > 0:
        yield f"{text}: beyond chance. They push the weights the same way. {IDLE}"
    else:
        yield f"{text}: beyond chance. They push the weights opposite ways. {IDLE}"


def _outputs(report: ConflictReport) -> Iterator[str]:
    overlap = report.total.measures.get("out_overlap")
    if overlap is None or overlap.random_sd is None:
        return
    text = f"Out overlap {multiple_text(overlap, words=True)}, x{1 / overlap.details['chance']:.3g} at most"
    if overlap.value <= 1.0 + SURE * overlap.random_sd:
        yield f"{text}: at chance. They write into unrelated directions."
        return
    most = max((group for group in report.blocks if group.measures.get("out_overlap")), key=_out_multiple)
    yield f"{text}, most in {most.name} (x{_out_multiple(most):.3g}): {_reading(overlap)}"


def _out_multiple(group: GroupConflict) -> float:
    overlap = group.measures["out_overlap"]
    return overlap.value if overlap is not None else 0.0


def _reading(overlap: Measured) -> str:
    """What such a multiple of chance has meant between real adapters, where it can be compared with theirs."""
    if 1 / overlap.details["chance"] < SAME_SUBJECT:
        return f"beyond chance. They write into some of the same directions. {IDLE}"
    if overlap.value < (UNRELATED + LIKE_PICTURES) / 2:
        return f"beyond chance, but no more than unrelated real adapters have (median x{UNRELATED})."
    if overlap.value < (LIKE_PICTURES + SAME_SUBJECT) / 2:
        return (
            f"more than unrelated real adapters have (median x{UNRELATED}); two runs on like pictures had "
            f"x{LIKE_PICTURES}."
        )
    return (
        f"far more than unrelated real adapters have (median x{UNRELATED}); one subject twice had x{SAME_SUBJECT:.0f}."
    )
