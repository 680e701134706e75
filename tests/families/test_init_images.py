"""Init images, masks and sizes of images with transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.families.commands import PROMPT, command, pixels, run
from tests.families.pipelines import LATE_BLOCKS

SD3_POSITIONS = 6
SD3_TOKEN = 8


def made(base: Path, out: Path, *options: object) -> np.ndarray:
    run("generate", "--base", base, "--prompt", PROMPT, "--steps", 4, "--cfg", 2, "--out", out, *options)
    with Image.open(next(out.glob("*.png"))) as image:
        return pixels(image)


def test_less_strength_keeps_more_of_the_image(base: Path, two_images: Path, tmp_path: Path) -> None:
    image = two_images / "red.png"
    weak = made(base, tmp_path / "weak", "--image", image, "--strength", 0.25)
    strong = made(base, tmp_path / "strong", "--image", image, "--strength", 1)
    whole = made(base, tmp_path / "whole")
    assert weak.shape == strong.shape == whole.shape == (32, 32, 3)
    assert (weak != strong).any()


def test_pixels_outside_a_mask_are_kept(base: Path, two_images: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    image = two_images / "red.png"
    found = made(base, tmp_path / "out", "--image", image, "--mask", tmp_path / "mask.png", "--strength", 0.75)
    assert (found[:, 16:] == (220, 30, 30)).all()
    assert (found[:, :16] != (220, 30, 30)).any()


@pytest.mark.parametrize("family", [*LATE_BLOCKS, "sdxl"], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_have_the_size_that_is_asked_for(base: Path, two_images: Path, tmp_path: Path, precision: str) -> None:
    """From noise, from an image that is fitted to the size, and outside a mask that keeps its pixels."""
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    sized = "--width", 40, "--height", 24, "--precision", precision
    image = "--image", two_images / "red.png"
    assert made(base, tmp_path / "plain", *sized).shape == (24, 40, 3)
    assert made(base, tmp_path / "image", *sized, *image).shape == (24, 40, 3)
    masked = made(base, tmp_path / "masked", *sized, *image, "--mask", tmp_path / "mask.png")
    assert masked.shape == (24, 40, 3)
    assert (masked[:, 20:] == (220, 30, 30)).all()
    assert (masked[:, :20] != (220, 30, 30)).any()


def test_images_larger_than_the_table_of_positions_are_refused(
    sd3_folder: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most = SD3_POSITIONS * SD3_TOKEN
    out = "--out", tmp_path / "out"
    given = "--base", sd3_folder, "--prompt", PROMPT, "--steps", 1, "--height", most + SD3_TOKEN
    assert command("generate", *given, *out) == 2
    assert f"at most {most} pixels" in capsys.readouterr().err
    train = "train", "--base", sd3_folder, "--data", two_images, "--steps", 1, *out
    for setting in (f"data.resolution={2 * most}", f"data.bucket_max={2 * most}"):
        assert command(*train, "--set", "data.buckets=true", "--set", "data.bucket_step=8", "--set", setting) == 2
        assert f"at most {most} pixels" in capsys.readouterr().err


def test_long_images_that_are_not_enlarged_fit_the_table_of_positions_too(
    sd3_folder: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most = SD3_POSITIONS * SD3_TOKEN
    Image.new("RGB", (2 * most, SD3_TOKEN), (90, 100, 150)).save(two_images / "long.png")
    (two_images / "long.txt").write_text("a long image")
    given = "train", "--base", sd3_folder, "--data", two_images, "--steps", 1, "--set", "preview.enabled=false"
    buckets = "--set", "data.buckets=true", "--set", f"data.bucket_step={SD3_TOKEN}"
    assert command(*given, *buckets, "--set", "data.upscale=false", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"long.png: its bucket has {2 * most} x {SD3_TOKEN} pixels" in error
    assert f"at most {most} pixels" in error
    assert command(*given, *buckets, "--out", tmp_path / "enlarged") == 0


def test_a_controlnet_is_refused_in_one_line(
    base: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--controlnet", "emoji", "--control-image", two_images / "red.png", "--out", tmp_path / "out"
    assert command("generate", "--base", base, "--prompt", "x", *given) == 2
    assert capsys.readouterr().err.count("bwlab: error") == 1
