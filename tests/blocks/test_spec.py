"""The grammar of block specs: what it means, and that bad input is always a BwlabError."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import SPEC_KINDS, BlockSpec, Kind, number_text, parse_spec
from bwlab.errors import BwlabError

SCHEMES = [scheme_for(SD14), scheme_for(SDXL), scheme_for({**SD14, "layers_per_block": 1})]
NUMBERS: dict[Kind, st.SearchStrategy[float]] = {
    "rank": st.integers(0, 4096).map(float),
    "scale": st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0),
    "rate": st.floats(0, 1).map(lambda number: number + 0.0),
}


@st.composite
def entry_lists(draw: st.DrawFn) -> tuple[BlockScheme, Kind, list[tuple[str, float]]]:
    """Draw a scheme, a kind and valid entries; ranks are above 0 somewhere."""
    scheme = draw(st.sampled_from(SCHEMES))
    kind: Kind = draw(st.sampled_from(SPEC_KINDS))
    entries = draw(st.lists(st.tuples(st.sampled_from(scheme.names()), NUMBERS[kind]), min_size=1, max_size=7))
    return scheme, kind, [*entries, ("mid", 3.0)]


def written(entries: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} = {number!r}" for name, number in entries)


def by_module(spec: BlockSpec) -> dict[str, float]:
    return {module.path: spec.value_of(f"{module.path}.some.layer") for module in spec.scheme.modules}


@given(entry_lists())
def test_the_canonical_spec_reads_back_as_the_same_numbers(
    drawn: tuple[BlockScheme, Kind, list[tuple[str, float]]],
) -> None:
    scheme, kind, entries = drawn
    spec = parse_spec(written(entries), scheme, kind=kind)
    again = parse_spec(spec.canonical(), scheme, kind=kind)
    assert by_module(again) == by_module(spec)
    assert again.canonical() == spec.canonical()
    assert again.by_block() == spec.by_block()


@given(entry_lists())
def test_later_entries_win_and_the_star_gives_way(drawn: tuple[BlockScheme, Kind, list[tuple[str, float]]]) -> None:
    scheme, kind, entries = drawn
    values = by_module(parse_spec(written(entries), scheme, kind=kind))
    for path, value in values.items():
        named = [number for name, number in entries if name != "*" and path in scheme.modules_of(name)]
        stars = [number for name, number in entries if name == "*"]
        covered = kind != "rank" or path in scheme.modules_of("all")
        expected = named[-1] if named else stars[-1] if stars and covered else 0.0
        assert value == expected, path


@given(st.text(), st.sampled_from(SCHEMES), st.sampled_from(SPEC_KINDS))
@example("1e999", SCHEMES[0], "scale")
@example("mid=²", SCHEMES[0], "rank")
@example("mid=1_0", SCHEMES[0], "rank")
def test_any_text_parses_or_is_refused(text: str, scheme: BlockScheme, kind: Kind) -> None:
    try:
        spec = parse_spec(text, scheme, kind=kind)
    except BwlabError:
        return
    assert all(math.isfinite(value) for value in by_module(spec).values())


@given(
    st.lists(st.sampled_from(["mid", "in0", "uper", "*", "=", ",", "1", "-1", "1.5", "nan", "", " ", "e9"]), max_size=9)
)
def test_any_text_of_the_grammars_pieces_parses_or_is_refused(pieces: list[str]) -> None:
    try:
        spec = parse_spec("".join(pieces), SCHEMES[0], kind="rank")
    except BwlabError:
        return
    assert all(value.is_integer() and 0 <= value <= 4096 for value in spec.values.values())
    assert any(spec.values.values())


def test_the_design_papers_example(sd: BlockScheme) -> None:
    spec = parse_spec("upper=16, mid=4, *=0", sd, kind="rank")
    expected = dict.fromkeys(sd.blocks(), 0.0) | {"in0": 16.0, "out3": 16.0, "mid": 4.0}
    assert spec.by_block() == expected
    assert spec.value_of("down_blocks.0.attentions.1.proj_in") == 16
    assert spec.text == "upper=16, mid=4, *=0"
    assert spec.canonical() == "in0=16, mid=4, out3=16"


@pytest.mark.parametrize("text", ["16", 16, 16.0, "*=16", "all=16"])
def test_ranks_for_all_leave_out_the_text_encoder_and_the_outer_layers(sd: BlockScheme, text: str | float) -> None:
    spec = parse_spec(text, sd, kind="rank")
    assert {block for block, rank in spec.by_block().items() if rank == 0} == {"te", "rest"}
    assert spec.canonical() == "*=16"


def test_the_text_encoder_gets_a_rank_by_name(sd: BlockScheme) -> None:
    assert parse_spec("*=16, te=3", sd, kind="rank").value_of("te.encoder.layers.0.mlp.fc1") == 3


@pytest.mark.parametrize("kind", ["scale", "rate"])
def test_scales_and_rates_for_all_cover_everything(sd: BlockScheme, kind: Kind) -> None:
    assert set(parse_spec("0.5", sd, kind=kind).values.values()) == {0.5}
    named = parse_spec("mid=0.5", sd, kind=kind, default=1.0)
    assert (named.value_of("mid_block.resnets.0.conv1"), named.value_of("conv_in")) == (0.5, 1.0)


def test_the_default_never_gives_a_rank(sd: BlockScheme) -> None:
    assert parse_spec("mid=2", sd, kind="rank", default=7).by_block()["in0"] == 0


def test_divided_blocks_tell_cells_and_divided_cells_tell_modules(sdxl: BlockScheme) -> None:
    blocks = parse_spec("content=4, out1.2=8", sdxl, kind="rank").by_block()
    assert blocks["out1"] == {"out1.0": 0, "out1.1": 0, "out1.2": 8, "out1.up": 0}
    assert blocks["out0"] == {
        "up_blocks.0.resnets.0": 0,
        "up_blocks.0.attentions.0": 4,
        "out0.1": 0,
        "out0.2": 0,
        "out0.up": 0,
    }


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("uper=4", "rank", "Did you mean upper"),
        ("mid=-1", "rank", "it is below 0"),
        ("mid=1.5", "rank", "it is not a whole number"),
        ("mid=NaN", "rank", "it is not a finite number"),
        ("mid=-inf", "scale", "it is not a finite number"),
        ("mid=1e999", "scale", "it is too large"),
        ("mid=99999", "rank", "it is above 4096"),
        ("mid=four", "rank", "it is not a number"),
        ("mid=", "rank", "it is not a number"),
        ("mid=4=4", "rank", "it is not a number"),
        ("mid=-0.1", "rate", "it is below 0"),
        ("mid=4,,in0=4", "rank", "an entry is empty"),
        ("mid=4,", "rank", "an entry is empty"),
        ("", "rank", "it is empty"),
        ("mid", "rank", "'mid' has no '='"),
        ("mid=4, 4", "rank", "'4' has no '='"),
        ("=4", "rank", "names no block"),
        ("1,0,1", "scale", "it is a list of 3 numbers"),
        ("*=0", "rank", "no block has a rank above 0"),
        ("0", "rank", "no block has a rank above 0"),
        ("upper=4, in0=0, out3=0", "rank", "no block has a rank above 0"),
        (math.nan, "scale", "it is not a finite number"),
        (-1, "rank", "it is below 0"),
        (True, "rank", "it is not a number"),
    ],
)
def test_bad_input_is_told(sd: BlockScheme, text: str | float, kind: Kind, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        parse_spec(text, sd, kind=kind)


def test_errors_of_names_list_them(sd: BlockScheme) -> None:
    with pytest.raises(BwlabError) as caught:
        parse_spec("upper=4, lowest=2", sd, kind="rank")
    assert caught.value.asked == "block 'lowest'"
    for name in (*sd.blocks(), "upper", "middle", "lower", "all", "in0.0", "IN01"):
        assert name in caught.value.fix


def test_a_layer_outside_the_scheme_has_no_number(sd: BlockScheme) -> None:
    with pytest.raises(BwlabError, match="lies in no block"):
        parse_spec("1", sd, kind="scale").value_of("te2.encoder.layers.0.mlp.fc1")


def test_long_input_is_cut_in_messages(sd: BlockScheme) -> None:
    with pytest.raises(BwlabError) as caught:
        parse_spec("x" * 5000, sd, kind="rank")
    assert len(caught.value.asked) < 120


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back(number: float) -> None:
    assert float(number_text(number)) == number
