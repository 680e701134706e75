"""Adapters for transformers: every dialect gives diffusers' deltas, and every written file is read back exactly.

The oracle is diffusers itself: the converters in `diffusers.loaders.lora_conversion_utils`, and models of its classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as converters
from numpy.typing import NDArray
from peft import PeftModel

import bwlab.plugins.builtin
import bwlab_lycoris.plugin
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.load import load_adapter
from bwlab.errors import BwlabError
from bwlab.formats.architecture import scheme_of
from bwlab.formats.contents import AdapterContents, shapes_of_modules
from bwlab.formats.dialects.comfyui import write_comfyui
from bwlab.formats.dialects.diffusers import write_diffusers
from bwlab.formats.dialects.kohya import write_kohya, write_ldm
from bwlab.formats.dialects.peft import write_peft
from bwlab.formats.fused import FusedRows
from bwlab.formats.modules import ModuleWeights, scaled_module
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab.plugins.manager import build_manager
from bwlab_lycoris.layers import LAYERS
from tests.formats.transformers_made import (
    WIDTHS,
    dotted_keys,
    effect,
    effects,
    factors,
    flux_layers,
    kohya_keys,
    layers_of,
    probes,
    sd3_layers,
    write,
)

State = dict[str, torch.Tensor]
MUSUBI = converters._convert_musubi_wan_lora_to_diffusers
NEXT_DIT = ("noise_refiner", "context_refiner", "layers")


def no_tensors() -> dict[str, NDArray[np.float32]]:
    return {}


def by_diffusers(tensors: Mapping[str, NDArray[np.float32]], convert: Callable[[State], State]) -> dict[str, Any]:
    """Return the effect of each layer by its path in the transformer, as diffusers converts the file."""
    state = convert({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
    found = {}
    for key, down in state.items():
        if key.endswith(".lora_A.weight"):
            path = key.removesuffix(".lora_A.weight")
            up = state[f"{path}.lora_B.weight"].double().numpy()
            found[path.removeprefix("transformer.")] = up @ (down.double().numpy() @ probes(down.shape[1]))
    return found


def assert_same(own: Mapping[str, Any], other: Mapping[str, Any], limit: float = 1e-6) -> None:
    assert own.keys() == other.keys()
    for path, value in own.items():
        assert np.abs(value - other[path]).max() <= limit * np.abs(other[path]).max(), path


def inside(architecture: str) -> dict[str, tuple[int, int]]:
    return {
        name: shape for name, shape in layers_of(architecture).items() if "block" in name or name.startswith(NEXT_DIT)
    }


def xlabs_keys() -> dict[str, NDArray[np.float32]]:
    names = {
        "qkv_lora1": (9216, 3072),
        "proj_lora1": (3072, 3072),
        "qkv_lora2": (9216, 3072),
        "proj_lora2": (3072, 3072),
    }
    made = factors({f"double_blocks.0.processor.{name}": shape for name, shape in names.items()})
    made |= factors(
        {"single_blocks.3.processor.qkv_lora": (9216, 3072), "single_blocks.3.processor.proj_lora": (3072, 15360)}
    )
    return {
        f"{name}.{leaf}.weight": f for name, pair in made.items() for leaf, f in zip(("down", "up"), pair, strict=True)
    }


def split_qkv_keys() -> dict[str, NDArray[np.float32]]:
    """Return a file that sd-scripts wrote with `split_qkv=True`: stacked downs and block-diagonal ups."""
    draw, tensors = np.random.default_rng(3), no_tensors()
    for name, sizes in (
        ("lora_unet_double_blocks_2_img_attn_qkv", [3072] * 3),
        ("lora_unet_single_blocks_1_linear1", [3072] * 3 + [12288]),
    ):
        up = np.zeros((sum(sizes), 2 * len(sizes)), np.float32)
        for index, size in enumerate(sizes):
            rows = slice(sum(sizes[:index]), sum(sizes[: index + 1]))
            up[rows, 2 * index : 2 * index + 2] = draw.standard_normal((size, 2))
        tensors |= {
            f"{name}.lora_down.weight": draw.standard_normal((2 * len(sizes), 3072)).astype(np.float32),
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": np.array(5.0, np.float32),
        }
    return tensors


@pytest.mark.parametrize(
    ("architecture", "tensors", "convert"),
    [
        ("flux", kohya_keys(layers_of("flux")), converters._convert_kohya_flux_lora_to_diffusers),
        ("flux", split_qkv_keys(), converters._convert_kohya_flux_lora_to_diffusers),
        ("flux", xlabs_keys(), converters._convert_xlabs_flux_lora_to_diffusers),
        ("flux2", dotted_keys(layers_of("flux2")), converters._convert_non_diffusers_flux2_lora_to_diffusers),
        ("flux2", kohya_keys(layers_of("flux2")), converters._convert_kohya_flux2_lora_to_diffusers),
        ("qwen-image", kohya_keys(layers_of("qwen-image")), converters._convert_non_diffusers_qwen_lora_to_diffusers),
        ("qwen-image", dotted_keys(layers_of("qwen-image")), converters._convert_non_diffusers_qwen_lora_to_diffusers),
        ("z-image", kohya_keys(inside("z-image")), converters._convert_non_diffusers_z_image_lora_to_diffusers),
        ("lumina2", dotted_keys(layers_of("lumina2")), converters._convert_non_diffusers_lumina2_lora_to_diffusers),
        ("wan", kohya_keys(layers_of("wan")), MUSUBI),
        ("wan", dotted_keys(layers_of("wan")), converters._convert_non_diffusers_wan_lora_to_diffusers),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "file")[:40],
)
def test_deltas_are_those_of_diffusers_converters(
    architecture: str, tensors: dict[str, NDArray[np.float32]], convert: Callable[[State], State], tmp_path: Path
) -> None:
    # The metadata lie, as those of many files do: keys and shapes decide.
    contents = read_contents(write(tmp_path / "a.safetensors", tensors, {"ss_base_model_version": "sd_1.5"}))
    assert contents.architecture == architecture
    assert contents.unknown == ()
    assert_same(effects(contents.modules.values()), by_diffusers(tensors, convert))


@pytest.mark.parametrize("architecture", WIDTHS)
@pytest.mark.parametrize("form", [write_kohya, write_comfyui, write_diffusers, write_peft])
def test_written_files_are_read_back_with_the_same_deltas(
    architecture: str, form: Callable[..., None], tmp_path: Path
) -> None:
    tensors = kohya_keys(layers_of(architecture))
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    out = tmp_path / ("folder" if form is write_peft else "b.safetensors")
    form(contents, out)
    again = read_contents(out / "transformer/adapter_model.safetensors" if form is write_peft else out)
    assert again.architecture == architecture
    assert_same(effects(again.modules.values()), effects(contents.modules.values()))
    if form is write_kohya:
        file = open_adapter_file(out)
        assert file.entries.keys() == tensors.keys()
        assert all(np.array_equal(file.read(key), value) for key, value in tensors.items())


def test_split_qkv_files_give_modules_of_the_rank_of_a_block_and_are_written_bit_for_bit(tmp_path: Path) -> None:
    tensors = split_qkv_keys()
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    assert {module.rank() for module in contents.modules.values()} == {2}
    write_kohya(contents, tmp_path / "b.safetensors")
    file = open_adapter_file(tmp_path / "b.safetensors")
    assert all(np.array_equal(file.read(key), value) for key, value in tensors.items())


def test_fused_factors_with_alpha_0_or_of_zeros_are_read(tmp_path: Path) -> None:
    """What is wrong with numbers is for `inspect` to say; zeros have no blocks on their diagonal."""
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    tensors = {
        f"{name}.lora_down.weight": np.ones((6, 64), np.float32),
        f"{name}.lora_up.weight": np.zeros((192, 6), np.float32),
    }
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    assert {module.rank() for module in contents.modules.values()} == {6}
    up = np.zeros((192, 6), np.float32)
    up[:64, :2] = up[64:128, 2:4] = up[128:, 4:] = 1
    tensors |= {f"{name}.lora_up.weight": up, f"{name}.alpha": np.array(0.0, np.float32)}
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    assert {(module.rank(), module.alpha) for module in contents.modules.values()} == {(2, 0.0)}


def test_separate_layers_are_fused_block_diagonally_and_exactly(tmp_path: Path) -> None:
    """Ranks and alphas differ, and one layer is missing: the fused LoRA has the sum of the ranks."""
    draw, tensors = np.random.default_rng(1), no_tensors()
    for name, rank, alpha in (("to_q", 2, 1.0), ("to_v", 3, 6.0)):
        root = f"transformer.transformer_blocks.0.attn.{name}"
        tensors |= {
            f"{root}.lora_A.weight": draw.standard_normal((rank, 64)).astype(np.float32),
            f"{root}.lora_B.weight": draw.standard_normal((64, rank)).astype(np.float32),
            f"{root}.alpha": np.array(alpha, np.float32),
        }
    contents = read_contents(write(tmp_path / "a.safetensors", tensors, {"bwlab.scheme": "sd3"}))
    assert contents.architecture == "sd3"
    write_kohya(contents, tmp_path / "b.safetensors")
    file = open_adapter_file(tmp_path / "b.safetensors")
    root = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    assert file.entries[f"{root}.lora_up.weight"].shape == (192, 5)
    again = read_contents(tmp_path / "b.safetensors")
    assert again.architecture == "sd3"
    for path, module in contents.modules.items():
        assert np.allclose(effect(again.modules[path]), effect(module), rtol=1e-6)
    assert not effect(again.modules["transformer_blocks.0.attn.to_k"]).any()


def test_a_split_down_is_shared_and_read_once_for_each_layer(tmp_path: Path) -> None:
    contents = read_contents(write(tmp_path / "a.safetensors", kohya_keys(layers_of("sd3"))))
    q, k = (contents.modules[f"transformer_blocks.0.attn.to_{name}"] for name in "qk")
    assert q.leaves["lora_down.weight"] is k.leaves["lora_down.weight"]
    assert q.leaves["lora_up.weight"].shape == (64, 4)


def dense(module: ModuleWeights) -> NDArray[np.float64]:
    return np.asarray(module.delta(), np.float64)


@pytest.mark.parametrize(
    ("algorithm", "leaves"),
    [
        ("lokr", {"lokr_w1": (8, 4), "lokr_w2_a": (24, 2), "lokr_w2_b": (2, 16)}),
        ("lokr", {"lokr_w1": (6, 4), "lokr_w2": (32, 16)}),
        ("loha", {"hada_w1_a": (192, 2), "hada_w1_b": (2, 64), "hada_w2_a": (192, 2), "hada_w2_b": (2, 64)}),
        ("full", {"diff": (192, 64)}),
    ],
    ids=["lokr across layers", "lokr within layers", "loha", "full"],
)
@pytest.mark.parametrize("form", [write_kohya, write_comfyui])
def test_other_algorithms_on_a_fused_matrix_split_by_rows_and_are_written_bit_for_bit(
    algorithm: str, leaves: dict[str, tuple[int, ...]], form: Callable[..., None], tmp_path: Path
) -> None:
    draw = np.random.default_rng(4)
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    tensors = {f"{name}.{leaf}": draw.standard_normal(shape).astype(np.float32) for leaf, shape in leaves.items()}
    if algorithm != "full":
        tensors[f"{name}.alpha"] = np.array(1.0, np.float32)
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    own = {leaf.split(".", 1)[1]: value.astype(np.float64) for leaf, value in tensors.items()}
    if algorithm == "lokr":
        second = own["lokr_w2"] if "lokr_w2" in own else own["lokr_w2_a"] @ own["lokr_w2_b"] / 2
        whole = np.kron(own["lokr_w1"], second)
    elif algorithm == "loha":
        whole = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"]) / 2
    else:
        whole = own["diff"]
    paths = [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"]
    assert list(contents.modules) == paths
    for path, rows in zip(paths, np.split(whole, 3), strict=True):
        assert np.allclose(dense(contents.modules[path]), rows, rtol=1e-6)
        matrix = contents.modules[path].matrix()
        assert np.allclose(matrix if isinstance(matrix, np.ndarray) else matrix.dense(), rows, rtol=1e-6)
        assert contents.modules[path].shape == (64, 64)
    form(contents, tmp_path / "b.safetensors")
    again = read_contents(tmp_path / "b.safetensors")
    for path in paths:
        assert np.array_equal(dense(again.modules[path]), dense(contents.modules[path]))
    if form is write_kohya:
        file = open_adapter_file(tmp_path / "b.safetensors")
        assert all(np.array_equal(file.read(key), value) for key, value in tensors.items())
    halved = scaled_module(contents.modules[paths[1]], 0.5)
    assert np.allclose(dense(halved), np.split(whole, 3)[1] / 2, rtol=1e-6)


def test_rows_of_a_lokr_that_were_scaled_apart_keep_their_layers(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    shapes = {"lokr_w1": (8, 4), "lokr_w2": (24, 16)}
    tensors = {f"{name}.{leaf}": draw.standard_normal(shape).astype(np.float32) for leaf, shape in shapes.items()}
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    modules = dict(contents.modules)
    path = "transformer_blocks.0.attn.to_k"
    assert isinstance(modules[path], FusedRows)
    modules[path] = scaled_module(modules[path], 0.5)
    with pytest.raises(BwlabError, match="--rank"):
        write_kohya(dataclasses.replace(contents, modules=modules), tmp_path / "b.safetensors")


def test_dora_on_a_fused_matrix(tmp_path: Path) -> None:
    """Lengths of rows split with the rows; lengths of columns need the weights of all layers at once."""
    draw = np.random.default_rng(6)
    weight = draw.standard_normal((192, 64))
    weights = {f"transformer_blocks.0.attn.to_{x}": w for x, w in zip("qkv", np.split(weight, 3), strict=True)}
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    for shape in ((192, 1), (1, 64)):
        tensors = kohya_keys({"joint_blocks.0.x_block.attn.qkv": (192, 64)})
        tensors[f"{name}.dora_scale"] = np.abs(draw.standard_normal(shape)).astype(np.float32) + 1
        contents = read_contents(write(tmp_path / "a.safetensors", tensors))
        down, up = (tensors[f"{name}.lora_{leaf}.weight"].astype(np.float64) for leaf in ("down", "up"))
        changed = weight + up @ down * 0.5
        lengths = np.linalg.norm(changed, axis=1 if shape[0] > 1 else 0, keepdims=True)
        expected = changed / lengths * tensors[f"{name}.dora_scale"] - weight
        parts = [module.matrix(weights.__getitem__) for module in contents.modules.values()]
        assert np.allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]
        write_kohya(contents, tmp_path / "b.safetensors")
        file = open_adapter_file(tmp_path / "b.safetensors")
        assert all(np.array_equal(file.read(key), value) for key, value in tensors.items())


def test_final_layers_swap_shift_and_scale(tmp_path: Path) -> None:
    """Diffusers' conversion of checkpoints swaps the halves of these weights (convert_sd3_to_diffusers.py)."""
    tensors = kohya_keys({"final_layer.adaLN_modulation.1": (128, 64), **sd3_layers(64)}, alpha=None)
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    for name, path in (
        ("final_layer_adaLN_modulation_1", "norm_out.linear"),
        ("joint_blocks_1_context_block_adaLN_modulation_1", "transformer_blocks.1.norm1_context.linear"),
    ):
        up, down = (tensors[f"lora_unet_{name}.lora_{leaf}.weight"].astype(np.float64) for leaf in ("up", "down"))
        assert np.allclose(dense(contents.modules[path]), np.roll(up, 64, axis=0) @ down, rtol=1e-6)
    first = "transformer_blocks.0.norm1_context.linear"
    unswapped = tensors["lora_unet_joint_blocks_0_context_block_adaLN_modulation_1.lora_up.weight"]
    assert np.array_equal(contents.modules[first].leaves["lora_up.weight"].read(), unswapped)


