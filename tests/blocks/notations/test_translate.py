"""Translations to and from LBW strings, kohya's lists and diffusers' dict."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import LBW_CELLS, from_list, kohya_indices, list_slots, to_list
from bwlab.blocks.notations.set_adapters import as_dict, from_dict, from_set_adapters, to_set_adapters
from bwlab.blocks.notations.translate import translate_from, translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import number_text, parse_spec
from bwlab.errors import BwlabError

SCHEMES = [scheme_for(SD14), scheme_for(SDXL)]
UPDOWN = re.compile(r"(up|down)_blocks_(\d+)_(resnets|upsamplers|downsamplers|attentions)_(\d+)_")


def test_lbw_lists_have_the_published_cells(sd: BlockScheme, sdxl: BlockScheme) -> None:
    seventeen = "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    twelve = "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
    assert LBW_CELLS[17] == tuple(seventeen.split())
    assert LBW_CELLS[12] == tuple(twelve.split())
    assert {length: len(cells) for length, cells in LBW_CELLS.items()} == {26: 26, 17: 17, 20: 20, 12: 12}
    assert [slot.name for slot in list_slots(sdxl, "lbw")] == list(LBW_CELLS[20])
    assert sorted(LBW_CELLS[26]) == sorted(sd.ldm_cells())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_short_lists_leave_out_only_cells_without_transformers(scheme: BlockScheme) -> None:
    kept = {path for slot in list_slots(scheme, "lbw-short") for path in slot.paths}
    dropped = [module.path for module in scheme.modules if module.path not in kept]
    assert not [path for path in dropped if "attentions" in path]


def kohya_index_sd(name: str) -> int:
    """sd-scripts' get_block_index(), written down from its description: 12 down, mid at 12, 12 up."""
    match = UPDOWN.search(name)
    if match is None:
        return 12
    place = 3 * int(match[2]) + (2 if match[3].endswith("samplers") else int(match[4]))
    return 1 + place if match[1] == "down" else 13 + place


def test_kohyas_places_on_sd(sd: BlockScheme) -> None:
    places = kohya_indices(sd)
    inside = [module for module in sd.modules if module.block not in ("te", "rest")]
    for module in inside:
        assert places[module.path] == kohya_index_sd(module.path.replace(".", "_") + "_"), module.path
    assert len(list_slots(sd, "kohya")) == 25


def test_kohyas_places_on_sdxl(sdxl: BlockScheme) -> None:
    places = kohya_indices(sdxl)
    assert len(list_slots(sdxl, "kohya")) == 23
    assert places["add_embedding"] == 0
    assert places["conv_in"] == 1
    assert places["down_blocks.2.attentions.1"] == 9
    assert [places[f"mid_block.{m}"] for m in ("resnets.0", "attentions.0", "resnets.1")] == [10, 11, 12]
    assert places["up_blocks.0.attentions.1"] == 14
    assert places["up_blocks.2.resnets.2"] == 21
    assert places["conv_out"] == 22


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", ["lbw", "kohya"])
@given(data=st.data())
def test_lists_survive_the_way_to_a_spec_and_back(scheme: BlockScheme, form: str, data: st.DataObject) -> None:
    slots = list_slots(scheme, "lbw" if form == "lbw" else "kohya")
    numbers = data.draw(st.lists(st.integers(-3, 5).map(float), min_size=len(slots), max_size=len(slots)))
    outer = [place for place, slot in enumerate(slots) if slot.name in ("IN00", "embeddings", "out")]
    for place in outer:
        numbers[place] = numbers[outer[-1]]
    text = ",".join(number_text(number) for number in numbers)
    spec = from_list(text, scheme, "lbw" if form == "lbw" else "kohya", "scale")
    again = to_list(parse_spec(spec.text, scheme, kind="scale"), "lbw" if form == "lbw" else "kohya")
    assert (again.text, again.notes) == (text, ())


def test_the_paper_s_upper_part_in_every_notation(sd: BlockScheme) -> None:
    full = translate_to("lbw", "upper=1", sd)
    assert full.text == "0,0,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1"
    assert full.notes == ()
    short = translate_to("lbw-short", "upper=1", sd)
    assert short.text == "0,1,1,0,0,0,0,0,0,0,0,0,0,0,1,1,1"
    assert "turns off in0.down" in short.notes[0]
    ranks = translate_to("kohya", "upper=16", sd)
    assert ranks.text == "0,16,16,16,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,16,16,16"
    assert ranks.notes == ()
    scales = translate_to("diffusers", "upper=1, *=0", sd)
    assert json.loads(scales.text)["unet"]["up"] == {"block_1": 0, "block_2": 0, "block_3": 1}
    assert "in3, mid, out0" in scales.notes[0]


def test_a_short_lbw_string_turns_off_what_it_lacks(sd: BlockScheme) -> None:
    spec = from_list("1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0", sd, "lbw", "scale")
    assert spec.canonical() == "*=0, te=1, in1.1=1, in2.0=1, in2.1=1, mid=1, out1=1, out2.0=1"


def test_kohyas_ranks_make_nothing_outside_the_blocks(sd: BlockScheme) -> None:
    ranks = translate_from("kohya", ",".join(["4"] * 25), sd)
    assert ranks.text == "*=4"
    named = translate_to("kohya", "*=4, te=2, rest=8", sd)
    assert named.text == "8" + ",4" * 24
    assert named.notes == ("kohya lists have no entry for te, rest",)


