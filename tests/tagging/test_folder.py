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


def colours(pictures: Sequence[Image], more: Sequence[str] = ()) -> list[list[Tag]]:
    """Return the strongest channel of the middle, and further tags."""
    described = []
    for picture in pictures:
        pixel = picture.getpixel((picture.width // 2, picture.height // 2))
        assert isinstance(pixel, tuple)
        best = max(range(3), key=lambda channel: pixel[channel])
        described.append([Tag(COLOURS[best], 0.9), *(Tag(tag, 0.5) for tag in more)])
    return described


def also(*more: str) -> TagImages:
    return lambda pictures: colours(pictures, more)


def tag(folder: Path, describe: TagImages = colours, job: TagSettings | None = None) -> dict[str, TagOutcome]:
    job = replace(job or TagSettings(folder), folder=folder)
    outcomes = list(tag_folder(job, describe, list(image_paths(folder))))
    return {str(outcome.image.relative_to(folder)): outcome for outcome in outcomes}


def captions(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}


def actions(outcomes: dict[str, TagOutcome]) -> list[str]:
    return [outcome.action for outcome in outcomes.values()]


def test_every_image_gets_its_caption_and_the_record_lies_beside_it(pictures: Path) -> None:
    outcomes = tag(pictures, also("flat"), TagSettings(pictures, prefix=("ohwx",), batch_size=2))
    assert captions(pictures) == {
        "a.txt": "ohwx, red, flat",
        "b.txt": "ohwx, green, flat",
        "below/c.txt": "ohwx, blue, flat",
    }
    assert actions(outcomes) == ["new"] * 3
    assert list(json.loads((pictures / RECORD_NAME).read_text())["captions"]) == ["a.txt", "b.txt"]
    assert list(json.loads((pictures / "below" / RECORD_NAME).read_text())["captions"]) == ["c.txt"]
    assert tag_counts(outcomes.values()).most_common(2) == [("ohwx", 3), ("flat", 3)]


def test_its_own_captions_are_refreshed_and_edited_ones_kept(pictures: Path) -> None:
    tag(pictures)
    (pictures / "b.txt").write_text("a meadow")
    outcomes = tag(pictures, also("flat"))
    assert actions(outcomes) == ["refreshed", "kept", "refreshed"]
    assert captions(pictures) == {"a.txt": "red, flat", "b.txt": "a meadow", "below/c.txt": "blue, flat"}
    assert actions(tag(pictures, also("flat"))) == ["unchanged", "kept", "unchanged"]


def test_images_with_kept_captions_are_not_read(pictures: Path) -> None:
    (pictures / "a.txt").write_text("mine")
    seen: list[int] = []

    def counting(images: Sequence[Image]) -> list[list[Tag]]:
        seen.append(len(images))
        return colours(images)

    tag(pictures, counting)
    assert sum(seen) == 2


def test_captions_from_elsewhere_are_a_person_s(pictures: Path) -> None:
    (pictures / "a.txt").write_text("red")
    assert actions(tag(pictures))[0] == "kept"
    (pictures / "a.txt").unlink()
    assert actions(tag(pictures))[0] == "new"


def test_an_emptied_caption_stays_empty_only_until_it_is_somebody_s(pictures: Path) -> None:
    (pictures / "a.txt").write_text("\n")
    assert actions(tag(pictures))[0] == "new"


def test_overwritten_captions_are_its_own_from_then_on(pictures: Path) -> None:
    (pictures / "a.txt").write_text("mine")
    assert actions(tag(pictures, job=TagSettings(pictures, mode=Mode.OVERWRITE)))[0] == "overwritten"
    assert actions(tag(pictures, also("flat")))[0] == "refreshed"


def test_captions_added_to_stay_a_person_s(pictures: Path) -> None:
    (pictures / "a.txt").write_text("mine, Red")
    appending = TagSettings(pictures, mode=Mode.APPEND, prefix=("ohwx",))
    assert actions(tag(pictures, also("flat"), appending)) == ["appended", "new", "new"]
    assert (pictures / "a.txt").read_text() == "ohwx, mine, Red, flat"
    assert actions(tag(pictures, also("round"))) == ["kept", "refreshed", "refreshed"]


def test_adding_to_its_own_keeps_it_its_own(pictures: Path) -> None:
    tag(pictures)
    assert actions(tag(pictures, also("flat"), TagSettings(pictures, mode=Mode.APPEND)))[0] == "appended"
    assert actions(tag(pictures))[0] == "refreshed"


def test_a_dry_run_writes_nothing(pictures: Path) -> None:
    before = sorted(pictures.rglob("*"))
    outcomes = tag(pictures, job=TagSettings(pictures, dry_run=True))
    assert [outcome.text for outcome in outcomes.values()] == ["red", "green", "blue"]
    assert sorted(pictures.rglob("*")) == before


def test_the_surest_are_written_in_the_tagger_s_order(pictures: Path) -> None:
    def describe(images: Sequence[Image]) -> list[list[Tag]]:
        return [[Tag("ink", 0.4), Tag("x, y\n", 0.9), Tag("dim", 0.1), Tag("fox", 0.8)] for _ in images]

    tag(pictures, describe, TagSettings(pictures, top=3))
    assert (pictures / "a.txt").read_text() == "ink, x y, fox"


def test_broken_images_and_captions_are_reported_and_the_others_tagged(pictures: Path) -> None:
    (pictures / "a.png").write_bytes(b"no picture")
    (pictures / "b.txt").write_bytes(b"\xff\xfe caf\xe9")
    outcomes = tag(pictures)
    assert actions(outcomes) == ["broken", "broken", "new"]
    assert "unreadable" in outcomes["a.png"].note
    assert outcomes["b.jpg"].note == "b.txt is not UTF-8 text"
    assert not (pictures / "a.txt").exists()
    assert (pictures / "b.txt").read_bytes() == b"\xff\xfe caf\xe9"


def test_a_caption_of_two_images_is_written_once(pictures: Path) -> None:
    (pictures / "b.jpg").rename(pictures / "a.webp")
    outcomes = tag(pictures)
    assert actions(outcomes) == ["new", "shared", "new"]
    assert outcomes["a.webp"].note == "its caption is that of a.png"
    assert (pictures / "a.txt").read_text() == "red"


def test_captions_written_before_an_interrupt_are_recorded(pictures: Path) -> None:
    calls: list[int] = []

    def interrupted(images: Sequence[Image]) -> list[list[Tag]]:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return colours(images)

    with pytest.raises(KeyboardInterrupt):
        tag(pictures, interrupted, TagSettings(pictures, batch_size=1))
    assert list(captions(pictures)) == ["a.txt"]
    assert actions(tag(pictures, also("flat"))) == ["refreshed", "new", "new"]


def test_a_tagger_that_leaves_out_an_image_is_an_error(pictures: Path) -> None:
    with pytest.raises(BwlabError, match="0 lists of tags for 3 images"):
        tag(pictures, lambda images: [])


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2, "captions": {}}', '{"version": 1, "captions": 3}'])
def test_a_broken_record_stops_it_before_anything_is_written(pictures: Path, text: str) -> None:
    (pictures / RECORD_NAME).write_text(text)
    with pytest.raises(BwlabError, match=r"\.bwlab-tags\.json: not readable"):
        tag(pictures)
    assert not (pictures / "a.txt").exists()


def test_other_endings_of_captions(pictures: Path) -> None:
    (pictures / "a.txt").write_text("mine")
    tag(pictures, job=TagSettings(pictures, extension=".caption"))
    assert (pictures / "a.caption").read_text() == "red"
    assert (pictures / "a.txt").read_text() == "mine"