@pytest.mark.parametrize(
    ("keys", "architecture"),
    [
        (["transformer.transformer_blocks.0.attn.to_q"], "sd3"),
        (["transformer.transformer_blocks.0.attn.to_q", "transformer.single_transformer_blocks.0.attn.to_q"], "flux"),
        (["base_model.model.transformer_blocks.0.img_mlp.net.2"], "qwen-image"),
        (["layers.0.attention.to_q"], "z-image"),
        (["layers.0.attn.to_q"], "lumina2"),
        (["transformer.blocks.0.attn1.to_q"], "wan"),
        (["lora_transformer_single_transformer_blocks_0_proj_mlp"], "flux"),
        (["lycoris_transformer_blocks_0_attn_to_qkv_mlp_proj"], None),
        (["lycoris_single_transformer_blocks_0_attn_to_qkv_mlp_proj"], "flux2"),
        (["lycoris_layers_3_attention_to_v"], "z-image"),
    ],
)
def test_names_of_diffusers_in_the_prefixes_of_many_tools(
    keys: list[str], architecture: str | None, tmp_path: Path
) -> None:
    tensors = no_tensors()
    for key in keys:
        tensors |= {
            f"{key}.lora_A.weight": np.ones((2, 5), np.float32),
            f"{key}.lora_B.weight": np.ones((7, 2), np.float32),
        }
    if keys[0].startswith(("lora_", "lycoris_")):
        tensors = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for k, v in tensors.items()}
    file = write(tmp_path / "a.safetensors", tensors)
    if architecture is None:
        with pytest.raises(BwlabError, match="a transformer model that bwlab does not know"):
            read_contents(file)
        return
    assert read_contents(file).architecture == architecture


