"""What a caption becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.tagging.captions import Mode, joined_tags, parse_tags, updated_caption

PREFIX, TAGS = ["ohwx"], ["fox", "ink"]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("before", [None, "", " \n"])
def test_a_missing_or_empty_caption_is_written(before: str | None, mode: Mode) -> None:
    change = updated_caption(before, False, PREFIX, TAGS, mode)
    assert (change.text, change.action, change.is_own) == ("ohwx, fox, ink", "new", True)


@pytest.mark.parametrize(
    ("before", "is_own", "mode", "text", "action", "own"),
    [
        ("a fox", True, Mode.KEEP, "ohwx, fox, ink", "refreshed", True),
        ("ohwx, fox, ink", True, Mode.KEEP, "ohwx, fox, ink", "unchanged", True),
        ("a fox", False, Mode.KEEP, "a fox", "kept", False),
        ("ohwx, fox, ink", False, Mode.KEEP, "ohwx, fox, ink", "kept", False),
        ("a fox", False, Mode.OVERWRITE, "ohwx, fox, ink", "overwritten", True),
        ("a fox", True, Mode.OVERWRITE, "ohwx, fox, ink", "refreshed", True),
        ("sly,  Fox", False, Mode.APPEND, "ohwx, sly, Fox, ink", "appended", False),
        ("sly, fox", True, Mode.APPEND, "ohwx, sly, fox, ink", "appended", True),
        ("Ink ,fox,ohwx\n", False, Mode.APPEND, "Ink ,fox,ohwx\n", "unchanged", False),
        ("fox\nred hat\n", False, Mode.APPEND, "ohwx, fox, red hat, ink", "appended", False),
        ("fox,\r\nink\r\nohwx", False, Mode.APPEND, "fox,\r\nink\r\nohwx", "unchanged", False),
        ("", True, Mode.KEEP, "ohwx, fox, ink", "refreshed", True),
    ],
)
def test_whose_it_is_and_the_mode_decide(
    before: str, is_own: bool, mode: Mode, text: str, action: str, own: bool
) -> None:
    change = updated_caption(before, is_own, PREFIX, TAGS, mode)
    assert (change.text, change.action, change.is_own) == (text, action, own)


captions = st.text(alphabet="aAbc, \n", max_size=12)
some_tags = st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=4)


@given(captions, some_tags, some_tags)
def test_a_person_s_tags_are_never_lost_without_overwrite(before: str, prefix: list[str], tags: list[str]) -> None:
    kept = updated_caption(before, False, prefix, tags, Mode.KEEP)
    assert not before.strip() or kept.text == before
    added = updated_caption(before, False, prefix, tags, Mode.APPEND)
    assert set(parse_tags(before)) <= set(parse_tags(added.text))
    if before.strip():
        assert updated_caption(added.text, False, prefix, tags, Mode.APPEND).text == added.text


@given(some_tags)
def test_a_caption_holds_each_tag_once(tags: list[str]) -> None:
    assert sorted(parse_tags(joined_tags(tags))) == sorted(set(tags))
