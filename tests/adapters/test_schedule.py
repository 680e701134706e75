"""Schedules: what they mean at each step, and one line for each way to get them wrong."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.adapters.schedule import ALWAYS, Schedule, changes, parse_schedule
from bwlab.errors import BwlabError


def steps(text: str | float | None, count: int) -> list[float]:
    return [parse_schedule(text).at(step / count) for step in range(count)]


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("0-0.4:1, 0.4-1:0.3", [1, 1, 0.3, 0.3, 0.3]),
        ("0.2-0.6:1", [0, 1, 1, 0, 0]),
        (" 0 - .4 : -2 ", [-2, -2, 0, 0, 0]),
        ("0-1:0.5", [0.5] * 5),
        ("0.5", [0.5] * 5),
        (0.5, [0.5] * 5),
        ("-1", [-1] * 5),
        (None, [1] * 5),
        ("0-4e-1:1,0.8-1:2", [1, 1, 0, 0, 2]),
    ],
)
def test_factors_of_five_steps(text: str | float | None, factors: list[float]) -> None:
    assert steps(text, 5) == factors


def test_an_edge_belongs_to_the_step_that_begins_there() -> None:
    for count in (*range(1, 30), 50, 64, 99, 100, 199):
        for edge in range(1, count):
            assert steps(f"0-{edge / count!r}:1", count) == [1.0] * edge + [0.0] * (count - edge)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "a number is missing"),
        ("nan", "'nan': it is not a finite number"),
        ("0-1:inf", "'inf': it is not a finite number"),
        ("0-nan:1", "'nan': it is not a finite number"),
        ("0-1:1e999", "it is too large"),
        ("0-1:", "a number is missing"),
        ("0-:1", "a number is missing"),
        ("0-1:strong", "'strong': it is not a number"),
        ("0-0.5:1,", "an entry is empty"),
        ("0.5:1", "'0.5:1' is not an entry"),
        ("0-0.5", "'0-0.5': it is not a number"),
        ("0-0.5:1:2", "'1:2': it is not a number"),
        ("0-1.5:1", "0-1.5 leaves the sampling"),
        ("0.5-0.5:1", "0.5-0.5 ends before it begins"),
        ("0.6-0.5:1", "0.6-0.5 ends before it begins"),
        ("0-0.5:1, 0.4-1:1", "0-0.5 and 0.4-1 overlap"),
        ("0-1:1, 0-1:1", "0-1 and 0-1 overlap"),
        ("0.5-1:1, 0-0.5:1", "0.5-1 and 0-0.5 are not in order"),
        ("0-1:True", "'True': it is not a number"),
    ],
)
def test_bad_schedules_are_one_line(text: str, found: str) -> None:
    with pytest.raises(BwlabError) as error:
        parse_schedule(text)
    assert error.value.asked == f"schedule {text!r}"
    assert found in error.value.found
    assert "\n" not in str(error.value)


edges = st.lists(st.integers(0, 1000), min_size=2, max_size=9, unique=True).map(sorted)
factors = st.floats(-4, 4, allow_nan=False)


@given(edges, st.data())
def test_any_schedule_reads_as_its_entries_say(places: list[int], data: st.DataObject) -> None:
    spans = [(begin, end, data.draw(factors)) for begin, end in zip(places[::2], places[1::2], strict=False)]
    text = ", ".join(f"{begin / 1000!r}-{end / 1000!r}:{factor!r}" for begin, end, factor in spans)
    schedule = parse_schedule(text)
    step = data.draw(st.integers(0, 999))
    expected = [factor for begin, end, factor in spans if begin <= step < end]
    assert schedule.at(step / 1000) == (expected[0] if expected else 0)
    known = changes(schedule)
    below = max(edge for edge in known if edge <= step / 1000)
    assert schedule.at(below) == schedule.at(step / 1000)


@given(st.text(alphabet="0123456789.,:-+e nai", max_size=24))
def test_any_text_is_a_schedule_or_a_user_error(text: str) -> None:
    with suppress(BwlabError):
        schedule = parse_schedule(text)
        assert isinstance(schedule, Schedule)
        assert all(0 <= span.begin < span.end <= 1 for span in schedule.spans)


def test_what_changes_nothing_is_known() -> None:
    assert parse_schedule("0-1:1").is_always_one()
    assert parse_schedule(ALWAYS) is ALWAYS
    assert not parse_schedule("0-0.9:1").is_always_one()
    assert changes() == (0.0,)
