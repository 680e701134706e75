"""Tagging a folder: what is written, refreshed, kept, and remembered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL.Image import Image

from bwlab.errors import BwlabError
from bwlab.images import image_paths
from bwlab.tagging.captions import RECORD_NAME, Mode
from bwlab.tagging.folder import TagOutcome, TagSettings, tag_counts, tag_folder
from bwlab.tagging.tagger import Tag, TagImages

COLOURS = ("red", "green", "blue")


def colours(images: Sequence[Image], more: Sequence[str] = ()) -> list[list[Tag]]:
    """Return the strongest channel of the middle, and further tags."""
    described = []
    for image in images:
        pixel = image.getpixel((image.width // 2, image.height // 2))
        assert isinstance(pixel, tuple)
        best = max(range(3), key=lambda channel: pixel[channel])
        described.append([Tag(COLOURS[best], 0.9), *(Tag(tag, 0.5) for tag in more)])
    return described


def also(*more: str) -> TagImages:
    return lambda images: colours(images, more)


def tag(folder: Path, describe: TagImages = colours, job: TagSettings | None = None) -> dict[str, TagOutcome]:
    job = replace(job or TagSettings(folder), folder=folder)
    outcomes = list(tag_folder(job, describe, list(image_paths(folder))))
    return {str(outcome.image.relative_to(folder)): outcome for outcome in outcomes}


def captions(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}


def actions(outcomes: dict[str, TagOutcome]) -> list[str]:
    return [outcome.action for outcome in outcomes.values()]


def test_every_image_gets_its_caption_and_the_record_lies_beside_it(images: Path) -> None:
    outcomes = tag(images, also("flat"), TagSettings(images, prefix=("ohwx",), batch_size=2))
    assert captions(images) == {
        "a.txt": "ohwx, red, flat",
        "b.txt": "ohwx, green, flat",
        "below/c.txt": "ohwx, blue, flat",
    }
    assert actions(outcomes) == ["new"] * 3
    assert list(json.loads((images / RECORD_NAME).read_text())["captions"]) == ["a.txt", "b.txt"]
    assert list(json.loads((images / "below" / RECORD_NAME).read_text())["captions"]) == ["c.txt"]
    assert tag_counts(outcomes.values()).most_common(2) == [("ohwx", 3), ("flat", 3)]


def test_its_own_captions_are_refreshed_and_edited_ones_kept(images: Path) -> None:
    tag(images)
    (images / "b.txt").write_text("a meadow")
    outcomes = tag(images, also("flat"))
    assert actions(outcomes) == ["refreshed", "kept", "refreshed"]
    assert captions(images) == {"a.txt": "red, flat", "b.txt": "a meadow", "below/c.txt": "blue, flat"}
    assert actions(tag(images, also("flat"))) == ["unchanged", "kept", "unchanged"]


def test_images_with_kept_captions_are_not_read(images: Path) -> None:
    (images / "a.txt").write_text("mine")
    seen: list[int] = []

    def counting(images: Sequence[Image]) -> list[list[Tag]]:
        seen.append(len(images))
        return colours(images)

    tag(images, counting)
    assert sum(seen) == 2


def test_captions_from_elsewhere_are_a_person_s(images: Path) -> None:
    (images / "a.txt").write_text("red")
    assert actions(tag(images))[0] == "kept"
    (images / "a.txt").unlink()
    assert actions(tag(images))[0] == "new"


def test_an_emptied_caption_stays_empty_only_until_it_is_somebody_s(images: Path) -> None:
    (images / "a.txt").write_text("\n")
    assert actions(tag(images))[0] == "new"


def test_overwritten_captions_are_its_own_from_then_on(images: Path) -> None:
    (images / "a.txt").write_text("mine")
    assert actions(tag(images, job=TagSettings(images, mode=Mode.OVERWRITE)))[0] == "overwritten"
    assert actions(tag(images, also("flat")))[0] == "refreshed"


def test_captions_added_to_stay_a_person_s(images: Path) -> None:
    (images / "a.txt").write_text("mine, Red")
    appending = TagSettings(images, mode=Mode.APPEND, prefix=("ohwx",))
    assert actions(tag(images, also("flat"), appending)) == ["appended", "new", "new"]
    assert (images / "a.txt").read_text() == "ohwx, mine, Red, flat"
    assert actions(tag(images, also("round"))) == ["kept", "refreshed", "refreshed"]


def test_adding_to_its_own_keeps_it_its_own(images: Path) -> None:
    tag(images)
    assert actions(tag(images, also("flat"), TagSettings(images, mode=Mode.APPEND)))[0] == "appended"
    assert actions(tag(images))[0] == "refreshed"


def test_a_dry_run_writes_nothing(images: Path) -> None:
    before = sorted(images.rglob("*"))
    outcomes = tag(images, job=TagSettings(images, dry_run=True))
    assert [outcome.text for outcome in outcomes.values()] == ["red", "green", "blue"]
    assert sorted(images.rglob("*")) == before


def test_the_surest_are_written_in_the_tagger_s_order(images: Path) -> None:
    def describe(images: Sequence[Image]) -> list[list[Tag]]:
        return [[Tag("ink", 0.4), Tag("x, y\n", 0.9), Tag("dim", 0.1), Tag("fox", 0.8)] for _ in images]

    tag(images, describe, TagSettings(images, top=3))
    assert (images / "a.txt").read_text() == "ink, x y, fox"


def test_broken_images_and_captions_are_reported_and_the_others_tagged(images: Path) -> None:
    (images / "a.png").write_bytes(b"no image")
    (images / "b.txt").write_bytes(b"\xff\xfe caf\xe9")
    outcomes = tag(images)
    assert actions(outcomes) == ["broken", "broken", "new"]
    assert "unreadable" in outcomes["a.png"].note
    assert outcomes["b.jpg"].note == "b.txt is not UTF-8 or UTF-16 text"
    assert not (images / "a.txt").exists()
    assert (images / "b.txt").read_bytes() == b"\xff\xfe caf\xe9"


def test_a_caption_of_two_images_is_written_once(images: Path) -> None:
    (images / "b.jpg").rename(images / "a.webp")
    outcomes = tag(images)
    assert actions(outcomes) == ["new", "shared", "new"]
    assert outcomes["a.webp"].note == "its caption is that of a.png"
    assert (images / "a.txt").read_text() == "red"


def test_captions_written_before_an_interrupt_are_recorded(images: Path) -> None:
    calls: list[int] = []

    def interrupted(images: Sequence[Image]) -> list[list[Tag]]:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return colours(images)

    with pytest.raises(KeyboardInterrupt):
        tag(images, interrupted, TagSettings(images, batch_size=1))
    assert list(captions(images)) == ["a.txt"]
    assert actions(tag(images, also("flat"))) == ["refreshed", "new", "new"]


def test_a_tagger_that_leaves_out_an_image_is_an_error(images: Path) -> None:
    with pytest.raises(BwlabError, match="0 lists of tags for 3 images"):
        tag(images, lambda images: [])


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2, "captions": {}}', '{"version": 1, "captions": 3}'])
def test_a_broken_record_stops_it_before_anything_is_written(images: Path, text: str) -> None:
    (images / RECORD_NAME).write_text(text)
    with pytest.raises(BwlabError, match=r"\.bwlab-tags\.json: not readable"):
        tag(images)
    assert not (images / "a.txt").exists()


def test_other_endings_of_captions(images: Path) -> None:
    (images / "a.txt").write_text("mine")
    tag(images, job=TagSettings(images, extension=".caption"))
    assert (images / "a.caption").read_text() == "red"
    assert (images / "a.txt").read_text() == "mine"
