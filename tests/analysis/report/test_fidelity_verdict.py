"""What verdicts say about scores, and how surely."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from PIL import Image

from bwlab_analysis.fidelity.bootstrap import bootstrap
from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores
from bwlab_analysis.measures import Interval
from bwlab_analysis.report.fidelity import WITHOUT_BLOCKS, present_fidelity
from bwlab_analysis.report.verdict import carrier_lines, few_images_warning


def profile(adapter: str, block: str, low: float, mean: float) -> BlockProfile:
    interval = {"who": Interval(mean, low, mean + 0.1), "how": Interval(mean, low, mean + 0.1)}
    return BlockProfile(adapter, block, interval, interval)


def test_the_blocks_that_carry_an_adapter_are_named() -> None:
    profiles = [
        profile("identity", "in0", -0.1, 0.2),
        profile("identity", "out1", 0.01, 0.05),
        profile("identity", "out2", 0.1, 0.17),
        profile("identity", "mid", 1e-4, 2e-4),
        profile("style", "out3", -0.1, 0.5),
    ]
    assert carrier_lines([generated([0.5] * 6)], profiles, ("who", "how", "what")) == [
        "Blocks of the identity adapter that alone raise who, the strongest first: out2 (+0.17), out1 (+0.05), as far "
        "as so few images can show.",
        "No block of the style adapter alone raises how beyond the noise.",
    ]


def generated(values: list[float]) -> ConditionScores:
    """Two prompts of three seeds each, scored alike by three scorers."""
    found = dict.fromkeys(("who", "how", "what"), tuple(values))
    scores = {name: bootstrap(np.reshape(numbers, (2, 3))) for name, numbers in found.items()}
    return ConditionScores(None, "made up", scores, found, (Image.new("RGB", (1, 1)),) * 6)


def test_few_images_are_warned_of() -> None:
    said = "With only {} images for each composition the intervals are too narrow: raise {}."
    assert few_images_warning(11) == said.format(11, "--seeds")
    assert few_images_warning(6, "--samples") == said.format(6, "--samples")
    assert few_images_warning(12) == ""


def test_a_summary_without_blocks_says_so() -> None:
    judge = SimpleNamespace(scorers=(), leading=(), errors=())
    many = ConditionScores(None, "made up", {}, {}, (Image.new("RGB", (1, 1)),) * 12)
    shown = present_fidelity(("a", "b"), [many], [], [], judge)  # type: ignore[arg-type]
    assert shown.conclusion.items == (WITHOUT_BLOCKS,)