def test_the_width_tells_models_apart_and_the_metadata_decide_what_it_leaves_open(tmp_path: Path) -> None:
    def architecture(layer: str, shape: tuple[int, int], **metadata: str) -> str:
        file = write(tmp_path / "a.safetensors", dotted_keys({layer: shape}, "transformer."), metadata)
        return read_contents(file).architecture

    q = "transformer_blocks.7.attn.to_q"
    assert architecture(q, (3072, 3072)) == "flux"
    assert architecture(q, (1536, 1536)) == "sd3"
    assert architecture(q, (6144, 6144)) == "flux2"
    assert architecture("transformer_blocks.40.attn.to_q", (3072, 3072)) == "qwen-image"
    assert architecture(q, (3072, 3072), ss_base_model_version="chroma") == "chroma"
    assert architecture(q, (1536, 1536), ss_base_model_version="flux1") == "sd3"


def test_text_encoders_are_named_as_in_the_models_pipeline(tmp_path: Path) -> None:
    clip = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    t5 = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    for layers, expected in ((flux_layers(3072), "te2."), (sd3_layers(64), "te3.")):
        tensors = kohya_keys(dict(list(layers.items())[:2]))
        for name in (clip, t5):
            tensors |= {
                f"{name}.lora_down.weight": np.ones((2, 5), np.float32),
                f"{name}.lora_up.weight": np.ones((7, 2), np.float32),
            }
        contents = read_contents(write(tmp_path / "a.safetensors", tensors))
        assert "te.encoder.layers.0.mlp.fc1" in contents.modules
        assert f"{expected}encoder.block.0.layer.0.SelfAttention.q" in contents.modules
        for form in (write_kohya, write_comfyui, write_diffusers):
            form(contents, tmp_path / "b.safetensors")
            assert read_contents(tmp_path / "b.safetensors").modules.keys() == contents.modules.keys()
        write_kohya(contents, tmp_path / "b.safetensors")
        assert open_adapter_file(tmp_path / "b.safetensors").entries.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        (kohya_keys({"double_blocks.19.img_attn.proj": (3072, 3072)}), "it changes double19, and FLUX.1 has double0"),
        (kohya_keys({"single_blocks.38.linear1": (21504, 3072)}), "it changes single38"),
        (
            kohya_keys({"double_blocks.0.img_attn.proj": (64, 64), "joint_blocks.0.x_block.attn.proj": (64, 64)}),
            "belongs to FLUX.1, joint_blocks.0.x_block.attn.proj to Stable Diffusion 3",
        ),
        (
            kohya_keys({"double_blocks.0.img_attn.proj": (64, 64), "down_blocks.0.resnets.0.time_emb_proj": (64, 64)}),
            "belongs to a UNet, other modules to FLUX.1",
        ),
        (kohya_keys({"double_blocks.0.img_attn.qkv": (64, 64)}), "which is no matrix of 3 layers"),
        (
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": np.ones((192, 2), np.float32)},
            "but no lora_down.weight",
        ),
        (
            {
                **kohya_keys({"double_blocks.0.img_attn.qkv": (192, 64)}),
                **dotted_keys({"transformer_blocks.0.attn.to_q": (64, 64)}, "transformer."),
            },
            "two modules change transformer_blocks.0.attn.to_q",
        ),
        (dotted_keys({"transformer_blocks.0.attn1.to_q": (64, 64)}, "transformer."), "bwlab does not know"),
        (dotted_keys({f"double_blocks.{1900 * '9'}.img_attn.qkv": (192, 64)}), "bwlab does not know"),
    ],
)
def test_files_that_fit_no_model_are_one_line(
    tensors: dict[str, NDArray[np.float32]], found: str, tmp_path: Path
) -> None:
    with pytest.raises(BwlabError, match=found.replace(".", r"\.")) as caught:
        read_contents(write(tmp_path / "a.safetensors", tensors))
    assert "\n" not in str(caught.value)


