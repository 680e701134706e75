"""Saving and loading kohya files: bits, one alpha, types, metadata, and every kind of bad file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from bwlab import files as atomic
from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.load import load_adapter
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.adapters.save import save_adapter
from bwlab.blocks.configs import SD14, SD21, SDXL, DenoiserConfig, meta_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab.plugins.manager import PluginManager, build_manager
from tests.formats.adapters_made import TYPES, trained

Change = Callable[[dict[str, Tensor]], object]


def changed(source: Path, change: Change, metadata: dict[str, str] | None = None) -> Path:
    """Return a copy of a file with its tensors changed and its metadata replaced."""
    tensors = load_file(source)
    change(tensors)
    target = source.with_name("changed.safetensors")
    save_file(tensors, target, metadata=metadata)
    return target


def saved(folder: Path, unet: UNet2DConditionModel, scheme: BlockScheme, type_name: str, spec: str) -> Path:
    path = folder / "adapter.safetensors"
    save_adapter(trained(unet, scheme, type_name, spec, 1.5), path)
    return path


@pytest.mark.parametrize("type_name", ["lora", "locon"])
def test_saving_computes_no_delta(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    """What the leaves of LoRA mean is asked only of types that compute something of their own."""

    def refuse(*_: object) -> None:
        raise AssertionError("a delta was computed")

    monkeypatch.setattr(LowRankLayer, "factors", refuse)
    assert saved(tmp_path, unet, scheme, type_name, "all=2").is_file()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("type_name", ["lora", "locon"])
def test_a_file_round_trips_bit_for_bit(
    tmp_path: Path,
    unet: UNet2DConditionModel,
    scheme: BlockScheme,
    manager: PluginManager,
    type_name: str,
    dtype: torch.dtype,
) -> None:
    adapter = trained(unet, scheme, type_name, "upper=3, mid=2", 1.7).to(dtype=dtype)
    save_adapter(adapter, tmp_path / "a.safetensors", {"bwlab.config": "steps = 3"})
    loaded = load_adapter(tmp_path / "a.safetensors", unet, manager, scheme)
    assert loaded.type_name == type_name
    assert loaded.metadata["bwlab.config"] == "steps = 3"
    assert list(loaded.layers) == list(adapter.layers)
    for path, layer in adapter.layers.items():
        again = loaded.layers[path].tensors()
        for leaf, tensor in layer.tensors().items():
            assert again[leaf].dtype == tensor.dtype
            assert torch.equal(again[leaf], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_saved_twice_has_the_same_bytes(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    adapter = trained(unet, scheme, "locon", "upper=3, mid=2", None)
    save_adapter(adapter, tmp_path / "a.safetensors")
    save_adapter(load_adapter(tmp_path / "a.safetensors", unet, manager, scheme), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_different_alphas_are_folded_into_one_and_keep_their_deltas(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    adapter = trained(unet, scheme, "locon", "in0=6, mid=5, out3=7", None)
    assert {layer.alpha for layer in adapter.layers.values()} == {5.0, 6.0, 7.0}
    save_adapter(adapter, tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert len({float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}) == 1
    loaded = dict(load_adapter(tmp_path / "a.safetensors", unet, manager, scheme).deltas())
    for path, delta in adapter.deltas():
        torch.testing.assert_close(loaded[path], delta.detach(), atol=1e-7, rtol=1e-6)


def test_upper_only_has_keys_of_the_first_and_the_last_block_only(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme
) -> None:
    keys = open_adapter_file(saved(tmp_path, unet, scheme, "locon", "upper=4")).entries
    blocks = {"_".join(key.removeprefix("lora_unet_").split("_")[:3]) for key in keys}
    assert blocks == {"down_blocks_0", "up_blocks_3"}


def test_a_smaller_dtype_can_be_asked_for_and_alpha_stays_exact(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme
) -> None:
    save_adapter(trained(unet, scheme, "lora", "mid=2", 257.0), tmp_path / "a.safetensors", dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "a.safetensors")
    dtypes = {tensor.dtype for key, tensor in tensors.items() if not key.endswith(".alpha")}
    assert dtypes == {torch.bfloat16}
    assert {float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")} == {257.0}


def test_other_tools_files_are_lora_or_locon_by_what_they_hold(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    for type_name, spec in (("lora", "all=2"), ("lora", "in0=2"), ("locon", "all=2"), ("locon", "in3=2")):
        plain = changed(saved(tmp_path, unet, scheme, type_name, spec), lambda tensors: None)
        assert load_adapter(plain, unet, manager, scheme).type_name == type_name


def test_a_missing_alpha_means_the_rank(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    def drop_alpha(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if key.endswith(".alpha")]:
            del tensors[key]

    plain = changed(saved(tmp_path, unet, scheme, "lora", "mid=3"), drop_alpha)
    assert {layer.alpha for layer in load_adapter(plain, unet, manager, scheme).layers.values()} == {3.0}


def test_metadata_that_other_tools_read(tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = trained(unet, scheme, "locon", "in0=3, mid=2", 1.5)
    save_adapter(adapter, tmp_path / "a.safetensors", {"ss_steps": "100"})
    metadata = open_adapter_file(tmp_path / "a.safetensors").metadata
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == "Dynamic"
    assert metadata["ss_network_alpha"] == "1.5"
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "1.5"}
    assert json.loads(metadata["bwlab.ranks"]) == {"in0": [3], "mid": [2]}
    assert metadata["bwlab.adapter_type"] == "locon"
    assert metadata["bwlab.scheme"] == "sd"
    assert metadata["ss_steps"] == "100"


@pytest.mark.parametrize(
    ("config", "version", "is_v2"),
    [(SD14, "sd_v1", "False"), (SD21, "sd_v2", "True"), (SDXL, "sdxl_base_v1-0", "False")],
)
def test_metadata_names_the_generation(tmp_path: Path, config: DenoiserConfig, version: str, is_v2: str) -> None:
    model, scheme = meta_unet(config), scheme_for(config)
    adapter = create_adapter(model, TYPES["lora"], parse_spec("mid=1", scheme, kind="rank"), 1.0, scheme=scheme)
    for layer in adapter.layers.values():
        layer.to_empty(device="cpu")
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    save_adapter(adapter, tmp_path / "a.safetensors")
    metadata = open_adapter_file(tmp_path / "a.safetensors").metadata
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == is_v2
    assert metadata["ss_network_dim"] == "1"
    assert "ss_network_args" not in metadata


def tiny_clip() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=30,
            hidden_size=24,
            intermediate_size=28,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def test_the_text_encoder_round_trips_under_its_old_names(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    encoder, path = tiny_clip(), tmp_path / "a.safetensors"
    adapter = trained(unet, scheme, "lora", "mid=2, te=2", 1.0, encoder)
    save_adapter(adapter, path)
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in open_adapter_file(path).entries
    assert list(load_adapter(path, unet, manager, scheme, text_encoder=encoder).layers) == list(adapter.layers)
    with pytest.raises(BwlabError, match="load it with the text encoder"):
        load_adapter(path, unet, manager, scheme)


def test_a_full_disk_leaves_the_earlier_adapter(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: IO[bytes], pieces: Iterable[bytes]) -> None:
        file.write(b"".join(pieces)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = saved(tmp_path, unet, scheme, "lora", "mid=2")
    before = path.read_bytes()
    monkeypatch.setattr(atomic, "_write_and_sync", full)
    with pytest.raises(BwlabError, match="No space left on device"):
        save_adapter(trained(unet, scheme, "lora", "all=3", 1.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_neither_saved_nor_loaded(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    def poison(tensors: dict[str, Tensor]) -> None:
        next(tensor for key, tensor in tensors.items() if key.endswith("up.weight")).view(-1)[0] = float("nan")

    path = changed(saved(tmp_path, unet, scheme, "lora", "mid=2"), poison)
    with pytest.raises(BwlabError, match=r"1 of the \d+ numbers of lora_unet_mid_block.* are NaN or infinite"):
        load_adapter(path, unet, manager, scheme)
    adapter = trained(unet, scheme, "lora", "mid=2", 1.0)
    with torch.no_grad():
        next(adapter.parameters()).fill_(float("inf"))
    with pytest.raises(BwlabError, match="NaN or infinity"):
        save_adapter(adapter, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_an_adapter_for_wider_layers_is_one_error(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    wide = UNet2DConditionModel.from_config({**unet.config, "block_out_channels": (8, 12, 16, 24)})
    path = saved(tmp_path, wide, scheme, "locon", "all=2")
    with pytest.raises(BwlabError, match=r"loading adapter .*: down_blocks\.\d.*made for another model"):
        load_adapter(path, unet, manager, scheme)


def test_an_adapter_with_foreign_layers_is_one_error(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    shallow = UNet2DConditionModel.from_config({**unet.config, "layers_per_block": 1})
    path = saved(tmp_path, unet, scheme, "locon", "all=2")
    with pytest.raises(BwlabError, match=r"the model lacks .* made for another architecture"):
        load_adapter(path, shallow, manager, scheme_for(dict(shallow.config)))


def test_missing_and_foreign_leaves_are_errors(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    source = saved(tmp_path, unet, scheme, "lora", "mid=2")

    def without_up(tensors: dict[str, Tensor]) -> object:
        return tensors.pop("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight")

    def with_dora(tensors: dict[str, Tensor]) -> None:
        tensors["lora_unet_mid_block_attentions_0_proj_in.dora_scale"] = torch.ones(3)

    with pytest.raises(BwlabError, match=r"attentions\.0\.proj_in: it has lora_down\.weight, but no lora_up"):
        load_adapter(changed(source, without_up), unet, manager, scheme)
    with pytest.raises(BwlabError, match=r"attentions\.0\.proj_in: dora_scale \(3,\) does not fit a weight of"):
        load_adapter(changed(source, with_dora), unet, manager, scheme)


def test_a_type_that_no_plugin_provides_is_loaded_by_its_leaves_or_refused(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    source = saved(tmp_path, unet, scheme, "lora", "mid=2")
    named = changed(source, lambda tensors: None, {"bwlab.adapter_type": "ortho"})
    assert load_adapter(named, unet, manager, scheme).type_name == "lora"
    with pytest.raises(BwlabError, match="Install a plugin for it; types here: none"):
        load_adapter(named, unet, build_manager(installed=False), scheme)


def test_the_registered_formats_read_a_saved_adapter(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager
) -> None:
    adapter = trained(unet, scheme, "locon", "mid=2", 1.0)
    save_adapter(adapter, tmp_path / "a.safetensors", {"bwlab.note": "x"})
    contents = read_contents(tmp_path / "a.safetensors", manager)
    assert contents.dialect == "kohya"
    assert set(contents.modules) == set(adapter.layers)
    assert {"FormatReader kohya", "FormatWriter kohya"} <= {
        f"{type(form).__name__} {form.name}" for form in manager.formats()
    }


def test_an_adapter_of_sdxl_names_its_text_encoders_1_and_2(tmp_path: Path, sdxl_unet: UNet2DConditionModel) -> None:
    scheme = scheme_for(dict(sdxl_unet.config))
    adapter = trained(sdxl_unet, scheme, "lora", "mid=2, te=2", 1.0, [tiny_clip(), tiny_clip()])
    save_adapter(adapter, tmp_path / "a.safetensors")
    prefixes = {key.split("_")[1] for key in open_adapter_file(tmp_path / "a.safetensors").entries}
    assert prefixes == {"unet", "te1", "te2"}
