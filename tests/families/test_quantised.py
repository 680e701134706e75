"""Training on bases whose linear layers are held in 4 or 8 bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.layer import dense_weight, weight_shape
from bwlab.adapters.load import load_adapter
from bwlab.adapters.save import save_adapter
from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager, installed_manager
from tests.families.commands import command, losses_of, run

# The error of a step of rounding: 4-bit layers multiply by their dequantised weights, 8-bit ones round inputs too.
FORMATS: Mapping[str, float] = {"nf4": 1e-6, "int8": 0.02}
formats = pytest.mark.parametrize("quantise", ["nf4", "int8"])


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def made_dense(model: Any) -> None:
    """Put the dequantised weight in place of each quantised layer of a model."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and not layer.weight.is_floating_point():
            dense = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            dense.weight.data, dense.bias = dense_weight(layer), layer.bias
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, dense.requires_grad_(False))


def train(base: Path, data: Path, out: Path, *options: object, steps: int = 2) -> dict[str, torch.Tensor]:
    given = "--steps", steps, "--batch-size", 2, "--lr", 0.05, "--set", "preview.enabled=false", *options
    run("train", "--base", base, "--data", data, "--out", out, "--blocks", "all=2", *given)
    return safetensors.torch.load_file(out / "adapter.safetensors")


@formats
def test_the_prediction_and_gradients_are_those_of_the_dequantised_layers(sd3_folder: Path, quantise: Any) -> None:
    pipe: Any = load_base(sd3_folder, quantise=quantise)
    denoiser = pipe.transformer.requires_grad_(False)
    layer = denoiser.transformer_blocks[0].attn.to_q
    assert not layer.weight.is_floating_point()
    assert weight_shape(layer) == dense_weight(layer).shape == (24, 24)
    scheme = base_scheme(pipe, ())
    adapter = create_adapter(
        denoiser, build_manager().adapter_type("lora"), parse_spec("all=2", scheme, kind="rank"), None, scheme=scheme
    )
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    config = denoiser.config
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([500.0, 100.0]),
        "encoder_hidden_states": torch.randn(2, 5, config.joint_attention_dim),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim),
        "return_dict": False,
    }
    results = []
    for dense in (False, True):
        if dense:
            made_dense(denoiser)
        adapter.train()
        with attach(denoiser, ScaledAdapter(adapter)):
            prediction = denoiser(**inputs)[0]
            functional.mse_loss(prediction, torch.ones_like(prediction)).backward()
        gradient = torch.cat([p.grad.flatten() for p in adapter.parameters() if p.grad is not None])
        results.append((prediction.detach(), gradient))
        for parameter in adapter.parameters():
            parameter.grad = None
    for found, exact in zip(*results, strict=True):
        assert error(found, exact) < FORMATS[quantise]


@formats
def test_training_is_close_recorded_and_resumes(
    sd3_folder: Path, two_images: Path, tmp_path: Path, quantise: str
) -> None:
    given = "--quantize", quantise, "--set", "checkpoint.every=1"
    whole = train(sd3_folder, two_images, tmp_path / "whole", *given)
    train(sd3_folder, two_images, tmp_path / "parts", *given, steps=1)
    parts = train(sd3_folder, two_images, tmp_path / "parts", *given, "--resume")
    assert all(torch.equal(parts[key], tensor) for key, tensor in whole.items())
    train(sd3_folder, two_images, tmp_path / "plain")
    exact, found = (losses_of(tmp_path / name) for name in ("plain", "whole"))
    assert found != exact
    assert found == pytest.approx(exact, rel=0.05)
    headers = []
    for name in ("plain", "whole"):
        with safetensors.safe_open(tmp_path / name / "adapter.safetensors", "np") as file:
            headers.append(file.metadata())
    assert f'quantize = "{quantise}"' in headers[1]["bwlab.config"]
    assert headers[0]["bwlab.base_hash"] == headers[1]["bwlab.base_hash"]


def test_resuming_in_another_format_is_refused(
    sd3_folder: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(sd3_folder, two_images, tmp_path / "run", "--quantize", "nf4", steps=1)
    given = "--base", sd3_folder, "--data", two_images, "--out", tmp_path / "run", "--resume", "--steps", 2
    assert command("train", *given, "--quantize", "int8") == 2
    assert "training.quantize" in capsys.readouterr().err


@formats
def test_half_precision_and_a_unet(tmp_path: Path, two_images: Path, tiny_pipeline: Path, quantise: str) -> None:
    train(tiny_pipeline, two_images, tmp_path / "whole", "--precision", "bf16")
    train(tiny_pipeline, two_images, tmp_path / "quantised", "--precision", "bf16", "--quantize", quantise)
    exact, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "quantised")
    assert found == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("kind", ["dora", "lokr", "ortho"])
def test_types_that_read_the_base_weight_read_it_dequantised(
    sd3_folder: Path, two_images: Path, tmp_path: Path, kind: str
) -> None:
    train(sd3_folder, two_images, tmp_path / "run", "--adapter", kind, "--quantize", "nf4")
    pipe: Any = load_base(sd3_folder, quantise="nf4")
    file = tmp_path / "run" / "adapter.safetensors"
    adapter = load_adapter(file, pipe.transformer, installed_manager(), base_scheme(pipe, ()))
    deltas = dict(adapter.deltas(pipe.transformer))
    made_dense(pipe.transformer)
    for path, delta in adapter.deltas(pipe.transformer):
        torch.testing.assert_close(deltas[path], delta)


def test_merging_into_a_quantised_base_is_refused(
    sd3_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe: Any = load_base(sd3_folder, quantise="nf4")
    pipe.save_pretrained(tmp_path / "base")
    scheme, kind = base_scheme(pipe, ()), build_manager().adapter_type("lora")
    adapter = create_adapter(pipe.transformer, kind, parse_spec("joint0=1", scheme, kind="rank"), None, scheme=scheme)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    capsys.readouterr()
    assert command("merge", tmp_path / "adapter.safetensors", "--into", tmp_path / "base", "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert "quantised (bitsandbytes)" in error
    assert error.count("bwlab: error") == 1
    assert not (tmp_path / "o").exists()
    stored = load_base(tmp_path / "base")
    assert weights_hash(stored) == weights_hash(load_base(tmp_path / "base"))


def test_single_files_twice_quantised_bases_and_a_missing_package_are_refused(
    sd3_folder: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    load_base(sd3_folder, quantise="int8").save_pretrained(tmp_path / "base")
    capsys.readouterr()
    file = tmp_path / "base.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1)}, file)
    given = "--data", two_images, "--out", tmp_path / "run", "--quantize", "nf4"
    for base, found in ((file, "is a single file"), (tmp_path / "base", "quantised already (bitsandbytes)")):
        assert command("train", "--base", base, *given) == 2
        assert found in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command("train", "--base", sd3_folder, *given) == 2
    assert "pip install 'bwlab[quantize]'" in capsys.readouterr().err