def test_forms_that_cannot_hold_a_transformer(tmp_path: Path) -> None:
    contents = read_contents(write(tmp_path / "a.safetensors", kohya_keys(layers_of("sd3"))))
    with pytest.raises(BwlabError, match="Write it as kohya, comfyui or diffusers"):
        write_ldm(contents, tmp_path / "b.safetensors")
    unet = read_contents(
        write(tmp_path / "c.safetensors", kohya_keys({"down_blocks.0.resnets.0.time_emb_proj": (64, 64)}))
    )
    with pytest.raises(BwlabError, match="this form is one of transformers"):
        write_comfyui(unet, tmp_path / "b.safetensors")


def test_the_scheme_of_a_file(tmp_path: Path) -> None:
    def scheme(tensors: dict[str, NDArray[np.float32]]) -> Any:
        contents = read_contents(write(tmp_path / "a.safetensors", tensors))
        return scheme_of(contents.architecture, contents.shapes)

    assert len(scheme(kohya_keys({"double_blocks.3.img_attn.proj": (3072, 3072)})).blocks()) == 59
    small = scheme(kohya_keys({"joint_blocks.4.x_block.attn.proj": (64, 64)}))
    assert small.blocks() == ("te", "joint0", "joint1", "joint2", "joint3", "joint4", "rest")
    # A model of unknown width may have more blocks, so thirds would be another model's.
    assert "early" not in small.names()


