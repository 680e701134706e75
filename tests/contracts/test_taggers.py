"""The contract of taggers finds taggers that break it, clause by clause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.tagging.tagger import Tag, Tagger, TagImages, fraction_option
from bwlab.testing import TaggerContract, run_tagger_contract
from bwlab.testing.taggers import TAGGER_CLAUSES

Images = Sequence[Image.Image]
CALLS = itertools.count()
SAME = "a tagger loaded again says the same"


def bright(image: Image.Image) -> float:
    return float(np.asarray(image).mean()) / 255


def tags_of(image: Image.Image) -> list[Tag]:
    score = bright(image)
    return [Tag("bright" if score > 0.5 else "dark", score), Tag("an image", 1.0)]


def sound(images: Images) -> list[list[Tag]]:
    return [tags_of(image) for image in images]


def with_text(text: str) -> TagImages:
    return lambda images: [[Tag(text, 0.5)] for _ in images]


def with_score(score: float) -> TagImages:
    return lambda images: [[Tag("image", score)] for _ in images]


def of_the_batch(images: Images) -> list[list[Tag]]:
    """Score each image by the brightest of its batch."""
    most = max((bright(image) for image in images), default=1.0)
    return [[Tag("bright", bright(image) / most)] for image in images]


def counting(images: Images) -> list[list[Tag]]:
    return [[Tag(f"call {next(CALLS)}", 0.5)] for _ in images]


def painting(images: Images) -> list[list[Tag]]:
    found = sound(images)
    for image in images:
        image.putpixel((0, 0), (1, 2, 3))
    return found


def tagger(describe: TagImages) -> Tagger:
    return Tagger("own", "own", lambda options: describe)


def with_option(read: Callable[[Mapping[str, str]], object]) -> Tagger:
    def load(options: Mapping[str, str]) -> TagImages:
        read(options)
        return sound

    return Tagger("own", "own", load, ("threshold",))


SOUND = with_option(lambda options: fraction_option(options, "threshold", 0.5))


class TestSound(TaggerContract):
    tagger = SOUND


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(TaggerContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in TAGGER_CLAUSES}


@pytest.mark.parametrize(
    ("broken", "clauses"),
    [
        (SOUND, set()),
        (tagger(lambda images: [[Tag("image", 0.5)]]), {"each image gets a list of tags", "images are tagged apart"}),
        (tagger(lambda images: [[] for _ in images]), {"some image has a tag"}),
        (tagger(with_text("red, blue")), {"tags fit into a caption"}),
        (tagger(with_text("red\nblue")), {"tags fit into a caption"}),
        (tagger(with_text("red\tblue")), {"tags fit into a caption"}),
        (tagger(with_text(" red")), {"tags fit into a caption"}),
        (tagger(with_text("")), {"tags fit into a caption"}),
        (tagger(lambda images: [[Tag("red", 0.5)] * 2 for _ in images]), {"no tag is repeated"}),
        (tagger(with_score(1.5)), {"scores lie between 0 and 1"}),
        (tagger(with_score(float("nan"))), {"scores lie between 0 and 1", "images are tagged apart", SAME}),
        (tagger(of_the_batch), {"images are tagged apart"}),
        (tagger(counting), {"images are tagged apart", SAME}),
        (tagger(painting), {"images are left as they were", "images are tagged apart", SAME}),
        (with_option(lambda options: float(options.get("threshold", 0.5))), {"wrong options end in one line"}),
    ],
)
def test_a_broken_tagger_is_found(broken: Tagger, clauses: set[str]) -> None:
    assert {clause for clause, error in run_tagger_contract(broken) if error is not None} == clauses


def test_a_tagger_that_raises_breaks_every_clause_that_calls_it() -> None:
    def load(options: Mapping[str, str]) -> TagImages:
        raise RuntimeError("no model")

    checks = dict(run_tagger_contract(Tagger("own", "own", load)))
    assert checks["some image has a tag"] == "RuntimeError: no model"


def test_a_tagger_that_lacks_its_model_is_not_called_broken() -> None:
    def load(options: Mapping[str, str]) -> TagImages:
        if "model" not in options:
            raise BwlabError("tagger own", "no model is given", "Give a model")
        return sound

    needy = Tagger("own", "own", load, ("model",))
    with pytest.raises(BwlabError, match=r"no model is given\. Give a model\. Give its options with --set.*: model"):
        run_tagger_contract(needy)
    outcome = run_tagger_contract(replace(needy, options=()), {"model": "some"})
    assert [error for _, error in outcome if error] == []
