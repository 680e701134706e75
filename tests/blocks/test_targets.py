"""LoRA and LoCon adapt the same layers as kohya and LyCORIS do, by names, and the known UNets are exact."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from bwlab.blocks.block_map import FILES, counted_text, known_counts, total
from bwlab.blocks.configs import KNOWN, layer_shapes, meta_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.targets import is_attention_target, is_conv_target
from bwlab.formats.keys import path_of
from bwlab.formats.safetensors import open_adapter_file

LORAS = Path(__file__).parents[3] / "shared" / "loras"
OUTSIDE = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}


@cache
def shapes(name: str) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    return layer_shapes(meta_unet(KNOWN[name]))


def expected_lora() -> set[str]:
    """Names written out by hand: 12 layers in each of the 16 transformers of SD 1.4."""
    roots = [f"down_blocks.{level}.attentions.{pair}" for level in range(3) for pair in range(2)]
    roots += [f"up_blocks.{level}.attentions.{pair}" for level in (1, 2, 3) for pair in range(3)]
    inner = [f"attn{n}.{leaf}" for n in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
    inner += ["ff.net.0.proj", "ff.net.2"]
    leaves = ["proj_in", "proj_out", *(f"transformer_blocks.0.{leaf}" for leaf in inner)]
    return {f"{root}.{leaf}" for root in [*roots, "mid_block.attentions.0"] for leaf in leaves}


def expected_resnets() -> set[str]:
    """Names written out by hand: 22 resnets, 14 of which change their width, and 6 resamplers."""
    roots = [f"down_blocks.{level}.resnets.{pair}" for level in range(4) for pair in range(2)]
    ups = [f"up_blocks.{level}.resnets.{pair}" for level in range(4) for pair in range(3)]
    roots += ["mid_block.resnets.0", "mid_block.resnets.1", *ups]
    shortcuts = [*ups, "down_blocks.1.resnets.0", "down_blocks.2.resnets.0"]
    names = {f"{root}.{leaf}" for root in roots for leaf in ("conv1", "conv2", "time_emb_proj")}
    names |= {f"{root}.conv_shortcut" for root in shortcuts}
    names |= {f"down_blocks.{level}.downsamplers.0.conv" for level in range(3)}
    return names | {f"up_blocks.{level}.upsamplers.0.conv" for level in range(3)}


def test_sd14_by_names() -> None:
    lora = {path for path, (kind, _) in shapes("sd14").items() if is_attention_target(path, kind)}
    locon = {path for path, (kind, _) in shapes("sd14").items() if is_conv_target(path, kind)}
    assert lora == expected_lora()
    assert locon - lora == expected_resnets()
    assert set(shapes("sd14")) - locon == OUTSIDE
    assert (len(lora), len(locon), len(shapes("sd14"))) == (192, 278, 282)


def test_a_file_that_lycoris_made_adapts_the_same_layers() -> None:
    file = LORAS / "lycorisfork__smart_falcon_4_lokr.safetensors"
    if not file.exists():
        pytest.skip(f"{file} is absent")
    paths = {path_of(key.partition(".")[0]) for key in open_adapter_file(file).entries}
    locon = {path for path, (kind, _) in shapes("sd14").items() if is_conv_target(path, kind)}
    text = {path for path in paths if path.startswith("te.")}
    assert paths - text == locon
    assert len(text) == 72
    assert all(is_attention_target(path, "linear") and is_conv_target(path, "linear") for path in text)


@pytest.mark.parametrize(
    ("path", "kind", "lora", "locon"),
    [
        ("down_blocks.1.attentions.0.proj_in", "conv1x1", True, True),
        ("down_blocks.1.attentions.0.proj_in", "conv", False, False),
        ("up_blocks.1.resnets.0.conv_shortcut", "conv1x1", False, True),
        ("mid_block.resnets.0.time_emb_proj", "linear", False, True),
        ("mid_block.attentions.0.norm", "norm", False, False),
        ("conv_in", "conv", False, False),
        ("te2.encoder.layers.31.self_attn.out_proj", "linear", True, True),
        ("te.text_model.encoder.layers.0.mlp.fc2", "linear", True, True),
        ("te2.text_projection", "linear", False, False),
        ("te.resnets.0.conv1", "conv", False, False),
    ],
)
def test_targets_of_single_layers(path: str, kind: str, lora: bool, locon: bool) -> None:
    assert (is_attention_target(path, kind), is_conv_target(path, kind)) == (lora, locon)


@pytest.mark.parametrize(
    ("name", "lora", "locon", "parameters"),
    [("sd14", 192, 278, 859_520_964), ("sd21", 192, 278, 865_910_724), ("sdxl", 722, 788, 2_567_463_684)],
)
def test_the_known_unets_have_the_published_sizes(name: str, lora: int, locon: int, parameters: int) -> None:
    whole = total(known_counts(name).values())
    assert (whole.lora, whole.locon, whole.parameters) == (lora, locon, parameters)


@pytest.mark.parametrize("file", FILES)
def test_the_committed_counts_are_what_diffusers_builds(file: str) -> None:
    """Builds each model on the meta device; `python -m bwlab.blocks.block_map` writes the files again."""
    import bwlab.blocks

    committed = Path(bwlab.blocks.__path__[0]) / file
    assert committed.read_text(encoding="utf-8") == counted_text(FILES[file])


@pytest.mark.parametrize("name", KNOWN)
def test_the_scheme_holds_every_layer_and_no_module_without_one(name: str) -> None:
    scheme = scheme_for(KNOWN[name])
    counts = known_counts(name)
    held = {module.path for module in scheme.modules if module.block != "te"}
    assert {path for path, one in counts.items() if one.parameters} == held


def test_kinds_follow_the_shapes() -> None:
    layers = shapes("sd21")
    assert layers["down_blocks.0.attentions.0.proj_in"] == ("linear", (320, 320))
    assert layers["up_blocks.3.resnets.0.conv_shortcut"] == ("conv1x1", (320, 960, 1, 1))
    assert layers["conv_in"] == ("conv", (320, 4, 3, 3))
    assert shapes("sd14")["down_blocks.0.attentions.0.proj_in"] == ("conv1x1", (320, 320, 1, 1))
