"""Sampling from images: what is kept, how far it is left, and images that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.generation.diffusers_pipelines import KeptOutside, generated_size, needs_own_mask, pipeline_for
from bwlab.generation.img2img import InitImage, fitted, read_image, read_init_image
from bwlab.generation.sample import generate

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

SIDE = 32
STEPS = 4


def noise(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def left_half() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    return mask


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def xl(tiny_xl_pipeline: Path) -> Pipeline:
    return load_base(tiny_xl_pipeline)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("masked", [False, True])
def test_images_depend_on_the_start_and_not_on_those_beside_them(
    pipe: Pipeline, request: pytest.FixtureRequest, family: str, masked: bool
) -> None:
    base = pipe if family == "sd" else request.getfixturevalue("xl")
    start = InitImage(noise(), 0.5, left_half() if masked else None)
    prompts, seeds, steps = ["fox", "owl", "fox"], [7, 7, 8], []
    together = generate(
        base, prompts, seeds, steps=STEPS, init_image=start, batch_size=2, on_step=lambda *step: steps.append(step)
    )
    alone = [
        generate(base, [prompt], [seed], steps=STEPS, init_image=start)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert max(np.abs(pixels(a) - pixels(b)).max() for a, b in zip(together, alone, strict=True)) <= 1
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two batches of half of four steps
    other = generate(base, ["fox"], [7], steps=STEPS, init_image=InitImage(noise(1), 0.5, start.mask))[0]
    assert np.abs(pixels(other) - pixels(alone[0])).max() > 1
    assert together[0].size == (SIDE, SIDE)
    if masked:
        assert (pixels(together[0])[:, SIDE // 2 :] == pixels(start.image)[:, SIDE // 2 :]).all()
        assert (pixels(together[0])[:, : SIDE // 2] != pixels(start.image)[:, : SIDE // 2]).any()


@pytest.mark.parametrize("sampler", ["dpmpp_2m_karras", "euler_a", "ddim"])
def test_masks_on_a_base_whose_latents_have_eight_channels(sampler: str) -> None:
    base = load_base("emoji")
    assert needs_own_mask(base)
    whole = base.image_processor.vae_scale_factor * base.unet.config.sample_size
    mask = left_half().resize((whole, whole), Image.Resampling.NEAREST)
    start = InitImage(noise(size=(whole, whole)), 0.7, mask)
    together = generate(
        base, ["noto, fox"] * 3, [1, 2, 1], steps=STEPS, sampler=sampler, init_image=start, batch_size=2
    )
    assert np.abs(pixels(together[0]) - pixels(together[2])).max() <= 1
    assert np.abs(pixels(together[0]) - pixels(together[1])).max() > 1
    assert (pixels(together[0])[:, whole // 2 :] == pixels(start.image)[:, whole // 2 :]).all()
    assert (pixels(together[0])[:, : whole // 2] != pixels(start.image)[:, : whole // 2]).any()


def test_latents_outside_the_mask_are_the_images_with_the_noise_of_the_step() -> None:
    pipeline = pipeline_for(load_base("emoji"), "ddim", "image")
    side = pipeline.unet.config.sample_size
    whole = side * pipeline.image_processor.vae_scale_factor
    keep = KeptOutside(pipeline, InitImage(noise(size=(whole, whole)), 1.0, left_half().resize((whole, whole))), [5, 6])
    pipeline.scheduler.set_timesteps(STEPS)
    generated = torch.full((2, 8, side, side), 9.0)
    first, last = (keep(generated, pipeline.scheduler.timesteps[step]) for step in (0, -1))
    assert (first[..., : side // 2] == 9).all()
    assert torch.equal(last[..., side // 2 :], keep.latents[..., side // 2 :])
    level = pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[1]]
    expected = level.sqrt() * keep.latents + (1 - level).sqrt() * keep.noise
    assert torch.allclose(first[..., side // 2 :], expected[..., side // 2 :], atol=1e-5)
    assert not torch.equal(keep.noise[0], keep.noise[1])


def test_a_low_strength_stays_near_the_image(pipe: Pipeline) -> None:
    """The distance is to the image as the autoencoder decodes it: the random one here does it badly."""
    far, near = (
        generate(pipe, ["fox"], [7], steps=20, cfg=1, init_image=InitImage(noise(), strength))[0]
        for strength in (1.0, 0.05)
    )
    latents = pipe.vae.encode(pipe.image_processor.preprocess(noise())).latent_dist.mode()
    (shown,) = pipe.image_processor.postprocess(pipe.vae.decode(latents).sample.detach())
    distances = [float(np.abs(pixels(image) - pixels(shown)).mean()) for image in (near, far)]
    assert distances[0] < distances[1]


def test_images_are_fitted_to_the_base(pipe: Pipeline) -> None:
    wide = Image.new("RGB", (3 * SIDE, SIDE), "red")
    wide.paste("blue", (SIDE, 0, 2 * SIDE, SIDE))
    assert fitted(wide, generated_size(pipe)).getcolors() == [(SIDE * SIDE, (0, 0, 255))]
    art = noise(size=(8, 8))
    assert (pixels(fitted(art, generated_size(pipe))) == pixels(art).repeat(4, 0).repeat(4, 1)).all()
    assert (pixels(fitted(noise(size=(8, 4)), (16, 8))) == pixels(noise(size=(8, 4))).repeat(2, 0).repeat(2, 1)).all()


def test_starts_from_files(pipe: Pipeline, tmp_path: Path) -> None:
    see_through = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))
    see_through.save(tmp_path / "a.png")
    grey = Image.new("L", (SIDE, SIDE), 128)
    grey.putpixel((0, 0), 127)
    grey.save(tmp_path / "grey.png")
    start = read_init_image(tmp_path / "a.png", 0.3, tmp_path / "grey.png", generated_size(pipe))
    assert start.image.getcolors() == [(SIDE * SIDE, (255, 255, 255))]
    assert start.mask is not None
    assert start.mask.getcolors() == [(1, 0), (SIDE * SIDE - 1, 255)]
    assert (start.steps(25), InitImage(start.image, 1.0).steps(25)) == (7, 25)


def test_a_image_is_read_as_those_of_data_sets_are(tmp_path: Path) -> None:
    """Sixteen bits of grey keep their levels, and a photograph stands upright."""
    Image.fromarray(np.full((5, 7), 100 << 8, np.uint16)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", "--image").getcolors() == [(35, (100, 100, 100))]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (7, 5), "red").save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", "--image").size == (5, 7)


def test_bad_images_are_user_errors(pipe: Pipeline, tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise(size=(SIDE, 8)).save(tmp_path / "small.png")
    Image.new("L", (SIDE, SIDE), 127).save(tmp_path / "black.png")
    seen_through = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    seen_through.paste((255, 255, 255, 255), (0, 0, SIDE // 2, SIDE))
    seen_through.save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("a letter")
    for image, mask, found in (
        ("none.png", None, "no such file"),
        ("text.png", None, "not a readable image"),
        (".", None, "a folder"),
        ("a.png", "small.png", "it has 32 x 8 pixels, the image 32 x 32"),
        ("a.png", "black.png", "the whole mask is black"),
        ("a.png", "white.png", "the whole mask is white, as transparent parts are too"),
    ):
        with pytest.raises(BwlabError, match=found):
            read_init_image(tmp_path / image, 0.5, tmp_path / mask if mask else None, generated_size(pipe))
