"""The schemes of transformers: blocks, streams, modulation, parts, ranges and lists, for any number of blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bwlab.blocks.block_map import known_counts, total
from bwlab.blocks.configs import SD14, TRANSFORMER_MODELS
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.lists import list_slots
from bwlab.blocks.notations.translate import translate_from, translate_to
from bwlab.blocks.scheme import with_ranges
from bwlab.blocks.spec import SPEC_KINDS, parse_spec
from bwlab.blocks.targets import is_attention_target
from bwlab.blocks.transformers import TRANSFORMERS
from bwlab.cli.blocks import command
from bwlab.errors import BwlabError

FLUX = scheme_for(TRANSFORMER_MODELS["flux"])
SCHEMES = {name: scheme_for(config) for name, config in TRANSFORMER_MODELS.items()}
# Published numbers of parameters, where they are published exactly or rounded.
SIZES = {
    "sd3": 2.03e9,
    "sd35-medium": 2.24e9,
    "sd35-large": 8.06e9,
    "flux": 11.9e9,
    "chroma": 8.9e9,
    "flux2": 32.2e9,
    "flux2-klein-4b": 3.88e9,
    "flux2-klein-9b": 9.1e9,
    "qwen-image": 20.4e9,
    "z-image": 6.15e9,
    "lumina2": 2.6e9,
    "wan": 14.3e9,
    "wan-1.3b": 1.42e9,
}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("sd3", ["joint0-23"]),
        ("sd35-large", ["joint0-37"]),
        ("flux", ["double0-18", "single0-37"]),
        ("chroma", ["double0-18", "single0-37"]),
        ("flux2", ["double0-7", "single0-47"]),
        ("qwen-image", ["block0-59"]),
        ("z-image", ["refiner_noise0-1", "refiner_text0-1", "layer0-29"]),
        ("lumina2", ["refiner_noise0-1", "refiner_text0-1", "layer0-25"]),
        ("wan", ["block0-39"]),
    ],
)
def test_blocks_are_named_from_input_to_output(name: str, blocks: list[str]) -> None:
    assert with_ranges(SCHEMES[name].blocks(), shortest=2) == ["te", *blocks, "rest"]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_known_transformers_have_the_published_sizes(name: str, size: float) -> None:
    assert total(known_counts(name).values()).parameters == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(
    ("model", "path", "cell"),
    [
        ("sd3", "transformer_blocks.3.attn.to_q", "joint3.image"),
        ("sd3", "transformer_blocks.3.attn.to_out.0", "joint3.image"),
        ("sd35-medium", "transformer_blocks.3.attn2.to_k", "joint3.image"),
        ("sd3", "transformer_blocks.3.attn.add_q_proj", "joint3.text"),
        ("sd3", "transformer_blocks.3.ff_context.net.0.proj", "joint3.text"),
        ("sd3", "transformer_blocks.3.norm1_context.linear", "joint3.modulation"),
        ("flux", "transformer_blocks.18.ff.net.2", "double18.image"),
        ("flux", "transformer_blocks.18.attn.to_add_out", "double18.text"),
        ("flux", "single_transformer_blocks.37.proj_mlp", "single37.main"),
        ("flux", "single_transformer_blocks.37.norm.linear", "single37.modulation"),
        ("flux", "norm_out.linear", "norm_out"),
        ("flux", "te2.encoder.block.3.layer.0.SelfAttention.q", "te2"),
        ("flux", "transformer_blocks.19.ff.net.2", None),
        ("flux2", "single_transformer_blocks.47.attn.to_qkv_mlp_proj", "single47"),
        ("qwen-image", "transformer_blocks.7.txt_mlp.net.2", "block7.text"),
        ("qwen-image", "transformer_blocks.7.img_mod.1", "block7.modulation"),
        ("z-image", "noise_refiner.1.attention.to_q", "refiner_noise1.main"),
        ("z-image", "context_refiner.1.feed_forward.w1", "refiner_text1"),
        ("z-image", "layers.29.adaLN_modulation.0", "layer29.modulation"),
        ("lumina2", "layers.3.norm1.linear", "layer3.modulation"),
        ("wan", "blocks.3.ffn.net.0.proj", "block3"),
    ],
)
def test_a_layer_lies_in_its_stream(model: str, path: str, cell: str | None) -> None:
    assert SCHEMES[model].cell_of(path) == cell
    assert SCHEMES[model].block_of(path) == (cell.partition(".")[0] if cell and "." in cell else cell and BLOCKS[cell])


BLOCKS = {"norm_out": "rest", "te2": "te", "single47": "single47", "refiner_text1": "refiner_text1", "block3": "block3"}


@pytest.mark.parametrize("name", TRANSFORMER_MODELS)
def test_a_rank_for_all_adapts_attention_and_mlps_and_nothing_else(name: str) -> None:
    """The layers that a rank for `all` adapts are counted by hand from the table of diffusers' classes."""
    per_block = {"joint": 12, "double": 12, "single": 5, "block": 12, "layer": 7, "refiner_noise": 7, "refiner_text": 7}
    if SCHEMES[name].name == "flux2":
        per_block["single"] = 2
    if SCHEMES[name].name == "wan":
        per_block["block"] = 10
    sizes = [re.fullmatch(r"(\w*[a-z])\d+", block) for block in SCHEMES[name].blocks()]
    expected = sum(per_block[match[1]] for match in sizes if match)
    # SD3's last block makes no text: no output projection and no MLP. SD3.5 medium has 13 second attentions.
    expected += {"sd3": -3, "sd35-medium": -3 + 13 * 4, "sd35-large": -3}.get(name, 0)
    assert total(known_counts(name).values()).lora == expected


