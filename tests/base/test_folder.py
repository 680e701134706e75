"""Folders of pipelines, names on the hub, and every wrong one with its one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.base.models import text_encoders
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager


@pytest.fixture
def copied(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny pipeline that a test may break."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "base"))


def test_an_sdxl_folder_loads(tiny_xl_pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipe = load_base(tiny_xl_pipeline)
    assert isinstance(pipe, StableDiffusionXLPipeline)
    assert pipe.watermark is None
    assert not any(model.training for model in (pipe.unet, pipe.vae, *text_encoders(pipe)))
    assert base_scheme(pipe, build_manager().block_schemes()).name == "sdxl"
    assert capfd.readouterr() == ("", "")


def test_names_on_the_hub_are_downloaded(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options))
        return str(tiny_pipeline)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert weights_hash(load_base("owner/name-1.0")) == weights_hash(load_base(tiny_pipeline))
    assert [name for name, _ in asked] == ["owner/name-1.0"]
    assert asked[0][1]["use_safetensors"] is True


def test_a_folder_goes_before_the_hub(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_pipeline, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(DiffusionPipeline, "download")
    assert weights_hash(load_base("owner/name")) == weights_hash(load_base(tiny_pipeline))


def refusal(base: str | Path) -> str:
    """Return what loading a wrong base says, checked to be one line that names the base."""
    with pytest.raises(BwlabError) as error:
        load_base(base)
    assert "\n" not in str(error.value)
    assert error.value.asked == f"--base {base}"
    return error.value.found


def test_an_unreachable_hub_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    found = refusal("owner/name")
    assert found.startswith("no such folder or file, and the hub does not give it: ")
    assert capfd.readouterr() == ("", "")


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == "no such folder or file"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == "no model_index.json in it (it is empty)"
    for name in ("e", "d", "c", "b", "a"):
        (empty / name).touch()
    assert refusal(empty) == "no model_index.json in it (it holds a, b, c, d, ...)"


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '"x"'])
def test_an_unreadable_index_is_refused(copied: Path, text: str) -> None:
    (copied / "model_index.json").write_text(text)
    assert refusal(copied) == "its model_index.json is not readable"


def test_another_pipeline_is_named(copied: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionInpaintPipeline"}))
    assert refusal(copied) == "a StableDiffusionInpaintPipeline"


def test_a_unet_with_more_inputs_is_named(copied: Path) -> None:
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(copied / "unet"), in_channels=9)
    unet.save_pretrained(copied / "unet")
    assert refusal(copied) == "an inpainting UNet (9 input channels, but 4 of latents)"


def test_sdxl_needs_both_tokenizers(tiny_xl_pipeline: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(tiny_xl_pipeline, tmp_path / "base"))
    for path in (copied / "tokenizer_2").iterdir():
        path.unlink()
    assert refusal(copied) == "the pipeline's tokenizer_2 has no vocabulary"
    shutil.rmtree(copied / "text_encoder_2")
    assert refusal(copied) == "the pipeline lacks its folder text_encoder_2"


def test_a_missing_part_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "vae")
    assert refusal(copied) == "the pipeline lacks its folder vae"


@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle only"])
def test_broken_weights_are_one_line(copied: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    else:
        weights.unlink()
    if damage == "pickle only":
        torch.save({}, copied / "unet" / "diffusion_pytorch_model.bin")
    assert refusal(copied).startswith("the pipeline does not load: ")
    assert capfd.readouterr() == ("", "")


def test_an_empty_tokenizer_is_refused(copied: Path) -> None:
    for path in (copied / "tokenizer").iterdir():
        path.unlink()
    assert refusal(copied) == "the pipeline's tokenizer has no vocabulary"


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae", "text_encoder_2"])
def test_weights_that_were_not_loaded_are_named(
    component: str, tiny_xl_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = StableDiffusionXLPipeline.from_pretrained

    @torch.no_grad()
    def without_one(*arguments: Any, **options: Any) -> Any:
        pipe = load(*arguments, **options)
        for tensor in getattr(pipe, component).parameters():
            tensor.normal_()
        return pipe

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_pretrained", without_one)
    wanted = rf"tensors of its {component} are not those of the file, first .*\(transformers \d.*, diffusers \d"
    with pytest.raises(BwlabError, match=wanted):
        load_base(tiny_xl_pipeline)


def test_one_tensor_that_was_not_loaded_is_named(copied: Path) -> None:
    path = copied / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    (key,) = [key for key in tensors if key.endswith("final_layer_norm.bias")]
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path, {"format": "pt"})
    with pytest.raises(BwlabError, match=r"1 of the \d+ tensors of its text_encoder .* first final_layer_norm\.bias"):
        load_base(copied)
