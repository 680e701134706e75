"""Axes of grids: what they say, and one line for each way to get them wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.adapters.schedule import ALWAYS, parse_schedule
from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.generation.grid import AXES, Axis, GridCell, parse_axes, parse_axis, times, varied_cell

SCHEME = scheme_for(SD14)
FIRST = GridCell(
    "fox", 7, 25, 7.0, "euler", (parse_spec("mid=0", SCHEME, kind="scale", default=1.0),) * 2, (ALWAYS, ALWAYS)
)


@pytest.mark.parametrize(
    ("text", "kind", "adapter", "values"),
    [
        ("scale: 0, 0.5,1", "scale", 0, ("0", "0.5", "1")),
        ("scale 2: 0 | 1", "scale", 1, ("0", "1")),
        (" blocks2 :upper=1, mid=0.5 | *=1", "blocks", 1, ("upper=1, mid=0.5", "*=1")),
        ("schedule: 0-0.4:1 | 0.4-1:1", "schedule", 0, ("0-0.4:1", "0.4-1:1")),
        ("prompt: ink, fox | owl: at night", "prompt", 0, ("ink, fox", "owl: at night")),
        ("sampler: euler, ddim", "sampler", 0, ("euler", "ddim")),
        ("seed: 1", "seed", 0, ("1",)),
    ],
)
def test_axes_as_written(text: str, kind: str, adapter: int, values: tuple[str, ...]) -> None:
    assert parse_axis(text, 2) == Axis(text, kind, adapter, values)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "this is not an axis"),
        ("scale", "this is not an axis"),
        (": 1", "this is not an axis"),
        ("scal: 1", "Did you mean scale"),
        ("blok 1: mid=1", "Choose from blocks, scale, schedule, prompt, seed, cfg, steps, sampler"),
        ("seed 2: 1", "seed is not an adapter's"),
        ("scale 3: 1", "there is no adapter 3 among 2"),
        ("scale 0: 1", "there is no adapter 0"),
        ("scale: 1,,2", "a value is empty"),
        ("prompt: ", "a value is empty"),
    ],
)
def test_bad_axes_are_one_line(text: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found) as error:
        parse_axis(text, 2)
    assert error.value.asked == f"--xy {text!r}"
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_text_is_an_axis_or_a_user_error(text: str) -> None:
    try:
        axis = parse_axis(text, 1)
    except BwlabError:
        return
    assert axis.kind in AXES
    assert all(axis.values)


def test_two_axes_must_differ() -> None:
    assert len(parse_axes(["scale: 0", "scale 2: 1"], 2)) == 2
    with pytest.raises(BwlabError, match="both axes change the same setting"):
        parse_axes(["scale: 0", "scale 1: 1"], 2)


def with_values(*pairs: tuple[str, str]) -> GridCell:
    return varied_cell(FIRST, {parse_axis(text, 2): value for text, value in pairs}, SCHEME)


def test_blocks_alone_are_on_and_scales_multiply_them_in_any_order() -> None:
    blocks, scale = ("blocks 2: upper=1", "upper=1"), ("scale 2: 0.5", "0.5")
    assert with_values(blocks, scale) == with_values(scale, blocks)
    found = with_values(blocks, scale)
    assert found.scales[0] == FIRST.scales[0]
    assert found.scales[1].values == parse_spec("upper=0.5", SCHEME, kind="scale").values
    assert found.scales[1].text == "*=0, in0=0.5, out3=0.5"
    assert with_values(blocks).scales[1].text == "*=0, in0=1, out3=1", "recipes say what is off"
    assert with_values(scale).scales[1].values == parse_spec("*=0.5, mid=0", SCHEME, kind="scale").values


def test_other_axes_take_the_place_of_options() -> None:
    found = with_values(("cfg: 3", "3"), ("prompt: owl", "owl"))
    assert (found.cfg, found.prompt, found.seed, found.scales) == (3.0, "owl", 7, FIRST.scales)
    found = with_values(("seed: 9", "9"), ("steps: 4", "4"))
    assert (found.seed, found.steps) == (9, 4)
    found = with_values(("sampler: ddim", "ddim"), ("schedule: 0-0.5:1", "0-0.5:1"))
    assert (found.sampler, found.schedules) == ("ddim", (parse_schedule("0-0.5:1"), ALWAYS))


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("scale", "strong", "it is not a number"),
        ("scale", "nan", "not a finite number"),
        ("seed", "1.5", "'1.5' is not a whole number"),
        ("steps", "-4", "'-4' is not a whole number"),
        ("cfg", "inf", "not a finite number"),
        ("sampler", "eular", "Did you mean euler"),
        ("sampler", "auto", "auto stands for one of the other samplers"),
        ("blocks", "uper=1", "Did you mean upper"),
        ("schedule", "0-2:1", "leaves the sampling"),
    ],
)
def test_bad_values_are_user_errors(kind: str, value: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        varied_cell(FIRST, {Axis(f"{kind}: {value}", kind, 0, (value,)): value}, SCHEME)


def test_uniform_scales_stay_plain_numbers() -> None:
    spec = parse_spec("2", SCHEME, kind="scale")
    assert times(spec, 0.25).text == "0.5"
    assert times(spec, 1) is spec
    assert set(times(parse_spec("-1", SCHEME, kind="scale"), 0).values.values()) == {0.0}
