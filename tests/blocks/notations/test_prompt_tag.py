"""Prompt tags of the AUTOMATIC1111 web UI and of its extension LoRA Block Weight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwlab.blocks.configs import SD14, SDXL
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import list_slots
from bwlab.blocks.notations.prompt_tag import a1111_tag, from_a1111_tag
from bwlab.blocks.notations.translate import translate_from, translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import number_text, parse_spec
from bwlab.errors import BwlabError

SCHEMES = [scheme_for(SD14), scheme_for(SDXL)]
EXTENSION = "lbw= is read where the extension LoRA Block Weight is installed; elsewhere the tag acts at 1 on all blocks"


def test_one_number_needs_no_list(sd: BlockScheme) -> None:
    assert translate_to("a1111", "0.7", sd, name="fox") == a1111_tag(parse_spec("*=0.7", sd, kind="scale"), "fox")
    assert translate_to("a1111", "0.7", sd, name="fox").text == "<lora:fox:0.7>"
    assert translate_to("a1111", "0.7", sd, name="fox").notes == ()


def test_blocks_of_sd_and_sdxl(sd: BlockScheme, sdxl: BlockScheme) -> None:
    upper = translate_to("a1111", "upper=1, te=0.5", sd, name="ink v2")
    assert upper.text == "<lora:ink v2:1:lbw=0.5,0,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1>"
    assert upper.notes == (EXTENSION,)
    content = translate_to("a1111", "content=1, out0.0=1", sdxl, name="fox")
    assert content.text == "<lora:fox:1:lbw=0,0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0>"
    rest = translate_to("a1111", "*=1, mid=0, rest=0.5, conv_in=1", sd)
    assert rest.text.startswith("<lora:NAME:1:lbw=1,1,")
    assert rest.notes == ("lbw lists have no entry for time_embedding, conv_norm_out, conv_out", EXTENSION)


@pytest.mark.parametrize(
    ("tag", "spec"),
    [
        ("<lora:fox:0.8>", "*=0.8"),
        ("<lora:fox>", "*=1"),
        (" <lyco:a b.c:-1> ", "*=-1"),
        ("<lora:fox:0.5:2>", "*=2, te=0.5"),
        ("<lora:fox:te=0.5:unet=2>", "*=2, te=0.5"),
        ("<lora:fox:te=0.5>", "*=0.5"),
        ("<lora:fox:0.8:te=0>", "*=0"),
        ("<lora:fox:0.8:0.6:te=0>", "*=0.6, te=0"),
        ("<lora:fox:0.8:unet=0.6>", "*=0.6, te=0.8"),
        ("<lora:fox:1:lbw=NONE>", "*=0"),
        (
            "<lora:fox:2:lbw=1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0>",
            "*=0, te=2, in1.1=2, in2=2, mid=2, out1=2, out2.0=2, in2.down=0",
        ),
    ],
)
def test_tags_as_specs(sd: BlockScheme, tag: str, spec: str) -> None:
    found = from_a1111_tag(tag, sd)
    assert found.values == parse_spec(spec, sd, kind="scale").values
    assert translate_from("a1111", tag, sd).text == found.canonical()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_tags_survive_the_way_to_a_spec_and_back(scheme: BlockScheme, data: st.DataObject) -> None:
    slots = list_slots(scheme, "lbw")
    numbers = data.draw(st.lists(st.integers(-3, 5), min_size=len(slots), max_size=len(slots)))
    spec = from_a1111_tag(f"<lora:fox:1:lbw={','.join(map(str, numbers))}>", scheme)
    assert from_a1111_tag(a1111_tag(spec, "fox").text, scheme).values == spec.values
    if len({number_text(value) for value in spec.values.values()}) > 1:
        assert a1111_tag(spec, "fox").text == f"<lora:fox:1:lbw={','.join(map(str, numbers))}>"


@pytest.mark.parametrize("name", ["", " ", "a:b", "a>b", "a<b", "a\nb"])
def test_names_that_cannot_stand_in_a_tag(sd: BlockScheme, name: str) -> None:
    with pytest.raises(BwlabError, match="no colon"):
        a1111_tag(parse_spec("1", sd, kind="scale"), name)


def test_a_model_without_such_cells(single: BlockScheme) -> None:
    assert translate_to("a1111", "1", single, name="fox").text == "<lora:fox:1>"
    with pytest.raises(BwlabError, match="two layers per block only"):
        translate_to("a1111", "upper=1", single, name="fox")