@pytest.mark.parametrize(
    ("path", "kind", "target"),
    [
        ("transformer_blocks.0.attn.add_q_proj", "linear", True),
        ("transformer_blocks.0.norm1.linear", "linear", True),
        ("norm_out.linear", "linear", True),
        ("pos_embed.proj", "conv", False),
        ("patch_embedding", "conv", False),
        ("te2.encoder.block.0.layer.1.DenseReluDense.wi_0", "linear", True),
        ("te3.encoder.block.0.layer.0.SelfAttention.o", "linear", True),
        ("te3.encoder.block.0.layer.0.layer_norm", "linear", False),
        ("down_blocks.0.resnets.0.time_emb_proj", "linear", False),
    ],
)
def test_every_linear_layer_can_be_adapted(path: str, kind: str, target: bool) -> None:
    assert is_attention_target(path, kind) is target


def test_modulation_gets_a_rank_only_under_its_own_name() -> None:
    ranks = parse_spec("double0-18=16, single3=4", FLUX, kind="rank")
    assert ranks.value_of("transformer_blocks.3.attn.to_q") == 16
    assert ranks.value_of("transformer_blocks.3.norm1.linear") == 0
    assert ranks.canonical() == "*=16, single0-2=0, single3=4, single4-37=0"
    named = parse_spec("all=8, double3.modulation=2", FLUX, kind="rank")
    assert named.value_of("transformer_blocks.3.norm1_context.linear") == 2
    assert named.value_of("transformer_blocks.2.norm1.linear") == 0
    assert named.canonical() == "*=8, double3.modulation=2"
    every = parse_spec("modulation=2", FLUX, kind="rank")
    assert every.value_of("single_transformer_blocks.0.norm.linear") == 2
    assert every.value_of("single_transformer_blocks.0.proj_mlp") == 0


