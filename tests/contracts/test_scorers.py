"""The contract of fidelity scorers finds scorers that break it, clause by clause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bwlab_analysis.measures import FidelityScorer
from bwlab_analysis.testing import ScorerContract, run_scorer_contract
from bwlab_analysis.testing.scorers import SCORER_CLAUSES

Score = Callable[[Sequence[Image.Image], Sequence[Any]], list[float]]
CALLS = itertools.count()
NAME, FINITE, APART = "its name can be a column", "each image gets a finite score", "images are scored apart"
REFERENCES, SAME = "the order of references does not matter", "a scorer loaded again gives the same"
HIGHER, COUNT, LEFT = "a reference scores higher than noise", "the references count", "images are left as they were"


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((4, 4)), np.float64) / 255


def likeness(image: Image.Image, references: Sequence[Image.Image]) -> float:
    return -float(np.mean([np.abs(small(image) - small(reference)).mean() for reference in references]))


def sound(images: Sequence[Image.Image], references: Sequence[Any]) -> list[float]:
    return [likeness(image, references) for image in images]


def words(images: Sequence[Image.Image], prompts: Sequence[Any]) -> list[float]:
    return [len(prompt) * float(small(image).mean()) for image, prompt in zip(images, prompts, strict=True)]


def relative(images: Sequence[Image.Image], references: Sequence[Any]) -> list[float]:
    """Return scores with their mean taken off."""
    scores = sound(images, references)
    return [score - sum(scores) / len(scores) for score in scores]


def painting(images: Sequence[Image.Image], references: Sequence[Any]) -> list[float]:
    scores = sound(images, references)
    images[0].putpixel((0, 0), (1, 2, 3))
    return scores


def painting_references(images: Sequence[Image.Image], references: Sequence[Any]) -> list[float]:
    scores = sound(images, references)
    references[0].putpixel((0, 0), (1, 2, 3))
    return scores


def scorer(score: Score, kind: Any = "style") -> FidelityScorer:
    return FidelityScorer("own", kind, "own", lambda: score)


def drawing() -> Score:
    """Return a scorer that draws a number when it is loaded."""
    drawn = next(CALLS)
    return lambda images, references: [score + drawn for score in sound(images, references)]


class TestSound(ScorerContract):
    scorer = scorer(sound)


class TestSoundOfText(ScorerContract):
    scorer = scorer(words, "text")


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(ScorerContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in SCORER_CLAUSES}


@pytest.mark.parametrize(
    ("broken", "clauses"),
    [
        (scorer(sound), set()),
        (scorer(sound, "identity"), set()),
        (scorer(words, "text"), set()),
        (scorer(sound, "beauty"), {NAME}),
        (replace(scorer(sound), name="harmonic"), {NAME}),
        (replace(scorer(sound), name="Own score"), {NAME}),
        (replace(scorer(sound), summary="two\nlines"), {NAME}),
        (scorer(lambda images, references: sound(images, references)[:1]), {FINITE, APART}),
        (scorer(lambda images, references: [float("nan") for _ in images]), {FINITE, APART, REFERENCES, SAME, HIGHER}),
        (scorer(relative), {APART}),
        (scorer(lambda images, references: sound(images, references[:1])), {REFERENCES}),
        (replace(scorer(sound), load=drawing), {SAME}),
        (scorer(lambda images, references: [float(next(CALLS)) for _ in images]), {APART, REFERENCES, SAME, HIGHER}),
        (scorer(lambda images, references: [-score for score in sound(images, references)]), {HIGHER}),
        (scorer(lambda images, references: [small(image).mean() for image in images]), {COUNT, HIGHER}),
        (scorer(lambda images, prompts: sound(images, images[:1]), "text"), {APART, COUNT}),
        (scorer(painting), {LEFT}),
        (scorer(painting_references), {LEFT}),
    ],
)
def test_a_broken_scorer_is_found(broken: FidelityScorer, clauses: set[str]) -> None:
    found = {clause for clause, error in run_scorer_contract(broken) if error}
    assert clauses <= found
    # A scorer without an answer, or with a random one, breaks more than one clause; others break only what they should.
    if not found & {FINITE, SAME, LEFT}:
        assert found == clauses


def test_a_scorer_that_does_not_load_says_why() -> None:
    def load() -> Score:
        raise ImportError("no module named lpips")

    checks = dict(run_scorer_contract(replace(scorer(sound), load=load)))
    assert checks[FINITE] == "ImportError: no module named lpips"
