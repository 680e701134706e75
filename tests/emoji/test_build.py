"""The whole build, a few steps of it, gives a folder that plain diffusers loads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from rich.console import Console

from bwlab_emoji.build import BuildConfig, build, generate
from bwlab_emoji.world import HELD_OUT, caption, training_names, world_names


@pytest.mark.slow
@pytest.mark.usefixtures("little_at_once")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_build_writes_a_pipeline_and_continues(work: Path, tmp_path: Path) -> None:
    config = BuildConfig(out=tmp_path / "base", work=work, vae_steps=1, unet_steps=2)
    console = Console(file=io.StringIO())
    build(config, console)
    pipeline = StableDiffusionPipeline.from_pretrained(config.out)
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.unet.config.down_block_types.count("CrossAttnDownBlock2D") == 3
    size = sum(file.stat().st_size for file in config.out.rglob("*.safetensors"))
    assert size < 30e6
    images = generate(pipeline.to("cpu").to(dtype=pipeline.vae.encoder.conv_in.weight.float().dtype), ["noto"], cfg=2.0)
    assert images.shape == (1, 64, 64, 3)
    assert images.dtype == np.uint8
    build(config, console, ["unet"])
    steps = [json.loads(line)["step"] for line in (work / "log.jsonl").read_text().splitlines()]
    assert max(steps) <= 2


def test_held_out_identities_are_not_trained_on() -> None:
    names = world_names([*HELD_OUT, "tomato", "airplane"])
    assert set(names) == {*HELD_OUT, "tomato"}
    assert training_names([*HELD_OUT, "tomato", "airplane"]) == ("tomato",)
    assert len(HELD_OUT) == 42


def test_a_caption_is_tags() -> None:
    assert caption("ink", "cow-face", "blue") == "ink, cow face, blue background"
