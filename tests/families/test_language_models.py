"""Qwen-Image and Z-Image, which read texts with a language model, against diffusers' own pipelines."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import bwlab
from bwlab.adapters.schedule import parse_schedule
from bwlab.base.conditioning import denoiser_conditions, encode_texts, predict
from bwlab.base.families.family import joined
from bwlab.base.latents import encode_images
from bwlab.base.load import load_base
from bwlab.base.models import family_of
from bwlab.base.noise import FlowMatching, noise_process
from tests.families.commands import FEW, PROMPT, command, losses_of, pixels, run

BLOCKS = {"qwen-image": "block0=2, block2.image=3", "z-image": "refiner_noise0=2, refiner_text0=2, layer2=3"}
CLASSES = {"qwen-image": "QwenImagePipeline", "z-image": "ZImagePipeline"}
STEPS = 20

pytestmark = pytest.mark.usefixtures("small_images")


@pytest.fixture(scope="module", params=CLASSES)
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of each family."""
    name: str = request.param
    return name


def plain_pipeline(folder: Path, family: str) -> Any:
    pipe = getattr(diffusers, CLASSES[family]).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_image(pipe: Any, steps: int, seed: int, cfg: float) -> np.ndarray:
    """Return the image of diffusers' pipeline; Z-Image's guidance scale counts from 0."""
    own: dict[str, object] = {"guidance_scale": cfg - 1}
    if hasattr(pipe, "prompt_template_encode"):
        own = {"true_cfg_scale": cfg} | ({"negative_prompt": ""} if cfg > 1 else {})
    generator = torch.Generator().manual_seed(seed)
    made = pipe(PROMPT, num_inference_steps=steps, generator=generator, height=32, width=32, **own)
    return pixels(made.images[0])


@pytest.mark.parametrize("cfg", [1, 4])
def test_images_are_those_of_diffusers(base: Path, family: str, cfg: int, tmp_path: Path) -> None:
    given = "--prompt", PROMPT, "--prompt", "blue", "--steps", 3, "--cfg", cfg, "--seed", 5, "--out", tmp_path
    run("generate", "--base", base, *given)
    images = []
    for file in sorted(tmp_path.glob("*.png")):
        with Image.open(file) as image:
            images.append(pixels(image))
    expected = plain_image(plain_pipeline(base, family), 3, 5, cfg)
    assert len(images) == 2
    assert min(np.abs(image - expected).max() for image in images) <= 1
    assert (images[0] != images[1]).any()


def test_guidance_and_negative_prompt_act(base: Path) -> None:
    pipe = bwlab.load_base(base)
    plain, guided, away = (
        pixels(bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=cfg, negative=negative)[0])
        for cfg, negative in ((1, ""), (9, ""), (9, "a blue square"))
    )
    assert (plain != guided).any()
    assert (guided != away).any()