def test_a_scale_of_a_block_covers_its_modulation() -> None:
    scales = parse_spec("single3=0.5", FLUX, kind="scale", default=1.0)
    assert scales.value_of("single_transformer_blocks.3.norm.linear") == 0.5
    assert scales.canonical() == "*=1, single3=0.5"
    assert scales.by_block()["single3"] == 0.5


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ("double0-2=1", "double0=1, double1=1, double2=1"),
        ("double0-2.text=1", "double0.text=1, double1.text=1, double2.text=1"),
        ("double_blocks.0-2=1", "double0-2=1"),
        ("single_blocks.7=1", "single7=1"),
        ("single_transformer_blocks.7=1", "single7=1"),
        ("lora_unet_single_blocks_7=1", "single7=1"),
        ("D03=1", "double3=1"),
        ("early=1", "double0-18=1"),
        ("late=1", "single19-37=1"),
    ],
)
def test_other_names_of_blocks(spec: str, same: str) -> None:
    assert parse_spec(spec, FLUX, kind="scale").values == parse_spec(same, FLUX, kind="scale").values


def test_ranges_name_blocks_of_unets_too() -> None:
    sd = scheme_for(SD14)
    assert sd.modules_of("in0-2") == sd.modules_of("in0") | sd.modules_of("in1") | sd.modules_of("in2")
    assert sd.modules_of("IN01-03") == sd.modules_of("in0")
    assert parse_spec("in0-3=4", sd, kind="rank").canonical() == "in0-3=4"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("double0-19", "includes double19: no such block in a transformer of the scheme flux"),
        ("double6-0", "runs backwards"),
        ("double19", "no such block in a transformer"),
        ("double0-999999", "has not as many blocks"),
        ("double0-" + 5000 * "9", "no such block"),
        ("upper", "double0-18"),
        ("IN05", "no such block"),
        ("double0-", "no such block"),
    ],
)
def test_names_that_a_model_lacks_are_errors(name: str, found: str) -> None:
    with pytest.raises(BwlabError, match=re.escape(found)) as caught:
        FLUX.modules_of(name)
    assert len(str(caught.value)) < 600 + len(name)


@pytest.mark.parametrize("name", TRANSFORMER_MODELS)
@settings(max_examples=20)
@given(data=st.data())
def test_the_canonical_spec_means_the_same(name: str, data: st.DataObject) -> None:
    scheme = SCHEMES[name]
    names = data.draw(st.lists(st.sampled_from(scheme.names()), min_size=1, max_size=4))
    kind = data.draw(st.sampled_from(SPEC_KINDS))
    text = ", ".join(f"{name}={number}" for name, number in zip(names, (1, 2, 1, 3), strict=False))
    spec = parse_spec(text, scheme, kind=kind)
    assert parse_spec(spec.canonical(), scheme, kind=kind).values == spec.values


def test_thirds_are_the_blocks_in_order() -> None:
    sizes = {
        name: [len(dict(scheme.parts)[part]) for part in ("early", "middle", "late")]
        for name, scheme in SCHEMES.items()
    }
    assert sizes["flux"] == [19, 19, 19]
    assert sizes["sd35-large"] == [13, 12, 13]
    assert sizes["z-image"] == [10, 10, 10]
    z_image = SCHEMES["z-image"]
    assert dict(z_image.parts)["refiner"] == ("refiner_noise0", "refiner_noise1", "refiner_text0", "refiner_text1")


@pytest.mark.parametrize("family", TRANSFORMERS.values(), ids=lambda family: str(family.scheme))
def test_any_number_of_blocks_and_no_other_family(family: object) -> None:
    configs = {name: config for name, config in TRANSFORMER_MODELS.items() if SCHEMES[name].name == family.scheme}  # type: ignore[attr-defined]
    config = next(iter(configs.values()))
    tiny = {**config, "num_layers": 2, "num_single_layers": 1, "n_layers": 1, "n_refiner_layers": 1}
    scheme = scheme_for({key: value for key, value in tiny.items() if key in config})
    assert "early" not in scheme.names() or len(dict(scheme.parts)["early"]) == 1
    others = [other for other in TRANSFORMERS.values() if other is not family]
    assert [other.scheme for other in others if other(config) is not None] == []


@pytest.mark.parametrize("size", [None, "19", True, -1, 10**9, [19]])
def test_a_config_without_a_number_of_blocks_is_none_of_a_transformer(size: object) -> None:
    with pytest.raises(BwlabError, match="no known one fits FluxTransformer2DModel with num_layers"):
        scheme_for({**TRANSFORMER_MODELS["flux"], "num_layers": size})


