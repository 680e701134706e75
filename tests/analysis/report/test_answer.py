"""What each adapter loses beside the other, in words."""

from __future__ import annotations

import pytest

from bwlab_analysis.activations.pair import Cost
from bwlab_analysis.measures import Interval
from bwlab_analysis.report.answer import cost_text


def cost(low: float, mean: float, high: float, of: str = "identity", random: float | None = None) -> Cost:
    null = None if random is None else Interval(random, random, random)
    return Cost("a", of, 0.1, 0.9, 0.5, Interval(mean, low, high), null)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            cost(0.12, 0.18, 0.25, random=0.03),
            "Beside ink, fox loses 18 % of its identity (95 % interval 12 to 25 %; beside a random adapter of ink's "
            "norms, 3 %).",
        ),
        (
            cost(-0.02, 0.04, 0.1, "style"),
            "Beside ink, fox loses nothing measurable of its style (4 %, 95 % interval -2 to 10 %).",
        ),
        (
            cost(-0.3, -0.2, -0.1, "likeness"),
            "Beside ink, fox gains 20 % of its likeness to its training images (95 % interval 10 to 30 %).",
        ),
        (
            Cost("a", "identity", 0.1, 0.1, 0.1, None, None),
            "fox alone does not bring its identity into the generated images beyond doubt, so what it loses beside ink "
            "cannot be measured.",
        ),
        (
            Cost("a", "latents", None, None, None, Interval(0.31, 0.28, 0.35), Interval(0.12, 0.1, 0.14)),
            "Beside ink, the images of fox change by 0.31 (95 % interval 0.28 to 0.35; 0: not at all, 1: into "
            "unrelated ones; beside a random adapter of ink's norms, 0.12). Without a scorer (--clip MODEL) it "
            "is unknown whether this is damage.",
        ),
    ],
)
def test_a_cost_has_size_interval_and_direction(found: Cost, words: str) -> None:
    assert cost_text(found, "fox", "ink") == words
