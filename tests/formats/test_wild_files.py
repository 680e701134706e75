"""Files as other tools really write them: mixed, bundled, for other models, with leaves of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents

KEY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PATH = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def pair(out: int, inner: int, seed: int = 0, rank: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return down and up."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((rank, inner)).astype(np.float32), draw.standard_normal((out, rank)).astype(np.float32)


def lora(
    name: str, out: int, inner: int, leaves: tuple[str, str] = ("lora_down.weight", "lora_up.weight")
) -> dict[str, np.ndarray]:
    """Return the tensors of a module."""
    return {f"{name}.{leaf}": values for leaf, values in zip(leaves, pair(out, inner), strict=True)}


def written(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    """Write a file and return its path."""
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path, metadata)
    return path


def exit_code(*arguments: object) -> int:
    """Run the command line."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("prefix", "leaves"),
    [
        ("unet.", ("lora_down.weight", "lora_up.weight")),
        ("diffusion_model.", ("lora_A.weight", "lora_B.weight")),
        ("diffusion_model.", ("lora_down.weight", "lora_up.weight")),
        ("model.diffusion_model.", ("lora_A.default.weight", "lora_B.default.weight")),
        ("", ("lora.down.weight", "lora.up.weight")),
    ],
)
def test_dotted_ldm_names(tmp_path: Path, prefix: str, leaves: tuple[str, str]) -> None:
    name = "output_blocks.5.1.transformer_blocks.1.attn2.to_k"
    tensors = lora(f"{prefix}{name}", 640, 2048, leaves) | {f"{prefix}{name}.alpha": np.array(2.0, np.float32)}
    tensors |= lora("clip_g.text_model.encoder.layers.3.mlp.fc1", 5120, 1280)
    contents = read_contents(written(tmp_path / "a.safetensors", tensors))
    assert (contents.architecture, contents.unknown) == ("sdxl", ())
    assert set(contents.modules) == {
        "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k",
        "te2.encoder.layers.3.mlp.fc1",
    }
    down, up = pair(640, 2048)
    delta = contents.modules["up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k"].delta()
    np.testing.assert_allclose(delta, 0.5 * up @ down, rtol=1e-5, atol=1e-5)


def test_keys_of_several_dialects_in_one_file(tmp_path: Path) -> None:
    tensors = lora(KEY, 640, 768)
    tensors |= lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", 320, 768)
    tensors |= lora("unet.mid_block.attentions.0.proj_in", 1280, 1280, ("lora_A.weight", "lora_B.weight"))
    contents = read_contents(written(tmp_path / "a.safetensors", tensors))
    assert (contents.unknown, contents.architecture) == ((), "sd1")
    assert set(contents.dialects) == {"kohya", "ldm", "diffusers"}
    assert set(contents.modules) == {
        PATH,
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.proj_in",
    }


def test_oldest_sdxl_scripts_mix_two_forms(tmp_path: Path) -> None:
    attention = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"
    text = "text_encoder_2.text_model.encoder.layers.5.self_attn.q_proj.lora_linear_layer"
    tensors = lora(attention, 640, 2048, ("down.weight", "up.weight")) | lora(
        text, 1280, 1280, ("down.weight", "up.weight")
    )
    contents = read_contents(written(tmp_path / "a.safetensors", tensors))
    assert (contents.architecture, contents.unknown) == ("sdxl", ())
    assert set(contents.modules) == {PATH, "te2.encoder.layers.5.self_attn.q_proj"}


@pytest.mark.parametrize("token", ["my token", "<s1>", "../../evil/x"])
def test_bundled_embeddings_arrive(tmp_path: Path, token: str) -> None:
    beside = {f"bundle_emb.{token}.clip_l": np.ones((2, 768)), f"bundle_emb.{token}.clip_g": np.ones((2, 1280))}
    beside[f"bundle_emb.{token}.clip_l_out"] = np.ones((2, 768))
    source = written(tmp_path / "a.safetensors", lora(KEY, 640, 2048) | beside)
    (tmp_path / "out").mkdir()
    assert exit_code("convert", source, tmp_path / "out" / "b.safetensors") == 0
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    embedding = next(file for file in files if file.name != "b.safetensors")
    assert {key: values.shape for key, values in load_file(embedding).items()} == {
        "clip_l": (2, 768),
        "clip_g": (2, 1280),
    }


