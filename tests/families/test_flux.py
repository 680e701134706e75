"""FLUX.1 through the command line and the public API, against diffusers' own pipeline."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import FluxPipeline
from PIL import Image

import bwlab
from bwlab.adapters.save import save_adapter
from bwlab.base.families.flux import image_places
from bwlab.base.families.transformer import packed, unpacked
from bwlab.base.load import load_base
from bwlab.base.models import denoiser_of, family_of
from bwlab.base.noise import FlowMatching, noise_process
from tests.analysis.random_adapters import random_adapter
from tests.families.commands import PROMPT, command, pixels, run


def plain_pipeline(folder: Path) -> FluxPipeline:
    pipe = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_image(pipe: FluxPipeline, steps: int, seed: int, guidance: float) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    made = pipe(PROMPT, num_inference_steps=steps, guidance_scale=guidance, generator=generator, height=32, width=32)
    return pixels(made.images[0])


pytestmark = pytest.mark.usefixtures("small_images")


def test_images_are_those_of_diffusers(flux_folder: Path, tmp_path: Path) -> None:
    run(
        "generate",
        "--base",
        flux_folder,
        "--prompt",
        PROMPT,
        "--steps",
        3,
        "--cfg",
        3.5,
        "--seed",
        5,
        "--out",
        tmp_path,
    )
    [file] = tmp_path.glob("*.png")
    with Image.open(file) as image:
        written = pixels(image)
    assert np.abs(written - plain_image(plain_pipeline(flux_folder), 3, 5, 3.5)).max() <= 1


def test_the_guidance_is_told_in_place_of_a_second_pass(flux_folder: Path) -> None:
    pipe = bwlab.load_base(flux_folder)
    batches: list[int] = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    weak, strong = (bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=cfg)[0] for cfg in (2, 9))
    assert batches == [1] * 4
    assert (pixels(weak) != pixels(strong)).any() == pipe.transformer.config.guidance_embeds


def test_packing_is_that_of_diffusers() -> None:
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 3, 4, 6))
    assert torch.equal(unpacked(packed(latents), latents.shape), latents)
    assert torch.equal(
        image_places(latents), FluxPipeline._prepare_latent_image_ids(2, 2, 3, torch.device("cpu"), torch.float32)
    )


def test_the_shift_of_training_follows_the_size(flux_folder: Path) -> None:
    pipe = load_base(flux_folder)
    process = noise_process(pipe)
    assert isinstance(process, FlowMatching)
    dynamic = pipe.scheduler.config.use_dynamic_shifting
    tokens = 16
    expected = math.exp(0.5 + 0.65 * (tokens - 256) / (4096 - 256)) if dynamic else 3.0
    assert process.shift == pytest.approx(expected)


def test_an_adapter_is_trained_saved_and_loads_in_diffusers(
    flux_folder: Path, two_images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(
        *("train", "--base", flux_folder, "--data", two_images, "--out", out, "--steps", 3, "--batch-size", 2),
        *("--blocks", "double1=2, single0-1=3", "--lr", 0.05, "--set", "preview.steps=2"),
    )
    adapter = out / "adapter.safetensors"
    keys = safetensors.torch.load_file(adapter)
    assert {".".join(key.split(".")[1:3]) for key in keys} == {
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    }
    losses = [
        record["loss"]
        for line in (out / "log.jsonl").read_text().splitlines()
        if "loss" in (record := json.loads(line))
    ]
    assert all(math.isfinite(loss) for loss in losses)
    pipe = bwlab.load_base(flux_folder)
    plain = bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=3.5)[0]
    changed = bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=3.5, adapters=[adapter])[0]
    assert (pixels(plain) != pixels(changed)).any()
    theirs = plain_pipeline(flux_folder)
    theirs.load_lora_weights(adapter)
    assert np.abs(plain_image(theirs, 2, 0, 3.5) - pixels(changed)).max() <= 1


def test_a_schedule_of_an_adapter_follows_the_sampler(flux_folder: Path, two_images: Path, tmp_path: Path) -> None:
    """The transformer is told times of 0..1, the scheduler counts in 0..1000."""
    out = tmp_path / "run"
    run(
        *("train", "--base", flux_folder, "--data", two_images, "--out", out, "--steps", 2, "--batch-size", 2),
        *("--blocks", "all=2", "--lr", 0.05, "--set", "preview.enabled=false"),
    )
    wanted = "generate", "--base", flux_folder, "--prompt", PROMPT, "--steps", 4
    files = {}
    for name, schedule in (("never", "0"), ("half", "0-0.5:1"), ("always", "1")):
        given = "--adapter", out / "adapter.safetensors", "--schedule", schedule, "--out", tmp_path / name
        run(*wanted, *given)
        with Image.open(next((tmp_path / name).glob("*.png"))) as image:
            files[name] = pixels(image)
    assert (files["never"] != files["half"]).any()
    assert (files["half"] != files["always"]).any()


def test_every_sampler_is_used_or_refused_in_one_line(
    flux_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "generate", "--base", flux_folder, "--prompt", PROMPT, "--steps", 4
    run(*wanted, "--sampler", "unipc", "--out", tmp_path / "unipc")
    assert command(*wanted, "--sampler", "heun", "--out", tmp_path / "heun") == 2
    fitting = capsys.readouterr().err.partition("Choose from")[2]
    assert "unipc" in fitting
    expected = 0 if "dpmpp_2m" in fitting else 2
    assert command(*wanted, "--sampler", "dpmpp_2m", "--out", tmp_path / "dpmpp") == expected


def test_wrong_transformers_are_refused_in_one_line(
    flux_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(flux_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "FluxFillPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert command("generate", "--base", folder, "--prompt", "x", "--out", tmp_path / "x") == 2
    assert "FluxFillPipeline" in capsys.readouterr().err
    assert denoiser_of(load_base(flux_folder)) is not None
    assert family_of(load_base(flux_folder)).name == "flux"


def test_conflict_is_measured_in_images(
    flux_dev_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config has no size of latents, unlike those of UNets and of Stable Diffusion 3."""
    unet = denoiser_of(load_base(flux_dev_folder))
    for seed, name in enumerate("ab"):
        save_adapter(random_adapter(unet, "lora", "all=2", seed), tmp_path / f"{name}.safetensors")
    (tmp_path / "prompts.txt").write_text(PROMPT)
    capsys.readouterr()
    given = "--base", flux_dev_folder, "--prompts", tmp_path / "prompts.txt", "--random", 1, "--timesteps", 500
    files = (tmp_path / f"{name}.safetensors" for name in "ab")
    run("analyze", "conflict", *files, *given, "--latents", 1, "--samples", 2, "--steps", 2, "--json")
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert [cost["of"] for cost in measured["costs"]] == ["latents", "latents"]
    assert all(cost["lost"]["mean"] > 0 and cost["random_lost"] is not None for cost in measured["costs"])
