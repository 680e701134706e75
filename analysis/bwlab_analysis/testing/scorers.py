"""The contract of fidelity scorers, clause by clause, on a few small images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bwlab.testing.bench import require
from bwlab.testing.images import changed, noise_image, small_images
from bwlab_analysis.measures import SCORER_KINDS, FidelityScorer
from bwlab_analysis.testing.weights import NAME

if TYPE_CHECKING:
    from PIL.Image import Image

TAKEN = frozenset({"harmonic"})
NEAR = 1e-4
PROMPTS = ("a red wall", "a white wall", "a dark wall", "a rainbow", "noise")


@dataclass(frozen=True)
class ScorerBench:
    """The material of a clause: the scorer, images, and what they are compared with."""

    scorer: FidelityScorer

    @cached_property
    def score(self) -> Callable[[Sequence[Image], Sequence[Any]], list[float]]:
        """The function of the scorer."""
        return self.scorer.load()

    @cached_property
    def images(self) -> list[Image]:
        """Images of several sizes, flat and busy ones."""
        return small_images()

    @cached_property
    def against(self) -> Sequence[Any]:
        """A prompt for each image, or two reference images: the first and the fourth of the images."""
        return list(PROMPTS) if self.is_of_text else [small_images()[0], small_images()[3]]

    @property
    def is_of_text(self) -> bool:
        """Whether images are compared with prompts."""
        return self.scorer.kind == "text"

    def alone(self, index: int) -> Sequence[Any]:
        """Return what one image is compared with."""
        return self.against[index : index + 1] if self.is_of_text else self.against

    @cached_property
    def scores(self) -> list[float]:
        """The scores of the images, all at once."""
        return [float(score) for score in self.score(self.images, self.against)]


ScorerClause: TypeAlias = Callable[[ScorerBench], None]


def its_name_can_be_a_column(bench: ScorerBench) -> None:
    """The name is one word of lower-case letters, digits and `_`, the kind one of three, and the summary one line."""
    scorer = bench.scorer
    require(NAME.fullmatch(scorer.name) is not None, f"the name {scorer.name!r} is no such word")
    require(scorer.name not in TAKEN, f"the tables have another column {scorer.name}")
    require(scorer.kind in SCORER_KINDS, f"the kind is {scorer.kind!r}, which is none of {', '.join(SCORER_KINDS)}")
    require(scorer.summary.strip() != "" and "\n" not in scorer.summary, "the summary is not one line")


def each_image_gets_a_finite_score(bench: ScorerBench) -> None:
    """There is one finite number for each image, for one image too."""
    for images, scores in (
        (bench.images, bench.scores),
        (bench.images[:1], bench.score(bench.images[:1], bench.alone(0))),
    ):
        require(len(scores) == len(images), f"there are {len(scores)} scores for {len(images)} images")
        require(all(math.isfinite(float(score)) for score in scores), f"a score is not finite: {list(scores)}")


def images_are_scored_apart(bench: ScorerBench) -> None:
    """An image has the same score alone, among others, and in another order."""
    for index, image in enumerate(bench.images):
        _require_near(f"image {index + 1} alone", bench.score([image], bench.alone(index))[0], bench.scores[index])
    against = bench.against[::-1] if bench.is_of_text else bench.against
    backwards = bench.score(bench.images[::-1], against)[::-1]
    _require_all_near("the images in reverse order", backwards, bench.scores)


def the_order_of_references_does_not_matter(bench: ScorerBench) -> None:
    """The reference images may come in any order; prompts belong to their images."""
    if bench.is_of_text:
        return
    scores = bench.score(bench.images, bench.against[::-1])
    _require_all_near("the references in reverse order", scores, bench.scores)


def a_scorer_loaded_again_gives_the_same(bench: ScorerBench) -> None:
    """A second call, and a scorer that is loaded again, give the same scores."""
    for name, score in (("a second call", bench.score), ("a scorer loaded again", bench.scorer.load())):
        _require_all_near(name, score(bench.images, bench.against), bench.scores)


def a_reference_scores_higher_than_noise(bench: ScorerBench) -> None:
    """A higher score means more similar: a reference compared with itself scores higher than noise."""
    if bench.is_of_text:
        return
    generator = np.random.default_rng(5)
    for reference in bench.against:
        own, noise = bench.score([reference, noise_image(generator, reference.size)], [reference])
        require(float(own) > float(noise), f"a reference scores {float(own):.4g}, and noise {float(noise):.4g}")


def the_references_count(bench: ScorerBench) -> None:
    """Other references, or other prompts, give other scores."""
    other: Sequence[Any] = PROMPTS[::-1] if bench.is_of_text else [bench.images[2]]
    same = np.allclose(bench.score(bench.images, other), bench.scores, rtol=0, atol=NEAR)
    require(not same, f"the scores are the same with other {'prompts' if bench.is_of_text else 'references'}")


def images_are_left_as_they_were(bench: ScorerBench) -> None:
    """No pixel of an image or of a reference changes."""
    bench.score(bench.images, bench.against)
    which = changed(bench.images, small_images())
    require(which is None, f"image {which} has other pixels afterwards")
    if not bench.is_of_text:
        which = changed(bench.against, [small_images()[0], small_images()[3]])
        require(which is None, f"reference {which} has other pixels afterwards")


SCORER_CLAUSES: tuple[ScorerClause, ...] = (
    its_name_can_be_a_column,
    each_image_gets_a_finite_score,
    images_are_scored_apart,
    the_order_of_references_does_not_matter,
    a_scorer_loaded_again_gives_the_same,
    a_reference_scores_higher_than_noise,
    the_references_count,
    images_are_left_as_they_were,
)


def _require_all_near(what: str, got: Sequence[float], expected: Sequence[float]) -> None:
    require(len(got) == len(expected), f"{what}: there are {len(got)} scores, and were {len(expected)}")
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        _require_near(f"{what}: image {index + 1}", one, other)


def _require_near(what: str, got: float, expected: float) -> None:
    near = math.isclose(float(got), expected, rel_tol=NEAR, abs_tol=NEAR)
    require(near, f"{what}: the score is {float(got):.6g}, and was {expected:.6g}")