def test_tokens_that_differ_in_brackets_alone_are_two_files(tmp_path: Path) -> None:
    beside = {"bundle_emb.<s1>.clip_l": np.full((2, 768), 1.0), "bundle_emb.s1.clip_l": np.full((2, 768), 2.0)}
    source = written(tmp_path / "a.safetensors", lora(KEY, 640, 768) | beside)
    (tmp_path / "out").mkdir()
    assert exit_code("convert", source, tmp_path / "out" / "b.safetensors") == 0
    values = {
        float(next(iter(load_file(file).values())).max()) for file in (tmp_path / "out").iterdir() if "-" in file.name
    }
    assert values == {1.0, 2.0}


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_double_blocks_0_img_attn"), "a transformer model"),
        (("transformer.single_transformer_blocks.0.attn.to_k_proj",), "a transformer model"),
        (("lora_unet_transformer_blocks_0_attn1_to_q",), "a transformer model"),
        (("lora_prior_unet_blocks_0",), "Stable Cascade"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_files_for_other_models_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], model: str, command: str
) -> None:
    tensors = {key: values for name in names for key, values in lora(name, 48, 32).items()}
    source = written(tmp_path / "a.safetensors", tensors)
    out = (tmp_path / "b.safetensors", "--drop-unknown") if command == "convert" else ()
    assert exit_code(command, source, *out) == 2
    error = capsys.readouterr().err
    assert f"it is an adapter for {model}" in " ".join(error.split())
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("metadata", "architecture"),
    [
        ({}, "unknown"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "flux-1-dev/lora", "ss_v2": "False"}, "unknown"),
    ],
)
def test_numbered_text_encoders_alone_are_not_of_sd1(
    tmp_path: Path, metadata: dict[str, str], architecture: str
) -> None:
    tensors = lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 3072, 768)
    assert read_contents(written(tmp_path / "a.safetensors", tensors, metadata)).architecture == architecture


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
        ("body.0.rdb1.conv1.weight", "an upscaler"),
        ("conv_first.weight", "an upscaler"),
        ("body.0.resnets.0.block1.weight", "a T2I-Adapter"),
        ("id_encoder.visual_projection.weight", "a PhotoMaker"),
        ("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight", "a ControlNet-LLLite"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("down_blocks.0.motion_modules.0.proj_in.processor.to_q_lora.down.weight", "a motion module or motion LoRA"),
        ("768.1.linear.0.weight", "a hypernetwork"),
        ("decoder.conv_in.weight", r"an autoencoder \(VAE\)"),
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", "a whole model"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, key: str, kind: str) -> None:
    with pytest.raises(BwlabError, match=f"it is {kind}"):
        read_contents(written(tmp_path / "a.safetensors", {key: np.ones((4, 4), np.float32)}))


@pytest.mark.parametrize("with_alpha", [True, False])
def test_a_scalar_scales_the_delta(tmp_path: Path, with_alpha: bool) -> None:
    tensors = lora(KEY, 640, 768) | {f"{KEY}.scalar": np.array(0.1, np.float32)}
    if with_alpha:
        tensors[f"{KEY}.alpha"] = np.array(2.0, np.float32)
    source = written(tmp_path / "a.safetensors", tensors)
    assert exit_code("convert", source, tmp_path / "b.safetensors") == 0
    down, up = pair(640, 768)
    delta = read_contents(tmp_path / "b.safetensors").modules[PATH].delta()
    np.testing.assert_allclose(delta, 0.1 * (0.5 if with_alpha else 1.0) * up @ down, rtol=1e-5, atol=1e-6)


def test_a_scalar_of_zero_is_a_delta_of_zero(tmp_path: Path) -> None:
    tensors = lora(KEY, 640, 768) | {f"{KEY}.scalar": np.array(0.0), f"{KEY}.alpha": np.array(2.0)}
    source = written(tmp_path / "a.safetensors", tensors)
    assert exit_code("convert", source, tmp_path / "b.safetensors") == 0
    for path in (source, tmp_path / "b.safetensors"):
        module = read_contents(path).modules[PATH]
        assert module.alpha == 2
        assert not module.delta().any()


def test_a_module_with_two_names_is_told_from_an_unknown_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = lora(f"unet.{PATH}", 640, 768, ("lora_A.weight", "lora_B.weight"))
    source = written(tmp_path / "a.safetensors", lora(KEY, 640, 768) | twice | {"strange": np.ones(1)})
    assert exit_code("convert", source, tmp_path / "b.safetensors") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "1 key that no reader understands, first strange and 2 keys of modules that the file has" in error
    assert exit_code("convert", source, tmp_path / "b.safetensors", "--drop-unknown") == 0
    assert "2 keys of modules that the file has under another name too, first" in capsys.readouterr().out


@pytest.mark.parametrize("leaf", ["magnitude", "lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_every_spelling_of_a_magnitude_is_doras(tmp_path: Path, leaf: str) -> None:
    tensors = lora(KEY, 640, 768) | {f"{KEY}.{leaf}": np.ones(640, np.float32)}
    module = read_contents(written(tmp_path / "a.safetensors", tensors)).modules[PATH]
    assert (module.algorithm, module.leaves["dora_scale"].shape) == ("dora", (640, 1))


def test_a_module_with_a_leaf_that_nobody_knows_goes_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = lora(KEY, 640, 768) | lora(other, 1280, 1280) | {f"{KEY}.gate": np.array(0.1, np.float32)}
    source = written(tmp_path / "a.safetensors", tensors)
    assert exit_code("convert", source, tmp_path / "b.safetensors") == 2
    assert "3 keys that no reader understands" in capsys.readouterr().err
    assert exit_code("convert", source, tmp_path / "b.safetensors", "--drop-unknown") == 0
    assert {key.partition(".")[0] for key in load_file(tmp_path / "b.safetensors")} == {other}
    capsys.readouterr()
    assert exit_code("inspect", source, "--json") == 0
    assert KEY in capsys.readouterr().out
    assert sorted(read_contents(source).unknown) == sorted(key for key in load_file(source) if key.startswith(KEY))


def peft_file(folder: Path, config: str) -> Path:
    """Write a PEFT adapter of one module with this config beside it."""
    (folder / "adapter_config.json").write_text(config)
    tensors = lora(f"base_model.model.{PATH}", 640, 768, ("lora_A.weight", "lora_B.weight"))
    return written(folder / "adapter_model.safetensors", tensors)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(([a-z_.0-9]+)+)+#", "could take very long"),
        ("(.*.*.*.*.*)x", "could take very long"),
        ("(a|a)*b", "could take very long"),
        ("[", "no regular expression"),
        ("attn2.to_k", 1.0),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 1.0),
        (r"attn\d\.to_[kv]", 1.0),
        (r"down_blocks.*to_k", 1.0),
        ("tn2.to_k", 4.0),
        ("to_q", 4.0),
    ],
)
def test_an_alpha_pattern_is_an_ending_and_never_takes_long(tmp_path: Path, pattern: str, found: str | float) -> None:
    source = peft_file(tmp_path, json.dumps({"lora_alpha": 4.0, "alpha_pattern": {pattern: 1.0}}))
    if isinstance(found, str):
        with pytest.raises(BwlabError, match=rf"alpha_pattern .*: .*{found}"):
            read_contents(source)
    else:
        assert read_contents(source).modules[PATH].alpha == found


