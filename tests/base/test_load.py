"""Base models: what loads, and how it is told apart."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers.utils import logging

from bwlab.base.load import base_scheme, load_base, module_hash, weights_hash, weights_variant
from bwlab.base.quiet import quiet_libraries
from bwlab.plugins.manager import build_manager


def test_a_local_pipeline_loads_silently(tiny_pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = load_base(tiny_pipeline)
    assert isinstance(pipe, StableDiffusionPipeline)
    assert pipe.safety_checker is None
    assert not pipe.unet.training
    assert capfd.readouterr() == ("", "")


def test_the_scheme_is_found_from_the_unet(tiny_pipeline: Path) -> None:
    scheme = base_scheme(load_base(tiny_pipeline), build_manager().block_schemes())
    assert scheme.name == "sd"


def test_half_precision_files_are_float32_in_memory_with_the_same_hash(tiny_pipeline: Path, tmp_path: Path) -> None:
    full = load_base(tiny_pipeline).to(torch.float16)
    full.save_pretrained(tmp_path / "half")
    full.save_pretrained(tmp_path / "variant", variant="fp16")
    assert weights_variant(tmp_path / "half" / "unet") is None
    assert weights_variant(tmp_path / "variant" / "unet") == "fp16"
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
    assert module_hash(pipe.vae) == module_hash(load_base(tiny_pipeline).vae) != before


def fail_quietly() -> None:
    with quiet_libraries():
        assert not logging.is_progress_bar_enabled()
        raise KeyError


def test_an_own_verbosity_is_kept() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError):
        fail_quietly()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
