"""Stable Diffusion 3 through the command line and the public API, against diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusion3Pipeline

import bwlab
from bwlab.base.families.equal_tokens import zeros_at_end
from bwlab.base.load import load_base
from bwlab.base.models import denoiser_of, family_of
from bwlab.base.noise import FlowMatching, noise_process
from tests.families.commands import FEW, PROMPT, command, pixels, run


def plain_image(folder: Path, steps: int, seed: int, cfg: float) -> np.ndarray:
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pixels(
        pipe(PROMPT, num_inference_steps=steps, guidance_scale=cfg, generator=generator, height=32, width=32).images[0]
    )


def test_images_are_those_of_diffusers(sd3_folder: Path, tmp_path: Path) -> None:
    run("generate", "--base", sd3_folder, "--prompt", PROMPT, "--steps", 3, "--cfg", 4, "--seed", 5, "--out", tmp_path)
    [file] = tmp_path.glob("*.png")
    from PIL import Image

    with Image.open(file) as image:
        written, noted = pixels(image), json.dumps(dict(image.info))
    assert np.abs(written - plain_image(sd3_folder, 3, 5, 4.0)).max() <= 1
    assert "Euler" in noted


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "unipc"])
def test_every_sampler_of_flow_matching_ends_in_an_image(sd3_folder: Path, sampler: str) -> None:
    pipe = bwlab.load_base(sd3_folder)
    euler = bwlab.generate(pipe, PROMPT, seeds=[0], steps=4, cfg=1)[0]
    other = bwlab.generate(pipe, PROMPT, seeds=[0], steps=4, cfg=1, sampler=sampler)[0]
    assert pixels(euler).shape == pixels(other).shape
    assert (pixels(euler) != pixels(other)).any()


def test_samplers_of_diffusion_are_refused_in_one_line(
    sd3_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "generate", "--base", sd3_folder, "--prompt", "x", "--sampler", "ddim", "--out", tmp_path
    assert command(*wanted) == 2
    said = capsys.readouterr().err
    assert "flow matching" in said
    assert "heun" in said


@pytest.mark.parametrize("option", [("--weighting", "a1111"), ("--clip-skip", "2")])
def test_what_the_family_does_not_read_is_refused(
    sd3_folder: Path, tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "generate", "--base", sd3_folder, "--prompt", "(x:1.2)", *option, "--out", tmp_path
    assert command(*wanted) == 2
    assert "SD 3" in capsys.readouterr().err


def test_zeros_in_place_of_a_t5_are_computed_once_with_the_same_result(sd3_folder: Path) -> None:
    plain = StableDiffusion3Pipeline.from_pretrained(sd3_folder, text_encoder_3=None, tokenizer_3=None)
    folded = load_base(sd3_folder)
    text = family_of(folded).encode(folded, [PROMPT, "a blue square"])
    assert text.context.shape[1] == zeros_at_end(text.context) + plain.tokenizer.model_max_length
    lengths: list[int] = []
    folded.transformer.context_embedder.register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditions = family_of(folded).conditions(folded, text)
    times = torch.tensor([900.0, 300.0])
    with torch.no_grad():
        expected = plain.transformer(latents, timestep=times, **conditions).sample
        found = family_of(folded).run(folded.transformer, latents, times, conditions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert lengths == [plain.tokenizer.model_max_length + 1]


def test_flow_matching_follows_its_formulas() -> None:
    process = FlowMatching(shift=3.0)
    generator = torch.Generator().manual_seed(0)
    times = process.sample_times(20_000, generator) / 1000
    even = FlowMatching(shift=1.0).sample_times(20_000, torch.Generator().manual_seed(0)) / 1000
    torch.testing.assert_close(times, 3 * even / (1 + 2 * even))
    assert float(even.mean()) == pytest.approx(0.5, abs=0.01)  # the logit of a normal number is symmetric
    assert float((even.logit()).std()) == pytest.approx(1.0, abs=0.02)
    latents, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), -1.0)
    noisy = process.add_noise(latents, noise, torch.tensor([0.0, 750.0]))
    assert noisy.flatten().tolist() == pytest.approx([2.0, -0.25])
    assert process.target(latents, noise, torch.tensor([0.0, 750.0])).flatten().tolist() == [-3.0, -3.0]


def test_settings_of_the_timesteps_act(sd3_folder: Path) -> None:
    pipe = load_base(sd3_folder)
    assert noise_process(pipe) == FlowMatching(3.0, "logit_normal")
    assert noise_process(pipe, "uniform", 1.0) == FlowMatching(1.0, "uniform")
    times = FlowMatching(1.0, "uniform").sample_times(20_000, torch.Generator().manual_seed(0))
    assert float(times.std()) == pytest.approx(1000 / 12**0.5, rel=0.02)


def trained(sd3_folder: Path, data: Path, out: Path, *options: object) -> Path:
    run(
        *("train", "--base", sd3_folder, "--data", data, "--out", out, "--steps", 4, "--batch-size", 2),
        *("--set", "preview.steps=2", "--set", "checkpoint.every=2", *options),
    )
    return out / "adapter.safetensors"


@pytest.fixture
def adapter(sd3_folder: Path, two_images: Path, tmp_path: Path) -> Path:
    return trained(sd3_folder, two_images, tmp_path / "run", "--blocks", "joint1=2, joint3=3", "--lr", 0.05)


def test_an_adapter_is_trained_into_the_named_blocks(adapter: Path) -> None:
    tensors = safetensors.torch.load_file(adapter)
    blocks = {key.split(".")[2] for key in tensors}
    assert blocks == {"1", "3"}
    assert {len(t) for key, t in tensors.items() if "blocks.1." in key and "lora_A" in key} == {2}
    assert {len(t) for key, t in tensors.items() if "blocks.3." in key and "lora_A" in key} == {3}
    assert not any("norm" in key for key in tensors)
    losses = [
        record["loss"]
        for line in (adapter.parent / "log.jsonl").read_text().splitlines()
        if "loss" in (record := json.loads(line))
    ]
    assert len(losses) >= 4
    assert all(np.isfinite(losses))
    assert list((adapter.parent / "previews").glob("*.png"))
    run("convert", adapter, adapter.parent / "kohya.safetensors", "--to", "kohya")
    for file in (adapter, adapter.parent / "kohya.safetensors"):
        with safetensors.safe_open(file, "pt") as opened:
            assert opened.metadata()["ss_network_module"] == "networks.lora_sd3"


def test_a_resumed_run_is_equal(sd3_folder: Path, two_images: Path, tmp_path: Path, adapter: Path) -> None:
    half = tmp_path / "half"
    options = "--blocks", "joint1=2, joint3=3", "--lr", 0.05
    run(
        *("train", "--base", sd3_folder, "--data", two_images, "--out", half, "--steps", 2, "--batch-size", 2),
        *("--set", "preview.steps=2", "--set", "checkpoint.every=2", *options),
    )
    trained(sd3_folder, two_images, half, "--resume", *options)
    first, second = safetensors.torch.load_file(adapter), safetensors.torch.load_file(half / "adapter.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_adapter_changes_images_and_loads_in_diffusers(sd3_folder: Path, adapter: Path, tmp_path: Path) -> None:
    pipe = bwlab.load_base(sd3_folder)
    plain = bwlab.generate(pipe, PROMPT, seeds=[0], steps=3, cfg=1)[0]
    changed = bwlab.generate(pipe, PROMPT, seeds=[0], steps=3, cfg=1, adapters=[adapter])[0]
    off = bwlab.generate(
        pipe, PROMPT, seeds=[0], steps=3, cfg=1, adapters=[bwlab.ScaledAdapter(bwlab.load_adapter(adapter, pipe), 0.0)]
    )[0]
    assert (pixels(plain) != pixels(changed)).any()
    assert (pixels(plain) == pixels(off)).all()
    theirs = StableDiffusion3Pipeline.from_pretrained(sd3_folder, text_encoder_3=None, tokenizer_3=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(adapter)
    generator = torch.Generator().manual_seed(0)
    image = theirs(PROMPT, num_inference_steps=3, guidance_scale=1, generator=generator, height=32, width=32).images[0]
    assert np.abs(pixels(image) - pixels(changed)).max() <= 1


def test_blocks_without_a_trained_layer_build_no_graph(sd3_folder: Path) -> None:
    pipe = load_base(sd3_folder)
    denoiser = denoiser_of(pipe)
    denoiser.requires_grad_(False)
    denoiser.transformer_blocks[2].attn.to_q.weight.requires_grad_(True)
    graphs: dict[int, bool] = {}
    for number, block in enumerate(denoiser.transformer_blocks):
        block.register_forward_hook(
            lambda _, __, output, number=number: graphs.update({number: output[-1].requires_grad})
        )
    text = family_of(pipe).encode(pipe, [PROMPT])
    conditions = {name: value.detach() for name, value in family_of(pipe).conditions(pipe, text).items()}
    family_of(pipe).run(denoiser, torch.randn(1, 4, 8, 8), torch.tensor([500.0]), conditions)
    assert graphs == {0: False, 1: False, 2: True, 3: True}


@pytest.fixture
def two_adapters(sd3_folder: Path, two_images: Path, tmp_path: Path) -> tuple[Path, Path]:
    first, second = (
        trained(
            sd3_folder,
            two_images,
            tmp_path / name,
            *("--blocks", blocks, "--lr", 0.05, "--set", "preview.enabled=false"),
        )
        for name, blocks in (("a", "all=2"), ("b", "joint2=2"))
    )
    return first, second


def test_conflict_is_measured_block_by_block(
    sd3_folder: Path, two_images: Path, two_adapters: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    data = (f"{name}={two_images}" for name in two_adapters)
    given = "--base", sd3_folder, *(part for one in data for part in ("--data", one)), *FEW, "--json"
    run("analyze", "conflict", *two_adapters, *given)
    text = capsys.readouterr().out
    assert "joint2" in json.dumps(json.loads(text))
