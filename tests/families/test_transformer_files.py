"""Transformers in single files, in the layout of the original code, beside the folder of their pipeline."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor

import bwlab
from bwlab.base.families.transformer_file import OTHER_NAMES
from bwlab.base.load import load_base
from bwlab.formats.transformer_names import TABLES, named
from tests.families.commands import PROMPT, command, pixels, run

CONVERTERS = {
    "sd3": "convert_sd3_transformer_checkpoint_to_diffusers",
    "flux": "convert_flux_transformer_checkpoint_to_diffusers",
    "z-image": "convert_z_image_transformer_checkpoint_to_diffusers",
}


def converter(family: str, width: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return diffusers' own converter; that of FLUX.1 has the width of the real model in its code."""
    if family not in CONVERTERS:
        return lambda checkpoint: checkpoint
    source = inspect.getsource(getattr(single_file_utils, CONVERTERS[family]))
    names: dict[str, Any] = dict(vars(single_file_utils))
    exec(re.sub(r"\b3072\b", str(width), source), names)
    own: Callable[[dict[str, Tensor]], dict[str, Tensor]] = names[CONVERTERS[family]]
    return own


def in_original_layout(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Return a transformer's tensors by the names of the original code."""
    others = {target: name for name, target in OTHER_NAMES[family].items()}
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        place, layer = named(path), TABLES[family].get(named(path).template)
        if layer is None:
            whole = named(name)
            key = whole.numbered(others.get(whole.template, whole.template))
            pieces[key] = [(0, tensor)]
            continue
        weight = state[f"{path}.weight"]
        last_text = path.endswith("norm1_context.linear") and len(weight) == 2 * weight.shape[1]
        piece = tensor.roll(len(tensor) // 2, 0) if layer.swapped or last_text else tensor
        pieces.setdefault(f"{place.numbered(layer.name)}.{leaf}", []).append((layer.paths.index(place.template), piece))
    return {
        key: torch.cat([piece for _, piece in sorted(own, key=lambda entry: entry[0])]).contiguous()
        for key, own in pieces.items()
    }


@pytest.fixture
def beside(base: Path, tmp_path: Path) -> Path:
    """Return a copy of a base's folder that has the transformer's config and not its weights."""
    folder = tmp_path / "beside"
    shutil.copytree(base, folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    return folder


def state_of(folder: Path) -> dict[str, Tensor]:
    [file] = (folder / "transformer").glob("*.safetensors")
    return safetensors.torch.load_file(file)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_in_the_original_layout_is_the_folder_s_transformer(
    base: Path, beside: Path, family: str, prefix: str, tmp_path: Path
) -> None:
    state = state_of(base)
    original = in_original_layout(state, family)
    config = bwlab.load_base(base).transformer.config
    theirs = converter(family, config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0))
    expected = theirs({key: tensor.clone() for key, tensor in original.items()})
    assert expected.keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in expected.items())
    assert family == "qwen-image" or original.keys() != state.keys()
    file = beside / "tuned.safetensors"
    extra = {"first_stage_model.decoder.conv_in.weight": torch.zeros(2)} if prefix else {}
    safetensors.torch.save_file({f"{prefix}{key}": tensor for key, tensor in original.items()} | extra, file)
    loaded = load_base(file)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.transformer.state_dict().items())
    if prefix:
        mine, its = (
            pixels(bwlab.generate(pipe, PROMPT, seeds=[1], steps=2, cfg=1)[0]) for pipe in (loaded, load_base(base))
        )
        assert np.array_equal(mine, its)
        run("blocks", file)


def test_a_file_in_diffusers_layout_is_read_too(base: Path, beside: Path) -> None:
    state = {key: tensor + 1 for key, tensor in state_of(base).items()}
    safetensors.torch.save_file(state, beside / "tuned.safetensors")
    loaded = load_base(beside / "tuned.safetensors").transformer.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())


@pytest.mark.parametrize("family", ["z-image"])
def test_a_transformer_is_not_merged_into_a_single_file(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter.safetensors"
    factors = {"lora_A": torch.ones(2, 24), "lora_B": torch.ones(24, 2)}
    tensors = {f"transformer.layers.0.attention.to_q.{name}.weight": tensor for name, tensor in factors.items()}
    safetensors.torch.save_file(tensors, adapter)
    assert command("merge", adapter, "--into", base, "--out", tmp_path / "merged.safetensors") == 2
    assert capsys.readouterr().err.count("bwlab: error") == 1
    run("merge", adapter, "--into", base, "--out", tmp_path / "merged")
    before, after = state_of(base), state_of(tmp_path / "merged")
    changed = {key for key, tensor in before.items() if not torch.allclose(tensor, after[key], atol=1e-3)}
    assert changed == {"layers.0.attention.to_q.weight"}


@pytest.mark.parametrize("family", ["flux"])
def test_wrong_files_are_refused_in_one_line(
    base: Path, beside: Path, family: str, qwen_image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = in_original_layout(state_of(base), family)

    def said(folder: Path, tensors: Mapping[str, Tensor]) -> str:
        file = folder / "tuned.safetensors"
        safetensors.torch.save_file(dict(tensors), file)
        assert command("generate", "--base", file, "--prompt", "x", "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.count("bwlab: error") == 1
        return error

    qwen, alone = tmp_path / "qwen", tmp_path / "alone"
    shutil.copytree(qwen_image_folder, qwen)
    alone.mkdir()
    assert "Qwen-Image" in said(qwen, state)
    assert "model_index.json" in said(alone, state)
    fewer = {key: tensor for key, tensor in state.items() if not key.startswith("single_blocks.2.")}
    assert "lacks" in said(beside, fewer)
    assert "scale_weight" in said(beside, state | {"double_blocks.0.img_attn.qkv.scale_weight": torch.ones(1)})
    assert "other shapes" in said(beside, state | {"img_in.weight": torch.zeros(4, 4)})
