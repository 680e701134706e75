"""The contract of taggers, clause by clause, on a few small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bwlab.errors import BwlabError
from bwlab.tagging.tagger import Tag, Tagger, TagImages
from bwlab.testing.bench import require
from bwlab.testing.images import changed, small_images
from bwlab.text import single_line

if TYPE_CHECKING:
    from PIL.Image import Image

NEAR = 1e-4
NO_VALUE = "no such value"


@dataclass(frozen=True)
class TaggerBench:
    """The material of a clause: the tagger, the options that it is loaded with, and images."""

    tagger: Tagger
    options: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def images(self) -> list[Image]:
        """Images of several sizes, flat and busy ones."""
        return small_images()

    @cached_property
    def describe(self) -> TagImages:
        """The function of the tagger."""
        return self.tagger.load(self.options)

    @cached_property
    def tags(self) -> list[list[Tag]]:
        """What the tagger says of the images, all at once."""
        return self.describe(self.images)


def require_loads(tagger: Tagger, options: Mapping[str, str]) -> None:
    """Raise `BwlabError` if a tagger refuses options, such as one that lacks a model; other errors are its own."""
    try:
        tagger.load(options)
    except BwlabError as error:
        fix = f"{error.fix}. Give its options with --set, as bwlab tag takes them: {', '.join(tagger.options)}"
        raise BwlabError(f"the contract of the tagger {tagger.name}: {error.asked}", error.found, fix) from error
    except Exception:
        return  # the clauses say what it is


TaggerClause: TypeAlias = Callable[[TaggerBench], None]


def each_image_gets_a_list_of_tags(bench: TaggerBench) -> None:
    """There is one list for each image, and each holds `Tag`s; no images give no lists."""
    found = f"{len(bench.tags)} lists for {len(bench.images)} images"
    require(len(bench.tags) == len(bench.images), found)
    for index, tags in enumerate(bench.tags):
        strange = next((tag for tag in tags if not isinstance(tag, Tag)), None)
        require(strange is None, f"image {index + 1} has a {type(strange).__name__} among its tags, not a Tag")


def some_image_has_a_tag(bench: TaggerBench) -> None:
    """At least one of the images gets a tag."""
    require(any(bench.tags), f"none of {len(bench.images)} different images has a tag")


def tags_fit_into_a_caption(bench: TaggerBench) -> None:
    """A tag is text without commas, line breaks, other control characters, and spaces at its ends."""
    for tag in _all(bench):
        require(isinstance(tag.text, str) and tag.text.strip() != "", f"the tag {tag.text!r} is no text")
        require("," not in tag.text, f"the tag {tag.text!r} contains a comma, which separates tags")
        one_line = single_line(tag.text) == tag.text and "\t" not in tag.text
        require(one_line, f"the tag {tag.text!r} contains a line break or another control character")
        require(tag.text == tag.text.strip(), f"the tag {tag.text!r} begins or ends with a space")


def no_tag_is_repeated(bench: TaggerBench) -> None:
    """An image has each tag once."""
    for index, tags in enumerate(bench.tags):
        texts = [tag.text for tag in tags]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        require(twice is None, f"image {index + 1} has the tag {twice!r} several times")


def scores_lie_between_0_and_1(bench: TaggerBench) -> None:
    """A score is a number from 0 to 1."""
    for tag in _all(bench):
        require(0.0 <= float(tag.score) <= 1.0, f"the tag {tag.text!r} has the score {tag.score}")


def images_are_tagged_apart(bench: TaggerBench) -> None:
    """An image gets the same tags alone, among others, and in another order."""
    for index, image in enumerate(bench.images):
        _require_same(f"image {index + 1} alone", bench.describe([image])[0], bench.tags[index])
    backwards = bench.describe(bench.images[::-1])[::-1]
    for index, tags in enumerate(backwards):
        _require_same(f"image {index + 1}, with the images in reverse order", tags, bench.tags[index])


def a_tagger_loaded_again_says_the_same(bench: TaggerBench) -> None:
    """A second tagger with the same options, or a second call, says the same."""
    _require_same("a second call", _flat(bench.describe(bench.images)), _flat(bench.tags))
    _require_same("a tagger loaded again", _flat(bench.tagger.load(bench.options)(bench.images)), _flat(bench.tags))


def images_are_left_as_they_were(bench: TaggerBench) -> None:
    """No pixel of an image changes."""
    bench.describe(bench.images)
    which = changed(bench.images, small_images())
    require(which is None, f"image {which} has other pixels afterwards")


def wrong_options_end_in_one_line(bench: TaggerBench) -> None:
    """A value that an option cannot have raises `BwlabError`, not another exception."""
    for option in bench.tagger.options:
        try:
            bench.tagger.load({**bench.options, option: NO_VALUE})
        except BwlabError:
            continue
        except Exception as error:
            message = " ".join(str(error).split())
            require(False, f"{option}={NO_VALUE} raises {type(error).__name__}, not BwlabError: {message}")


TAGGER_CLAUSES: tuple[TaggerClause, ...] = (
    each_image_gets_a_list_of_tags,
    some_image_has_a_tag,
    tags_fit_into_a_caption,
    no_tag_is_repeated,
    scores_lie_between_0_and_1,
    images_are_tagged_apart,
    a_tagger_loaded_again_says_the_same,
    images_are_left_as_they_were,
    wrong_options_end_in_one_line,
)


def _all(bench: TaggerBench) -> list[Tag]:
    return _flat(bench.tags)


def _flat(tags: list[list[Tag]]) -> list[Tag]:
    return [tag for own in tags for tag in own]


def _require_same(what: str, got: list[Tag], expected: list[Tag]) -> None:
    texts, wanted = [tag.text for tag in got], [tag.text for tag in expected]
    require(texts == wanted, f"{what}: the tags are {', '.join(texts)}, and were {', '.join(wanted)}")
    scores = np.abs(np.subtract([tag.score for tag in got], [tag.score for tag in expected]))
    require(bool((scores <= NEAR).all()), f"{what}: scores differ by {scores.max(initial=0.0):.2g}")
