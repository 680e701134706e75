"""What verdicts say about scores, and how surely."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bwlab_analysis.fidelity.bootstrap import bootstrap
from bwlab_analysis.fidelity.recommend import PairScales, Retention, Search, Trial
from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores
from bwlab_analysis.measures import Interval
from bwlab_analysis.report.verdict import best_trial_text, carrier_lines, few_images_warning


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
    assert "With only 6 images for each composition the intervals are too narrow" in few_images_warning(
        [generated([0.5] * 6)]
    )
    many = ConditionScores(None, "made up", {}, {}, (Image.new("RGB", (1, 1)),) * 12)
    assert few_images_warning([many]) == ""


def test_what_is_kept_has_an_interval_about_its_value() -> None:
    rng = np.random.default_rng(0)
    base, alone = generated([0.1] * 6), generated([0.9] * 6)
    search = Search(lambda condition: base, base, alone, alone, ("who", "how", "what"), 3)
    mixed = generated(list(rng.uniform(0.4, 0.8, 6)))
    drawn = search.resampled(mixed)
    assert np.percentile(drawn, 2.5) < search.retention(mixed).harmonic_mean < np.percentile(drawn, 97.5)
    assert search.resampled(alone) == pytest.approx(1.0)
    assert search.resampled(base) == pytest.approx(0.0)


def trial(reason: str, behind: float, noise: float = 0.02) -> Trial:
    whole = PairScales((("in0", 1.0),), (("in0", 1.0),))
    kept = Interval(0.8 - behind, 0.7 - behind, 0.9 - behind)
    return Trial(
        whole, reason, Retention(1, 1, 1), generated([0.5] * 6), kept, Interval(behind, behind - noise, behind + noise)
    )


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([trial("both whole", 0)], "No other composition was tried: raise --budget."),
        (
            [trial("both whole", 0), trial("style in upper only", 0.1)],
            "No composition is better than both adapters whole.",
        ),
        (
            [trial("style in upper only", 0), trial("both whole", 0.01)],
            "It may not be better than both adapters whole: the difference is within the noise. 1 of 1 "
            "other cannot be distinguished from the best by 6 images of each; raise --seeds to distinguish more.",
        ),
        (
            [trial("style in upper only", 0), trial("blamed", 0.01), trial("both whole", 0.1)],
            "It is better than both adapters whole, beyond the noise. 1 of 2 others cannot",
        ),
    ],
)
def test_how_surely_the_best_is_best(trials: list[Trial], words: str) -> None:
    assert words in best_trial_text(trials)
