"""Mistakes in captions that a comparison shows."""

from __future__ import annotations

import pytest

from bwlab.dataset.caption_checks import caption_notes, is_typing_mistake
from bwlab.dataset.config import DataConfig
from bwlab.dataset.folders import read_dataset
from tests.dataset.small_data import WriteData


def notes_of(write_data: WriteData, *captions: str) -> list[str]:
    """Return the notes about images `a.png`, `b.png`, ... with these captions."""
    folder = write_data({f"{chr(ord('a') + index)}.png": caption for index, caption in enumerate(captions)})
    return list(caption_notes(read_dataset(DataConfig(folder=str(folder)))))


def test_similar_tags_are_named_with_their_images(write_data: WriteData) -> None:
    notes = notes_of(write_data, "white, Robo", "whte, robo", "white, robo", "white, robo", "white, robo")
    assert notes == [
        'Similar tags: "Robo" (1 image: a.png) and "robo" (4 images: b.png, c.png, d.png, ...)',
        'Similar tags: "whte" (1 image: b.png) and "white" (4 images: a.png, c.png, d.png, ...)',
    ]


@pytest.mark.parametrize(
    ("first", "second"), [("long hair", "long_hair"), ("a fox", "a  fox"), ("caf\u00e9", "cafe\u0301")]
)
def test_blanks_and_unicode_forms_are_similar(write_data: WriteData, first: str, second: str) -> None:
    assert len(notes_of(write_data, f"ink, {first}", f"ink, {second}")) == 1


@pytest.mark.parametrize(
    "pair",
    [
        ("whte", "white"),
        ("wihte", "white"),
        ("whhite", "white"),
        ("red sleves", "red sleeves"),
        ("brawn hair", "brown hair"),
    ],
)
def test_typing_mistakes(pair: tuple[str, str]) -> None:
    expected = pair[0] != "brawn hair"  # short words that differ in one letter may both be meant
    assert is_typing_mistake(*pair) == is_typing_mistake(*pair[::-1]) == expected


@pytest.mark.parametrize(
    "pair",
    [
        ("cat", "hat"),
        ("1girl", "2girl"),
        ("girl", "girls"),
        ("shirt", "skirt"),
        ("boat", "coat"),
        ("a fox", "a red fox"),
    ],
)
def test_different_words_are_no_mistake(pair: tuple[str, str]) -> None:
    assert not is_typing_mistake(*pair)
    assert not is_typing_mistake(*pair[::-1])


def test_two_frequent_tags_are_both_meant(write_data: WriteData) -> None:
    assert notes_of(write_data, *["ink, back"] * 3, *["ink, black"] * 4) == []


def test_many_similar_tags_are_counted(write_data: WriteData) -> None:
    tags = [f"{letter}aaaa" for letter in "abcdefghijkl"]
    notes = notes_of(write_data, ", ".join(tags), ", ".join(tag.upper() for tag in tags))
    assert len(notes) == 11
    assert notes[-1] == "Similar tags: 2 more pairs"


def test_captions_without_commas_are_named(write_data: WriteData) -> None:
    notes = notes_of(write_data, "ink, fox", "a fox in the snow", "owl", "ink, owl")
    assert notes == ["1 caption without commas, and 2 with commas: b.png"]


def test_whole_sentences_are_no_mistake(write_data: WriteData) -> None:
    assert notes_of(write_data, "a fox in the snow", "an owl at night", "ink, owl") == []
