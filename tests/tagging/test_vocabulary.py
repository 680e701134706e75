"""The grammar of vocabularies."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.errors import BwlabError
from bwlab.tagging.clip import parse_vocabulary, read_vocabulary


def test_tags_groups_and_comments() -> None:
    text = "# all\n\n  red   hat \nstyle: ink |flat design\nfox # the animal\n"
    vocabulary = parse_vocabulary(text, "v.txt")
    assert vocabulary.tags == ("red hat", "fox")
    assert vocabulary.groups == {"style": ("ink", "flat design")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds no tags"),
        ("# only this", "it holds no tags"),
        ("ink\nfox, cat", r"line 2: 'fox, cat' is no tag"),
        ("ink\nInk", r"line 2: the tag 'Ink' is given twice"),
        ("style: ink | INK", "'INK' is given twice"),
        ("style: ink", "no new group"),
        ("style: ink |", "'' is no tag"),
        (": ink | flat", "no new group"),
        ("s: a | b\ns: c | d", "line 2: 's: c | d' is no new group"),
        ("ink | flat", "'ink | flat' is no tag"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, says: str) -> None:
    with pytest.raises(BwlabError) as error:
        parse_vocabulary(text, "v.txt")
    assert says in str(error.value)


@given(st.text(alphabet=st.sampled_from("ab:|#, \n\t\r\0"), max_size=30))
def test_any_text_is_a_vocabulary_or_an_error(text: str) -> None:
    with contextlib.suppress(BwlabError):
        vocabulary = parse_vocabulary(text, "v.txt")
        every = [*vocabulary.tags, *(tag for group in vocabulary.groups.values() for tag in group)]
        assert every
        assert all(tag == tag.strip() != "" and "," not in tag for tag in every)


def test_the_default_vocabulary_is_read() -> None:
    vocabulary = read_vocabulary(None)
    assert len(vocabulary.tags) > 50
    assert "photo" in vocabulary.groups["style"]


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"\xff\xfe\xff", "not UTF-8 text")])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(BwlabError, match=says):
        read_vocabulary(tmp_path / "v.txt")
