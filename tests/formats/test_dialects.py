"""Every dialect: what its keys mean, and that nothing is skipped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoKrConfig, get_peft_model
from torch import nn

from bwlab.errors import BwlabError
from bwlab.formats.keys import kohya_name_of, ldm_name_of
from bwlab.formats.read import read_contents
from tests.formats.dialects_made import ATTENTION, PATHS, alphas, assert_holds, keyed, part_of, read


def test_kohya(tmp_path: Path) -> None:
    tensors = keyed(lambda path, down: f"{kohya_name_of(path)}.lora_{'down' if down else 'up'}.weight")
    assert_holds(read(tmp_path, tensors), "kohya")
    assert_holds(read(tmp_path, tensors | alphas(kohya_name_of)), "kohya", 0.5)


@pytest.mark.parametrize("prefix", ["lora_te1_", "lora_te_"])
def test_both_prefixes_of_the_first_text_encoder(tmp_path: Path, prefix: str) -> None:
    tensors = keyed(lambda path, down: f"{kohya_name_of(path)}.lora_{'down' if down else 'up'}.weight")
    assert_holds(read(tmp_path, {key.replace("lora_te_", prefix): value for key, value in tensors.items()}), "kohya")


def test_ldm(tmp_path: Path) -> None:
    tensors = keyed(lambda path, down: f"{ldm_name_of(path, 'sd1')}.lora_{'down' if down else 'up'}.weight")
    assert any("input_blocks_4_1_" in key for key in tensors)
    assert_holds(read(tmp_path, tensors | alphas(lambda path: ldm_name_of(path, "sd1"))), "ldm", 0.5)


def test_a_doubled_prefix_and_an_underscore_before_the_leaf(tmp_path: Path) -> None:
    def name(path: str, down: bool) -> str:
        doubled = (
            kohya_name_of(path).replace("lora_unet_", "lora_unet_unet_").replace("lora_te_", "lora_te_text_encoder_")
        )
        return f"{doubled}_lora_{'down' if down else 'up'}.weight"

    assert_holds(read(tmp_path, keyed(name)), "kohya-doubled")


def test_the_prefix_of_lycoris(tmp_path: Path) -> None:
    def name(path: str, down: bool) -> str:
        return f"{kohya_name_of(path).replace('lora_unet_', 'lycoris_').replace('lora_te_', 'lycoris_')}.lora_" + (
            "down.weight" if down else "up.weight"
        )

    assert_holds(read(tmp_path, keyed(name)), "lycoris")


def test_peft_in_diffusers_with_alpha_in_the_metadata(tmp_path: Path) -> None:
    tensors = keyed(lambda path, down: f"{part_of(path)}.lora_{'A' if down else 'B'}.weight")
    assert_holds(read(tmp_path, tensors), "diffusers")
    config = {
        f"{part}.{key}": value for part in ("unet", "text_encoder") for key, value in (("r", 3), ("lora_alpha", 6))
    }
    assert_holds(read(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(config)}), "diffusers", 2.0)
    patterns = config | {"unet.alpha_pattern": {"attn1.to_q": 3}, "unet.use_rslora": False}
    contents = read(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(patterns)})
    assert [contents.modules[path].alpha for path in PATHS] == [3, 6, 6]
    stabilised = config | {"unet.use_rslora": True}
    contents = read(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(stabilised)})
    assert contents.modules[PATHS[0]].scale() == pytest.approx(6 / 3**0.5)
    assert contents.modules[PATHS[2]].scale() == 2.0


def test_peft_in_diffusers_without_unet_and_with_alpha_keys(tmp_path: Path) -> None:
    bare = {path: part_of(path).removeprefix("unet.") for path in PATHS}
    tensors = keyed(lambda path, down: f"{bare[path]}.lora_{'A' if down else 'B'}.weight")
    assert_holds(read(tmp_path, tensors | alphas(lambda path: bare[path])), "diffusers", 0.5)


def test_peft_with_its_config_beside_it(tmp_path: Path) -> None:
    tensors = keyed(
        lambda path, down: f"base_model.model.{path.replace('te.', 'text_model.')}.lora_{'A' if down else 'B'}.weight"
    )
    assert_holds(read(tmp_path, tensors), "peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 12}))
    assert_holds(read(tmp_path, tensors), "peft", 4.0)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(BwlabError, match=r"adapter_config\.json next to it cannot be read"):
        read(tmp_path, tensors)


@pytest.mark.parametrize("config", [{"r": 2, "alpha": 1}, {"r": 2, "alpha": 1, "decompose_both": True}, {"r": 8}])
def test_lokr_of_peft_has_the_scale_that_peft_gives_it(tmp_path: Path, config: dict[str, int]) -> None:
    layers: Any = nn.ModuleDict({"proj_in": nn.Linear(25, 36), "proj_out": nn.Linear(49, 25)})
    model = nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([layers])})})
    patterns = {"rank_pattern": {"proj_out": 6}, "alpha_pattern": {"attentions.0.proj_out": 3.0}}
    settings = LoKrConfig(**config, **patterns, target_modules=list(layers), init_weights=False)
    theirs = get_peft_model(model, settings)
    theirs.save_pretrained(tmp_path)
    found = read_contents(tmp_path / "adapter_model.safetensors").modules
    assert "lokr_w2" in found["mid_block.attentions.0.proj_out"].leaves
    for name, layer in layers.items():
        wanted = layer.get_delta_weight("default").detach().double().numpy()
        own = found[f"mid_block.attentions.0.{name}"]
        np.testing.assert_allclose(own.delta(), wanted, rtol=1e-5, atol=1e-7)


def test_peft_with_the_adapters_name_in_its_keys_and_dora(tmp_path: Path) -> None:
    tensors = {
        f"base_model.model.{PATHS[0]}.lora_A.default.weight": np.ones((3, 7)),
        f"base_model.model.{PATHS[0]}.lora_B.default.weight": np.ones((11, 3)),
        f"base_model.model.{PATHS[0]}.lora_magnitude_vector.default.weight": np.ones(11),
        "base_model.model.down_blocks.0.resnets.0.conv1.lora_A.weight": np.ones((3, 5, 3, 3)),
        "base_model.model.down_blocks.0.resnets.0.conv1.lora_B.weight": np.ones((13, 3, 1, 1)),
        "base_model.model.down_blocks.0.resnets.0.conv1.lora_magnitude_vector.weight": np.ones((1, 13, 1, 1)),
    }
    modules = read(tmp_path, tensors).modules
    assert [module.algorithm for module in modules.values()] == ["dora", "dora"]
    assert {module.leaves["dora_scale"].shape for module in modules.values()} == {(11, 1), (13, 1, 1, 1)}
    weight = np.random.default_rng(0).standard_normal((13, 5, 3, 3))
    delta = modules["down_blocks.0.resnets.0.conv1"].delta(weight)
    np.testing.assert_allclose(np.linalg.norm((weight + delta).reshape(13, -1), axis=1), 1, atol=1e-6)


def test_old_diffusers(tmp_path: Path) -> None:
    tensors = keyed(lambda path, down: f"{part_of(path)}.lora.{'down' if down else 'up'}.weight")
    assert_holds(read(tmp_path, tensors), "diffusers-old")
    linear = {key.replace(".lora.", ".lora_linear_layer."): value for key, value in tensors.items()}
    assert_holds(read(tmp_path, linear), "diffusers-old")


def test_oldest_diffusers(tmp_path: Path) -> None:
    tensors = {
        f"{ATTENTION}.processor.to_{name}_lora.{leaf}.weight": np.ones((3, 7) if leaf == "down" else (7, 3))
        for name in ("q", "k", "v", "out")
        for leaf in ("down", "up")
    }
    contents = read(tmp_path, tensors)
    assert contents.dialect == "diffusers-oldest"
    assert set(contents.modules) == {f"{ATTENTION}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")}
    text = {"text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight": np.ones((3, 7))}
    text |= {"text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.up.weight": np.ones((5, 3))}
    assert set(read(tmp_path, text).modules) == {"te.encoder.layers.0.self_attn.out_proj"}


def test_embeddings_of_every_tool(tmp_path: Path) -> None:
    for tensors, tokens in (
        ({"emb_params": np.ones((2, 768))}, {"a": (2, 768)}),
        ({"clip_l": np.ones((2, 768)), "clip_g": np.ones((2, 1280))}, {"a": (2, 768), "te2:a": (2, 1280)}),
        ({"<cat>": np.ones(768), "dog": np.ones((1, 768))}, {"<cat>": (768,), "dog": (1, 768)}),
    ):
        contents = read(tmp_path, tensors)
        assert contents.dialect == "embedding"
        assert {token: tensor.shape for token, tensor in contents.embeddings.items()} == tokens
    beside = {"bundle_emb.cat.string_to_param.*": np.ones((2, 768))}
    tensors = keyed(lambda path, down: f"{kohya_name_of(path)}.lora_{'down' if down else 'up'}.weight")
    contents = read(tmp_path, tensors | beside)
    assert set(contents.embeddings) == {"cat"}
    assert_holds(contents, "kohya")


def test_a_key_twice_named_is_listed_not_lost(tmp_path: Path) -> None:
    name = kohya_name_of(PATHS[0])
    tensors = {f"{name}.lora_down.weight": np.ones((3, 7)), f"{name}.lora_up.weight": np.ones((11, 3))}
    twice = {"lora_te_encoder_layers_3_mlp_fc1.lora_down.weight": np.ones((3, 7))}
    twice |= {"lora_te_text_model_encoder_layers_3_mlp_fc1.lora_down.weight": np.ones((3, 7))}
    twice |= {"lora_te_text_model_encoder_layers_3_mlp_fc1.lora_up.weight": np.ones((5, 3))}
    contents = read(tmp_path, tensors | twice)
    assert len(contents.modules) == 2
    assert len(contents.unknown) == 1
    assert "fc1.lora_down.weight" in contents.unknown[0]