@pytest.mark.parametrize("text", ["[" * 100_000, '{"lora_alpha": ' + "9" * 5000 + "}", '{"lora_alpha": NaN}'])
def test_json_that_costs_more_than_it_weighs_is_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("inspect", peft_file(tmp_path, text)) == 2
    error = capsys.readouterr().err
    assert "adapter_config.json next to it cannot be read" in " ".join(error.split())
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": {"b": Infinity}}', '{"a": {"b": 1e999}}', '{"a": {"b": ' + "9" * 5000 + "}}", "[3]", "{}"],
)
@pytest.mark.parametrize(
    "key", ["ss_tag_frequency", "ss_network_args", "lora_adapter_metadata", "bwlab.history", "unet"]
)
def test_metadata_of_strangers_stop_nothing(
    tmp_path: Path, key: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "a.safetensors", lora(KEY, 640, 768), {key: text})
    for command in (("inspect", source), ("convert", source, tmp_path / "b.safetensors")):
        assert exit_code(*command) == 0, capsys.readouterr().err
    assert exit_code("merge", source, source, "--out", tmp_path / "c.safetensors") == 0


@pytest.mark.parametrize(
    ("shape", "offsets", "found"),
    [
        ([2.5, 4], [0, 40], "no safetensors header"),
        ([True, 4], [0, 16], "no safetensors header"),
        ([2, 4], [8, 40], "share bytes, which the format forbids"),
    ],
)
def test_shapes_and_offsets_that_the_format_forbids(
    tmp_path: Path, shape: list[float], offsets: list[int], found: str
) -> None:
    first = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
    header = json.dumps({"x": first, "y": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(80))
    with pytest.raises(BwlabError, match=found):
        read_contents(file)
