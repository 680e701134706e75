"""Latents and text embeddings on disk."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console

from bwlab.errors import BwlabError
from bwlab.training.cache import TensorCache, module_hash, read_tensors
from bwlab.training.data_config import DataConfig
from bwlab.training.pictures import read_picture
from bwlab.training.training_set import TrainingSet, load_training_set
from tests.training.small_data import WriteData


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> StableDiffusionPipeline:
    """Return the tiny pipeline."""
    return StableDiffusionPipeline.from_pretrained(tiny_pipeline)


def load(config: DataConfig, pipe: StableDiffusionPipeline) -> tuple[TrainingSet, str]:
    """Return the training set and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    data = load_training_set(config, pipe, console)
    return data, console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_entries_are_what_the_models_say(pipe: StableDiffusionPipeline, two_pictures: Path, tmp_path: Path) -> None:
    config = DataConfig(folder=str(two_pictures), cache=str(tmp_path / "cache"))
    data, _ = load(config, pipe)
    scale = pipe.vae.config.scaling_factor
    with torch.no_grad():
        for index, name in enumerate(["fox", "owl"]):
            posterior = pipe.vae.encode(read_picture(two_pictures / f"{name}.png", 32)[None]).latent_dist
            torch.testing.assert_close(data.means[index], posterior.mean[0] * scale)
            torch.testing.assert_close(data.deviations[index], posterior.std[0] * scale)
            context, _ = pipe.encode_prompt(f"ink, {name}", "cpu", 1, False)
            torch.testing.assert_close(data.contexts[data.caption_of[index]], context[0])


def test_the_second_time_nothing_is_computed(
    pipe: StableDiffusionPipeline, two_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(folder=str(two_pictures), cache=str(tmp_path / "cache"))
    first, _ = load(config, pipe)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(pipe.vae, "encode", refuse)
    monkeypatch.setattr(pipe, "encode_prompt", refuse)
    second, _ = load(config, pipe)
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.contexts, second.contexts)


def test_other_content_is_another_entry(pipe: StableDiffusionPipeline, two_pictures: Path, tmp_path: Path) -> None:
    config = DataConfig(folder=str(two_pictures), cache=str(tmp_path / "cache"))
    load(config, pipe)
    latents, texts = tmp_path / "cache" / "latents", tmp_path / "cache" / "text"
    assert (len(entries(latents)), len(entries(texts))) == (2, 2)
    load(replace(config, resolution=16), pipe)
    (two_pictures / "fox.txt").write_text("ink, red fox")
    load(config, pipe)
    assert (len(entries(latents)), len(entries(texts))) == (4, 3)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_is_made_again(
    pipe: StableDiffusionPipeline, two_pictures: Path, tmp_path: Path, damage: bytes | None
) -> None:
    config = DataConfig(folder=str(two_pictures), cache=str(tmp_path / "cache"))
    first, _ = load(config, pipe)
    for path in entries(tmp_path / "cache"):
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    second, _ = load(config, pipe)
    assert torch.equal(first.means, second.means)
    assert all(read_tensors(path) is not None for path in entries(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BwlabError, match="folder "):
        TensorCache(tmp_path / "file").get("latents", ("x",), lambda: {"a": torch.zeros(3)})


def test_broken_images_stop_or_are_left_out(
    pipe: StableDiffusionPipeline, write_data: WriteData, tmp_path: Path
) -> None:
    folder = write_data({"a.png": "fox", "b.png": "owl"})
    (folder / "a.png").write_bytes(b"nonsense")
    config = DataConfig(folder=str(folder), cache=str(tmp_path / "cache"))
    with pytest.raises(BwlabError, match=r"image .*a\.png: unreadable"):
        load(config, pipe)
    data, printed = load(replace(config, skip_broken=True), pipe)
    assert [example.path.name for example in data.examples] == ["b.png"]
    assert "a.png" in printed
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(BwlabError, match="none of its images can be read"):
        load(replace(config, skip_broken=True), pipe)


def test_long_captions_are_warned_of(pipe: StableDiffusionPipeline, write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"a.png": "a fox that is far too long for sixteen tokens", "b.png": "owl"})
    _, printed = load(DataConfig(folder=str(folder), cache=str(tmp_path / "cache")), pipe)
    assert "1 captions are longer than 16 tokens" in printed


def test_a_resolution_must_divide_into_latents(pipe: StableDiffusionPipeline, two_pictures: Path) -> None:
    with pytest.raises(BwlabError, match="Give a multiple of 4, such as 32"):
        load(DataConfig(folder=str(two_pictures), resolution=33), pipe)


def test_the_hash_of_a_module_follows_its_weights() -> None:
    layer = torch.nn.Linear(3, 5)
    before = module_hash(layer)
    assert module_hash(layer) == before
    with torch.no_grad():
        layer.bias[2] += 1
    assert module_hash(layer) != before