def test_configs_in_memory_lack_the_class() -> None:
    """Models that were built from arguments keep no `_class_name`."""
    from bwlab.blocks.configs import meta_denoiser

    for name, config in TRANSFORMER_MODELS.items():
        if name in ("sd3", "flux", "chroma", "flux2", "qwen-image", "z-image", "lumina2", "wan"):
            small: Mapping[str, object] = {
                key: 1 if key.endswith("layers") and isinstance(value, int) else value for key, value in config.items()
            }
            in_memory = dict(meta_denoiser(small).config)  # type: ignore[arg-type]
            assert "_class_name" not in in_memory
            assert scheme_for(in_memory).name == SCHEMES[name].name


def test_lists_of_58_and_61_numbers() -> None:
    spec = "te=0.25, double0-6=1, double7-18=0.5, single0-37=0, rest=0.25"
    listed = translate_to("lbw", spec, FLUX)
    numbers = listed.text.split(",")
    assert numbers == ["0.25", *["1"] * 7, *["0.5"] * 12, *["0"] * 38]
    assert "BASE, then 19 double and 38 single" in listed.notes[0]
    full = translate_to("lbw-full", spec, FLUX)
    assert full.text.split(",") == ["0.25"] * 3 + numbers[1:] + ["0.25"]
    for text in (listed.text, full.text):
        again = parse_spec(translate_from("lbw", text, FLUX).text, FLUX, kind="scale")
        assert again.values == parse_spec(spec, FLUX, kind="scale").values
    tag = translate_to("a1111", spec, FLUX, name="fox")
    assert tag.text == f"<lora:fox:1:lbw={full.text}>"
    assert translate_from("a1111", tag.text, FLUX).text == translate_from("lbw", full.text, FLUX).text
    assert [len(list_slots(SCHEMES[name], "lbw")) for name in ("flux", "chroma", "flux2")] == [58, 58, 57]


@pytest.mark.parametrize(
    ("model", "form", "spec", "found"),
    [
        ("flux", "lbw", "te=1", "BASE takes one number"),
        ("flux", "lbw", "double0.text=1", "double0 takes one number"),
        ("flux", "kohya", "all=4", "kohya lists fit UNets"),
        ("chroma", "lbw-full", "all=1", "Use lbw"),
        ("sd3", "lbw", "all=1", "lbw lists fit UNets"),
        ("sd3", "diffusers", "all=1", "no scales per block"),
    ],
)
def test_what_a_list_cannot_say(model: str, form: str, spec: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        translate_to(form, spec, SCHEMES[model])


def test_the_table_of_flux_and_lists_by_command() -> None:
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["flux"])
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    assert shown.exit_code == 0
    assert max(map(len, lines)) <= 100
    assert (
        lines[5] == " double0   transformer_blocks.0            double_blocks.0   early   D00        12     339,831,296"
    ), lines[5]
    assert any(re.match(r" model +418  11,901,408,320", line) for line in lines)
    assert len([line for line in lines if re.match(r" (double|single)\d+ ", line)]) == 57
    zeros = ",".join(["0"] * 58)
    back = CliRunner().invoke(app, ["flux", "--from", "lbw", zeros])
    assert back.stdout.strip() == "*=0"


def test_names_are_looked_up_quickly() -> None:
    """A file of FLUX has 494 layers; a scheme of 265 modules is searched by prefixes, not by comparing with each."""
    lookups = 0

    class Counting(dict[str, object]):
        def __contains__(self, key: object) -> bool:
            nonlocal lookups
            lookups += 1
            return super().__contains__(key)

    scheme = scheme_for(TRANSFORMER_MODELS["flux"])
    scheme.__dict__["_by_path"] = Counting(scheme._by_path)
    scheme.module_of("single_transformer_blocks.37.attn.to_q")
    assert lookups <= 4
