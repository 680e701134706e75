"""What is said of scores, and how surely."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bwlab_analysis.fidelity.bootstrap import Interval, bootstrap
from bwlab_analysis.fidelity.recommend import PairScales, Retention, Search, Trial
from bwlab_analysis.fidelity.scores import BlockProfile, ConditionScores
from bwlab_analysis.report.fidelity_text import carriers, few_pictures, standing


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
    assert carriers([painted([0.5] * 6)], profiles, ("who", "how", "what")) == [
        "Blocks of the identity adapter that alone raise who, most first: out2 (+0.17), out1 (+0.05), as far as so few "
        "pictures tell.",
        "No block of the style adapter raises how alone beyond the noise.",
    ]


def painted(values: list[float]) -> ConditionScores:
    """Two prompts of three seeds each, scored alike by three scorers."""
    found = dict.fromkeys(("who", "how", "what"), tuple(values))
    scores = {name: bootstrap(np.reshape(numbers, (2, 3))) for name, numbers in found.items()}
    return ConditionScores(None, "made up", scores, found, (Image.new("RGB", (1, 1)),) * 6)


def test_few_pictures_are_warned_of() -> None:
    assert "Of 6 pictures each they are too narrow" in few_pictures([painted([0.5] * 6)])
    many = ConditionScores(None, "made up", {}, {}, (Image.new("RGB", (1, 1)),) * 12)
    assert few_pictures([many]) == ""


def test_what_is_kept_has_an_interval_about_its_value() -> None:
    rng = np.random.default_rng(0)
    base, alone = painted([0.1] * 6), painted([0.9] * 6)
    search = Search(lambda condition: base, base, alone, alone, ("who", "how", "what"), 3)
    mixed = painted(list(rng.uniform(0.4, 0.8, 6)))
    drawn = search.resampled(mixed)
    assert np.percentile(drawn, 2.5) < search.kept(mixed).together < np.percentile(drawn, 97.5)
    assert search.resampled(alone) == pytest.approx(1.0)
    assert search.resampled(base) == pytest.approx(0.0)


def trial(reason: str, behind: float, noise: float = 0.02) -> Trial:
    whole = PairScales((("in0", 1.0),), (("in0", 1.0),))
    kept = Interval(0.8 - behind, 0.7 - behind, 0.9 - behind)
    return Trial(
        whole, reason, Retention(1, 1, 1), painted([0.5] * 6), kept, Interval(behind, behind - noise, behind + noise)
    )


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([trial("both whole", 0)], "Nothing else was tried: give more --budget."),
        ([trial("both whole", 0), trial("style in upper only", 0.1)], "Nothing tried is better than both whole."),
        (
            [trial("style in upper only", 0), trial("both whole", 0.01)],
            "That it is better than both whole is not sure: the difference is within the noise. 1 of 1 other cannot be "
            "told from the best by 6 pictures each; more --seeds tell more.",
        ),
        (
            [trial("style in upper only", 0), trial("blamed", 0.01), trial("both whole", 0.1)],
            "It is better than both whole beyond the noise. 1 of 2 others cannot",
        ),
    ],
)
def test_how_surely_the_best_is_best(trials: list[Trial], words: str) -> None:
    assert words in standing(trials)