def loaded_by_diffusers(model: Any, contents: AdapterContents, tmp_path: Path) -> Any:
    """Return a model with the adapter as diffusers loads the file that bwlab wrote."""
    from safetensors.torch import load_file

    write_diffusers(contents, tmp_path / "written.safetensors")
    metadata = json.loads(open_adapter_file(tmp_path / "written.safetensors").metadata["lora_adapter_metadata"])
    model.load_lora_adapter(load_file(tmp_path / "written.safetensors"), prefix="transformer", metadata=metadata)
    return model


def tiny(name: str) -> tuple[Any, dict[str, Any]]:
    """Return a random model of a class and inputs for it."""
    import diffusers

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(len(size)))

    heads = {"num_attention_heads": 2, "attention_head_dim": 16}
    double = {**heads, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 24}
    ids = {"img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(5, 3)}
    time = torch.tensor([0.5])
    torch.manual_seed(0)
    if name == "flux":
        model: Any = diffusers.FluxTransformer2DModel(
            **double, in_channels=8, pooled_projection_dim=12, axes_dims_rope=(4, 4, 8), guidance_embeds=True
        )
        inputs = {"pooled_projections": normal(1, 12), "guidance": torch.ones(1), **ids}
        return model, {
            "hidden_states": normal(1, 4, 8),
            "encoder_hidden_states": normal(1, 5, 24),
            "timestep": time,
            **inputs,
        }
    if name == "flux2":
        model = diffusers.Flux2Transformer2DModel(**double, in_channels=8, axes_dims_rope=(4, 4, 4, 4))
        ids = {"img_ids": torch.zeros(1, 4, 4), "txt_ids": torch.zeros(1, 5, 4)}
        inputs = {"hidden_states": normal(1, 4, 8), "encoder_hidden_states": normal(1, 5, 24)}
        return model, {**inputs, "timestep": time, "guidance": torch.ones(1), **ids}
    if name == "sd3":
        model = diffusers.SD3Transformer2DModel(
            **heads,
            num_layers=2,
            in_channels=4,
            out_channels=4,
            sample_size=8,
            patch_size=2,
            joint_attention_dim=24,
            caption_projection_dim=32,
            pooled_projection_dim=12,
            pos_embed_max_size=4,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        inputs = {"hidden_states": normal(1, 4, 8, 8), "encoder_hidden_states": normal(1, 5, 24)}
        return model, {**inputs, "pooled_projections": normal(1, 12), "timestep": torch.tensor([500.0])}
    if name == "qwen-image":
        model = diffusers.QwenImageTransformer2DModel(
            **heads, num_layers=1, in_channels=8, out_channels=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8)
        )
        inputs = {"hidden_states": normal(1, 4, 8), "encoder_hidden_states": normal(1, 5, 24), "timestep": time}
        return model, {**inputs, "encoder_hidden_states_mask": torch.ones(1, 5), "img_shapes": [[(1, 2, 2)]]}
    if name == "wan":
        model = diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=24,
            freq_dim=16,
            ffn_dim=40,
            num_layers=1,
        )
        return model, {
            "hidden_states": normal(1, 4, 1, 4, 4),
            "encoder_hidden_states": normal(1, 5, 24),
            "timestep": torch.tensor([500]),
        }
    if name == "lumina2":
        model = diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            in_channels=4,
            hidden_size=32,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 4, 8),
            axes_lens=(16, 8, 8),
            cap_feat_dim=24,
        )
        inputs = {"hidden_states": normal(1, 4, 4, 4), "encoder_hidden_states": normal(1, 5, 24), "timestep": time}
        return model, {**inputs, "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool)}
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 4, 8],
        axes_lens=[64, 16, 16],
    )
    return model, {"x": [normal(4, 1, 4, 4)], "t": time, "cap_feats": [normal(5, 24)]}


