"""Settings of training on transformers: each acts, or gives the same weights where it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

from bwlab.plugins.manager import build_manager
from bwlab.training.prepare import prepare
from bwlab.training.settings import read_config
from tests.families.commands import command, losses_of, run
from tests.families.pipelines import LATE_BLOCKS

BETWEEN = "data.buckets=true", "data.bucket_step=8", "data.resolution=36"  # 9 x 9 latents; tokens have 2 x 2


def trained(base: Path, data: Path, out: Path, *options: object) -> dict[str, torch.Tensor]:
    given = "--steps", 2, "--batch-size", 2, "--lr", 0.05, "--set", "preview.enabled=false", *options
    run("train", "--base", base, "--data", data, "--out", out, *given)
    return safetensors.torch.load_file(out / "adapter.safetensors")


def test_whole_images_are_trained(base: Path, family: str, two_images: Path, tmp_path: Path) -> None:
    """Latents are those of the whole image, whatever the side of a transformer's tokens."""
    sets = f"base={base}", f"data.folder={two_images}", f"out={tmp_path}", f"adapter.blocks={LATE_BLOCKS[family]}=2"
    setup = prepare(read_config(sets=[*sets, "data.resolution=48"]), build_manager(), Console(quiet=True))
    assert setup.data.sample(0, 2, 0).means.shape[2:] == (48 // setup.pipe.vae_scale_factor,) * 2


def test_checkpointing_gives_the_same_weights(base: Path, two_images: Path, tmp_path: Path) -> None:
    plain = trained(base, two_images, tmp_path / "plain", "--blocks", "all=2")
    setting = "--set", "training.gradient_checkpointing=true"
    less = trained(base, two_images, tmp_path / "less", "--blocks", "all=2", *setting)
    for key, tensor in plain.items():
        torch.testing.assert_close(less[key], tensor, rtol=1e-4, atol=1e-6)


def test_half_precision_is_near(base: Path, two_images: Path, tmp_path: Path) -> None:
    trained(base, two_images, tmp_path / "whole", "--blocks", "all=2")
    trained(base, two_images, tmp_path / "half", "--blocks", "all=2", "--precision", "bf16")
    whole, half = losses_of(tmp_path / "whole"), losses_of(tmp_path / "half")
    assert whole != half
    assert half == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("kind", ["lora", "locon", "ortho"])
def test_every_adapter_type_trains(base: Path, family: str, two_images: Path, tmp_path: Path, kind: str) -> None:
    tensors = trained(base, two_images, tmp_path / "run", "--adapter", kind, "--blocks", f"{LATE_BLOCKS[family]}=2")
    assert tensors
    assert all(key.startswith("transformer.") for key in tensors)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_text_encoders_are_trained(base: Path, family: str, two_images: Path, tmp_path: Path) -> None:
    tensors = trained(base, two_images, tmp_path / "run", "--blocks", f"{LATE_BLOCKS[family]}=2, te=2, te2=2")
    starts = {key.split(".")[0] for key in tensors}
    assert starts == {"transformer", "text_encoder", "text_encoder_2"}
    moved = {key.split(".")[0] for key, tensor in tensors.items() if "lora_B" in key and bool(tensor.any())}
    assert moved == starts


def test_larger_images_go_into_buckets(base: Path, family: str, two_images: Path, tmp_path: Path) -> None:
    wide = trained(
        base, two_images, tmp_path / "wide", "--blocks", f"{LATE_BLOCKS[family]}=2", "--set", "data.resolution=48"
    )
    assert wide
    run("data", "check", two_images, "--base", base)


@pytest.mark.parametrize("family", ["flux", "qwen-image"])
def test_buckets_of_an_area_between_whole_tokens_are_summarised(
    base: Path, family: str, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    between = [part for each in BETWEEN for part in ("--set", each)]
    run("train", "--base", base, "--data", two_images, "--out", tmp_path / "run", "--dry-run", *between)
    assert "judged from one pass of the denoiser" in " ".join(capsys.readouterr().out.split())
    run("train", "--base", base, "--plan-memory", "--adapter", "lora", *between)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["qwen-image", "z-image"])
def test_layers_in_text_encoders_that_no_tool_reads_are_refused(
    base: Path, family: str, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--base", base, "--data", two_images, "--out", tmp_path / "run", "--steps", 1
    assert command("train", *given, "--blocks", f"{LATE_BLOCKS[family]}=2, te=2") == 2
    error = capsys.readouterr().err
    assert "text encoder" in error
    assert error.count("bwlab: error") == 1


def test_min_snr_is_refused(base: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = "--base", base, "--data", two_images, "--out", tmp_path / "run", "--steps", 1
    assert command("train", *given, "--set", "training.min_snr_gamma=5") == 2
    error = capsys.readouterr().err
    assert "flow matching" in error
    assert not (tmp_path / "run" / "log.jsonl").exists()
    assert error.count("bwlab: error") == 1
