"""Loading base models: what loads, how it is told apart, and every wrong folder with its one line."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers.utils import logging

from bwlab.errors import BwlabError
from bwlab.pipelines import base_scheme, load_base, quiet_libraries, weights_hash, weights_variant
from bwlab.plugins import build_manager


@pytest.fixture
def copied(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny pipeline that a test may break."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "base"))


def test_a_local_pipeline_loads_silently(tiny_pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = load_base(tiny_pipeline)
    assert isinstance(pipe, StableDiffusionPipeline)
    assert pipe.safety_checker is None
    assert not pipe.unet.training
    assert capfd.readouterr() == ("", "")


def test_the_scheme_is_found_from_the_unet(tiny_pipeline: Path) -> None:
    scheme = base_scheme(load_base(tiny_pipeline), build_manager())
    assert scheme.name == "sd"


def test_half_precision_files_are_float32_in_memory_with_the_same_hash(tiny_pipeline: Path, tmp_path: Path) -> None:
    full = load_base(tiny_pipeline).to(torch.float16)
    full.save_pretrained(tmp_path / "half")
    full.save_pretrained(tmp_path / "variant", variant="fp16")
    assert weights_variant(tmp_path / "half") is None
    assert weights_variant(tmp_path / "variant") == "fp16"
    loaded = [load_base(tmp_path / name) for name in ("half", "variant")]
    for pipe in loaded:
        models = (pipe.unet, pipe.vae, pipe.text_encoder)
        assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float32}
    assert weights_hash(loaded[0]) == weights_hash(loaded[1]) == weights_hash(full)
    assert weights_hash(full) != weights_hash(load_base(tiny_pipeline))


def test_the_hash_is_of_every_weight_of_the_unet(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    before = weights_hash(pipe)
    assert len(before) == 64
    assert before == weights_hash(load_base(tiny_pipeline))
    weight = pipe.unet.mid_block.resnets[0].conv1.weight
    with torch.no_grad():
        weight[0, 0, 0, 0] += 1e-4
    assert weights_hash(pipe) != before


def test_the_hash_of_20_mb_is_fast(tiny_pipeline: Path) -> None:
    pipe = load_base(tiny_pipeline)
    pipe.register_modules(unet=torch.nn.Linear(2237, 2341, bias=False))
    began = time.process_time()
    weights_hash(pipe)
    assert time.process_time() - began < 0.5


def fail_quietly() -> None:
    with quiet_libraries():
        assert not logging.is_progress_bar_enabled()
        raise KeyError


def test_an_own_verbosity_is_kept() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError):
        fail_quietly()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def refusal(base: str | Path) -> str:
    """Return what loading a wrong base says, checked to be one line that names the base."""
    with pytest.raises(BwlabError) as error:
        load_base(base)
    assert "\n" not in str(error.value)
    assert error.value.asked == f"--base {base}"
    return error.value.found


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    assert refusal("runwayml/stable-diffusion-v1-5") == "no such folder"
    assert refusal(tmp_path / "none") == "no such folder"
    (tmp_path / "model.safetensors").touch()
    assert refusal(tmp_path / "model.safetensors") == "a file, not a folder"
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
    (copied / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    assert refusal(copied) == "a StableDiffusionXLPipeline"


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