def output(model: Any, inputs: Mapping[str, Any]) -> Any:
    with torch.no_grad():
        result = model.eval()(**inputs, return_dict=False)[0]
    return result[0] if isinstance(result, list) else result


@pytest.mark.parametrize("name", ["flux", "flux2", "sd3", "qwen-image", "z-image", "lumina2", "wan"])
def test_diffusers_loads_what_bwlab_writes_and_computes_the_same(name: str, tmp_path: Path) -> None:
    model, inputs = tiny(name)
    linear = {
        path: tuple(layer.weight.shape)
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and ".0." in path
    }
    draw, tensors = np.random.default_rng(2), no_tensors()
    for path, (out, inner) in linear.items():
        rank = 2 if path.endswith(("to_q", "proj")) else 3
        tensors |= {
            f"transformer.{path}.lora_A.weight": (draw.standard_normal((rank, inner)) / 4).astype(np.float32),
            f"transformer.{path}.lora_B.weight": (draw.standard_normal((out, rank)) / 4).astype(np.float32),
        }
    first = read_contents(write(tmp_path / "a.safetensors", tensors))
    assert first.architecture == name
    # Through kohya's names and fused matrices, and back.
    write_kohya(first, tmp_path / "b.safetensors")
    contents = read_contents(tmp_path / "b.safetensors")
    before = output(model, inputs)
    with torch.no_grad():
        for path, module in contents.modules.items():
            model.get_submodule(path).weight += torch.from_numpy(module.delta(dtype=np.float32))
    expected = output(model, inputs)
    fresh, _ = tiny(name)
    found = output(loaded_by_diffusers(fresh, contents, tmp_path), inputs)
    assert (expected - before).abs().max() > 1e-3
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_a_rank_of_a_name_that_ends_others_is_not_theirs(tmp_path: Path) -> None:
    model, inputs = tiny("flux")
    inner = "single_transformer_blocks.0.proj_out"
    ranks = {"proj_out": 1, inner: 3, "single_transformer_blocks.0.proj_mlp": 3}
    draw, tensors = np.random.default_rng(2), no_tensors()
    for path, rank in ranks.items():
        for letter, shape in zip("AB", ((rank, model.get_submodule(path).in_features), (-1, rank)), strict=True):
            rows = model.get_submodule(path).out_features if shape[0] < 0 else shape[0]
            factor = (draw.standard_normal((rows, shape[1])) / 4).astype(np.float32)
            tensors[f"transformer.{path}.lora_{letter}.weight"] = factor
    contents = read_contents(write(tmp_path / "a.safetensors", tensors))
    write_peft(contents, tmp_path / "p")
    by_peft = output(PeftModel.from_pretrained(tiny("flux")[0], tmp_path / "p", subfolder="transformer"), inputs)
    by_diffusers = output(loaded_by_diffusers(tiny("flux")[0], contents, tmp_path), inputs)
    files = (tmp_path / "p" / "transformer" / "adapter_model.safetensors", tmp_path / "written.safetensors")
    for file in files:
        scales = {path: module.scale() for path, module in read_contents(file).modules.items()}
        assert scales == dict.fromkeys(ranks, 1.0)
    with torch.no_grad():
        for path, module in contents.modules.items():
            model.get_submodule(path).weight += torch.from_numpy(module.delta(dtype=np.float32))
    expected = output(model, inputs)
    assert (by_peft - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (by_diffusers - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_rows_of_a_fused_lokr_are_loaded_beside_a_plugin_for_lokr(tmp_path: Path) -> None:
    model, inputs = tiny("flux")
    fused, whole = "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_attn_proj"
    draw, tensors = np.random.default_rng(4), no_tensors()
    for name, second in ((fused, (24, 8)), (whole, (8, 8))):
        tensors[f"{name}.lokr_w1"] = draw.standard_normal((4, 4)).astype(np.float32)
        tensors[f"{name}.lokr_w2"] = (draw.standard_normal(second) / 8).astype(np.float32)
    file = write(tmp_path / "a.safetensors", tensors)
    contents = read_contents(file)
    assert sum(isinstance(module, FusedRows) for module in contents.modules.values()) == 3
    manager = build_manager([bwlab_lycoris.plugin, bwlab.plugins.builtin], installed=False)
    adapter = load_adapter(file, model, manager, scheme_of("flux", shapes_of_modules(contents.modules), {}))
    assert type(adapter.layers["transformer_blocks.0.attn.to_out.0"]) is LAYERS["lokr"]
    with attach(model, ScaledAdapter(adapter)):
        found = output(model, inputs)
    with torch.no_grad():
        for path, module in contents.modules.items():
            model.get_submodule(path).weight += torch.from_numpy(module.delta(dtype=np.float32))
    expected = output(model, inputs)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