@pytest.mark.parametrize(
    ("form", "spec", "found"),
    [
        ("lbw", "out0.up=1", "OUT02 takes one number, but there are up_blocks.0.resnets.2=0"),
        ("kohya", "mid.0=4", "M00 takes one number"),
        ("lbv", "1", "Did you mean lbw"),
        ("lbw", "1,2", "it is a list of 2 numbers"),
    ],
)
def test_what_cannot_be_said_is_an_error(sd: BlockScheme, form: str, spec: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        translate_to(form, spec, sd)


@pytest.mark.parametrize(
    ("form", "text", "kind", "found"),
    [
        ("lbw", "1,1,1", None, "it has 3 entries, and this model's has 26 or 17"),
        ("lbw", "1", None, "it has 1 entry"),
        ("kohya", ",".join(["x"] * 25), None, "rank 'x' in 'IN00=x'"),
        ("kohya", ",".join(["0"] * 25), None, "no block has a rank above 0"),
        ("lbw-short", "1", None, "it has 1 entry"),
        ("lbv", "1", None, "Known: lbw, lbw-short, lbw-full, kohya, diffusers, a1111"),
        ("a1111", "<lora:fox:1>", "rank", "prompt tags hold scales only"),
        ("a1111", "fox", None, "it is none of a LoRA"),
        ("a1111", "<lora:fox:strong>", None, "it is not a number"),
        ("a1111", "<lora:fox:1:lbw=1,2>", None, "it has 2 entries"),
        ("a1111", "<lora:fox:1:lbw=MIDD>", None, "it has 1 entry"),
        ("a1111", "<lora:fox:1:lbw=ALL:stop=10>", None, "cannot express 'stop'"),
        ("a1111", "<lora:fox:1:1:4>", None, "cannot express '4'"),
        ("lbw", "1", "ranks", "Did you mean rank"),
        ("diffusers", "{}", "rank", "set_adapters takes scales only"),
        ("diffusers", "{", None, "it is no JSON"),
        ("diffusers", "[1]", None, "it is no dict"),
        ("diffusers", '{"unets": 1}', None, "diffusers ignores or refuses 'unets'"),
        ("diffusers", '{"unet": {"down": {"block_3": 1}}}', None, "'block_3'; it has block_0, block_1, block_2"),
        ("diffusers", '{"unet": {"up": {"block_0": 1}}}', None, "'block_0'; it has block_1, block_2, block_3"),
        ("diffusers", '{"unet": {"up": {"block_1": [1, 2]}}}', None, "has 2 numbers for 3 transformers"),
        ("diffusers", '{"unet": {"mid": "1"}}', None, "mid is no number"),
        ("diffusers", '{"unet": {"mid": NaN}}', None, "NaN is no finite number"),
    ],
)
def test_bad_text_of_other_tools_is_told(sd: BlockScheme, form: str, text: str, kind: str | None, found: str) -> None:
    with pytest.raises(BwlabError, match=re.escape(found)):
        translate_from(form, text, sd, kind)


def test_models_with_one_layer_per_block_have_no_lists_but_a_dict(single: BlockScheme) -> None:
    for form in ("lbw", "lbw-short", "kohya"):
        with pytest.raises(BwlabError, match="two layers per block"):
            translate_to(form, "1", single)
    assert kohya_indices(single) == {}
    spec = parse_spec("out1.0=0.5, *=1", single, kind="scale")
    assert json.loads(to_set_adapters(spec).text)["unet"]["up"] == {"block_1": [0.5, 1], "block_2": 1, "block_3": 1}


DICTS = [
    {"down": 0.3, "mid": 0.7, "up": {"block_1": [0.1, 0.2, 0.4], "block_3": 0.6}},
    {"down": {"block_1": [0.5, 0.9]}},
    {"up": {"block_2": [0.25]}, "mid": [0.75]},
]


@pytest.mark.parametrize("scales", DICTS)
def test_specs_of_dicts_scale_each_layer_as_diffusers_itself(sd: BlockScheme, scales: dict[str, object]) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 12, 16),
        cross_attention_dim=7,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    targets = r".*(to_q|to_out\.0|conv1|conv_shortcut|time_emb_proj|proj_in|samplers\.0\.conv)"
    unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=targets), "mine")
    unet.set_adapters("mine", [scales])
    expected = {path: layer.scaling["mine"] for path, layer in unet.named_modules() if isinstance(layer, LoraLayer)}
    spec = from_set_adapters(json.dumps({"unet": scales}), sd)
    assert {path: spec.value_of(path) for path in expected} == pytest.approx(expected)
    assert len({module.path for module in sd.modules if any(p.startswith(module.path) for p in expected)}) == 44


@pytest.mark.parametrize("scheme", SCHEMES)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), max_size=9))
def test_dicts_keep_the_scales_of_transformers(scheme: BlockScheme, drawn: list[tuple[int, int]]) -> None:
    names = [name for name in scheme.names() if name not in ("*", "all")]
    text = ", ".join(["*=0.5", *(f"{names[place % len(names)]}={number}" for place, number in drawn)])
    spec = parse_spec(text, scheme, kind="scale")
    again = from_dict(as_dict(spec), scheme)
    for path in spec.values:
        if "attentions" in path or path.startswith("te"):
            assert again[path] == spec.values[path]


def test_the_second_text_encoder_has_its_own_key(sdxl: BlockScheme) -> None:
    scales = json.loads(translate_to("diffusers", "te2=0.5, *=1", sdxl).text)
    assert (scales["text_encoder"], scales["text_encoder_2"]) == (1, 0.5)
    assert translate_from("diffusers", '{"text_encoder_2": 0.5, "unet": 0.25}', sdxl).text == "*=0.25, te1=1, te2=0.5"