def test_latents_and_texts_are_those_of_diffusers(base: Path, family: str) -> None:
    pipe, plain = load_base(base), plain_pipeline(base, family)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = plain.vae
    if family == "qwen-image":
        encoded = plain.vae.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
        mean, deviation = (torch.tensor(vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
        expected = (encoded - mean) / deviation
    else:
        expected = (vae.encode(images).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(encode_images(pipe.vae, images).mean, expected)
    alone = [encode_texts(pipe, [caption]) for caption in (PROMPT, "blue")]
    together = encode_texts(pipe, [PROMPT, "blue"])
    assert [text.mask for text in alone] == [None, None]
    assert together.lengths() == [text.context.shape[1] for text in alone]
    rows = joined(alone)
    assert rows.lengths() == together.lengths()
    torch.testing.assert_close(rows.context, together.context, rtol=1e-4, atol=1e-5)


def test_captions_of_other_lengths_beside_it_change_no_prediction(base: Path) -> None:
    pipe = load_base(base)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([900.0, 300.0])
    with torch.no_grad():
        texts = [encode_texts(pipe, [caption]) for caption in (PROMPT, "blue")]
        together = predict(pipe, latents, times, denoiser_conditions(pipe, joined(texts)))
        alone = [
            predict(pipe, latents[row : row + 1], times[row : row + 1], denoiser_conditions(pipe, text))
            for row, text in enumerate(texts)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_shift_of_training_is_that_of_the_scheduler(base: Path, family: str) -> None:
    process = noise_process(load_base(base))
    assert isinstance(process, FlowMatching)
    dynamic = math.exp(0.5 + (0.9 - 0.5) * (16 - 256) / (4096 - 256))
    assert process.shift == pytest.approx(dynamic if family == "qwen-image" else 3.0)


@pytest.fixture(scope="module")
def trained(family: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return the folder of a run on each family, with the images that it was trained on in `images`."""
    out = tmp_path_factory.mktemp("trained")
    for name, colour in (("red", (220, 30, 30)), ("blue and round", (30, 40, 210))):
        (out / "images").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(out / "images" / f"{name}.png")
        (out / "images" / f"{name}.txt").write_text(f"{name} square")
    base = request.getfixturevalue(f"{family.replace('-', '_')}_folder")
    with pytest.MonkeyPatch.context() as patch:
        from bwlab.base.families.transformer import SizedFamily

        patch.setattr(SizedFamily, "base_side", lambda self, pipe: 32)
        run(*training(base, out, family), "--steps", STEPS, "--out", out / "run")
    return out


def training(base: Path, out: Path, family: str) -> tuple[object, ...]:
    given = "--blocks", BLOCKS[family], "--lr", 0.02, "--batch-size", 2, "--set", "preview.steps=2"
    return "train", "--base", base, "--data", out / "images", "--set", f"checkpoint.every={STEPS // 2}", *given


def test_it_trains_the_named_blocks(trained: Path, family: str) -> None:
    tensors = safetensors.torch.load_file(trained / "run" / "adapter.safetensors")
    found = {".".join(key.split(".")[1:3]) for key in tensors}
    wanted = {
        "qwen-image": {"transformer_blocks.0", "transformer_blocks.2"},
        "z-image": {"noise_refiner.0", "context_refiner.0", "layers.2"},
    }
    assert found == wanted[family]
    assert not any("add_q_proj" in key for key in tensors if key.startswith("transformer.transformer_blocks.2"))
    losses = losses_of(trained / "run")
    assert len(losses) >= STEPS
    assert all(map(math.isfinite, losses))
    moved = {key.split(".")[1] for key, tensor in tensors.items() if "lora_B" in key and bool(tensor.any())}
    assert moved == {block.split(".")[0] for block in wanted[family]}
    assert list((trained / "run" / "previews").glob("*.png"))


def test_a_resumed_run_is_equal(trained: Path, base: Path, family: str) -> None:
    half = trained / "half"
    run(*training(base, trained, family), "--steps", STEPS // 2, "--out", half)
    run(*training(base, trained, family), "--steps", STEPS, "--out", half, "--resume")
    first, second = (safetensors.torch.load_file(folder / "adapter.safetensors") for folder in (trained / "run", half))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_adapter_loads_in_diffusers(trained: Path, base: Path, family: str) -> None:
    adapter = trained / "run" / "adapter.safetensors"
    pipe, theirs = bwlab.load_base(base), plain_pipeline(base, family)
    plain = bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=3)[0]
    changed = bwlab.generate(pipe, PROMPT, seeds=[0], steps=2, cfg=3, adapters=[adapter])[0]
    assert (pixels(plain) != pixels(changed)).any()
    theirs.load_lora_weights(adapter)
    assert np.abs(plain_image(theirs, 2, 0, 3) - pixels(changed)).max() <= 1
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    conditions = denoiser_conditions(pipe, encode_texts(pipe, [PROMPT]))
    times = torch.tensor([700.0])
    with torch.no_grad(), bwlab.attach(pipe, [adapter]):
        mine = predict(pipe, latents, times, conditions)
    with torch.no_grad():
        expected = family_of(pipe).run(theirs.transformer, latents, times, conditions)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_a_schedule_of_an_adapter_follows_the_sampler(trained: Path, base: Path) -> None:
    pipe = bwlab.load_base(base)
    adapter = bwlab.load_adapter(trained / "run" / "adapter.safetensors", pipe)
    images = []
    for schedule in ("0", "0-0.5:1", "0.5-1:1", "1"):
        scaled = bwlab.ScaledAdapter(adapter, 1.0, parse_schedule(schedule))
        images.append(pixels(bwlab.generate(pipe, PROMPT, seeds=[0], steps=4, cfg=2, adapters=[scaled])[0]))
    assert all((one != other).any() for place, one in enumerate(images) for other in images[:place])


def test_conflict_is_measured_block_by_block(
    trained: Path, base: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = []
    for name in ("a", "b"):
        adapters.append(tmp_path / name / "adapter.safetensors")
        adapters[-1].parent.mkdir()
        shutil.copy(trained / "run" / "adapter.safetensors", adapters[-1])
    data = (part for name in ("a", "b") for part in ("--data", f"{name}={trained / 'images'}"))
    capsys.readouterr()
    (tmp_path / "prompts.txt").write_text("a red square\n")
    given = "--base", base, *data, *FEW, "--json"
    run("analyze", "conflict", *adapters, *given, "--prompts", tmp_path / "prompts.txt")
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    assert all(entry.partition("=")[0].partition(".")[0] in text for entry in BLOCKS[family].split(", "))
    assert [cost["of"] for cost in found["measured"]["costs"]] == ["latents", "latents"]
    assert found["measured"]["seeds"] == 2


def test_activations_are_measured(
    trained: Path, base: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\nblue\n")
    capsys.readouterr()
    adapter = trained / "run" / "adapter.safetensors"
    run("analyze", "activations", adapter, "--base", base, "--prompts", tmp_path / "prompts.txt", "--json")
    assert BLOCKS[family].split("=")[0] in capsys.readouterr().out


def test_samplers_that_the_pipelines_cannot_use_are_refused_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "generate", "--base", base, "--prompt", "x", "--steps", 2
    assert command(*wanted, "--sampler", "heun", "--out", tmp_path / "heun") == 2
    error = capsys.readouterr().err
    assert error.count("bwlab: error") == 1
    assert "euler" in error
    assert "dpmpp_2m" not in error.partition("Choose from")[2]


@pytest.mark.parametrize("option", [("--weighting", "a1111"), ("--clip-skip", "2")])
def test_what_the_family_does_not_read_is_refused(
    base: Path, tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("generate", "--base", base, "--prompt", "(x:1.2)", *option, "--out", tmp_path) == 2
    assert "Image" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["QwenImageEditPipeline", "ZImageOmniPipeline"])
def test_other_pipelines_are_refused_in_one_line(
    kind: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(base, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    assert command("generate", "--base", folder, "--prompt", "x", "--out", tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert kind in error
    assert "Qwen-Image" in error


def test_one_step_of_a_stretched_schedule_is_refused(
    base: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Qwen-Image's schedule ends at a noise level above 0, to which diffusers stretches it: 0 / 0 for one step."""
    pipe = load_base(base)
    stretched = bool(pipe.scheduler.config.get("shift_terminal"))
    assert stretched == (family == "qwen-image")
    code = command("generate", "--base", base, "--prompt", PROMPT, "--steps", 1, "--out", tmp_path)
    assert code == (2 if stretched else 0)
    assert ("needs two. Give 2 or more steps" in capsys.readouterr().err) == stretched
