"""Every option of `bwlab generate` on the embedded base: what it changes in images and recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bwlab.benchmark import load_benchmark
from bwlab.generation import sample
from bwlab.terminal import echo
from tests.generation.test_generate_command import pixels
from tests.options import made
from tests.options.effects import (
    both_work,
    first_image,
    needed,
    new_image,
    other_pixels,
    recipe_value,
    refused,
    says,
)
from tests.options.rows import Done, Effect, Row, Runner, Table

EMOJI_TEXT_WIDTH = 128


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return two adapters, an embedding, an image, its mask and a picture of lines."""
    (folder / "loras").mkdir()
    files = made.adapters(folder / "loras", "emoji", fox="all=2", ink="upper=3")
    benchmark = load_benchmark()
    benchmark.image("fox", "noto").save(folder / "fox.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((32, 0, 63, 63), fill=255)
    mask.save(folder / "mask.png")
    return {
        **files,
        "loras": folder / "loras",
        "word": made.embedding(folder / "blueish.safetensors", EMOJI_TEXT_WIDTH),
        "image": folder / "fox.png",
        "mask": folder / "mask.png",
    }


def one_more_image(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert len(without.files("**/0*.png")) == 1
    assert len(with_option.files("**/0*.png")) == 2
    first, second = (pixels(first_image(done)).astype(int) for done in (without, with_option))
    assert np.abs(first - second).max() <= 2  # the size of a batch shows in the last bits


@pytest.fixture(scope="module", autouse=True)
def batches_told() -> Iterator[None]:
    """Have each batch of images told on standard error."""
    sample_batch = sample._sample_batch

    def told(sampling: Any, batch: sample.EncodedPrompts, *more: Any) -> list[Image.Image]:
        echo(f"a batch of {len(batch.rows)}", err=True)
        return sample_batch(sampling, batch, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "_sample_batch", told)
        yield


def of_another_size(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert (pixels(first_image(without)).shape, pixels(first_image(with_option)).shape) == ((64, 64, 3), (32, 32, 3))


def of_size(width: int, height: int) -> Effect:
    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        shapes = [pixels(first_image(done)).shape for done in (without, with_option)]
        assert shapes == [(64, 64, 3), (height, width, 3)]
        assert [recipe_value(with_option, side) for side in ("width", "height")] == [width, height]

    return check


def another_seed(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    first, second = without.file("images/0000-seed0.png"), with_option.file("images/0000-seed3.png")
    assert (pixels(first) != pixels(second)).any()


def in_another_folder(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert without.names() == ["images/0000-seed0.png"]
    assert with_option.names() == ["elsewhere/0000-seed0.png"]
    assert with_option.out == "elsewhere/0000-seed0.png\n"


def wrote_a_sheet(name: str) -> Effect:
    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert not without.files(f"**/{name}")
        assert with_option.file(f"**/{name}")

    return check


def kept_outside_the_mask(without: Done, with_option: Done) -> None:
    other_pixels(without, with_option)
    given = np.asarray(load_benchmark().image("fox", "noto").convert("RGB"), dtype=float)
    changes = [np.abs(pixels(first_image(done)) - given).mean(axis=(0, 2)) for done in (without, with_option)]
    assert changes[1][:16].mean() < 0.5 * changes[0][:16].mean()  # the mask is black there


def replaced(without: Done, with_option: Done) -> None:
    """The folder holds an image with the same number already."""
    both_work(without, with_option)
    assert without.names() == ["images/0000-seed0.png", "images/0001-seed0.png"]
    assert with_option.names() == ["images/0000-seed0.png"]
    first, second = (pixels(done.file("images/0000*")) for done in (without, with_option))
    assert (first != second).any()
    assert (second == pixels(without.file("images/0001*"))).all()


COMMON = "--prompt 'flat, fox' --steps 2 --device cpu"
OWN_PROMPT = "--steps 2 --device cpu --prompt"
FOX = "--adapter {fox}"
TWO = "--adapter {fox}:0.3 --adapter {ink}:0.3"
K_LORA = "--fusion k-lora"
LED = "--controlnet emoji --control-image {image}"
GENERATE = Table(
    "generate",
    COMMON,
    [
        Row("--prompt", "--prompt owl", one_more_image),
        Row("--base", "--base {tiny}", of_another_size),
        Row("--adapter", FOX, new_image("adapters.0.name", "fox")),
        Row("--scale", "--scale 0.5", new_image("adapters.0.scale", "0.5"), also=FOX),
        Row(
            "--schedule",
            "--schedule 0-0.5:1",
            new_image("adapters.0.schedule", "0-0.5:1"),
            also=FOX,
        ),
        *(
            Row(f"--fusion {name}", f"--fusion {given}", new_image("fusion.name", name), also=TWO)
            for name, given in (("guided", "guided:guidance=1"), ("switch", "switch:steps=1"))  # all: tests/fusion
        ),
        Row("--fusion option", "--fusion k-lora:beta=9", new_image("fusion.options.beta", 9), also=TWO, instead=K_LORA),
        Row("--fusion b-lora", "--fusion b-lora", refused("the base is not SDXL"), also=TWO),
        Row("--lora-dir", "--lora-dir {loras}", needed("--lora-dir"), common=f"{OWN_PROMPT} 'owl <lora:ink:1>'"),
        Row(
            "--embedding",
            "--embedding {word}",
            new_image("embeddings.0.word", "blueish"),
            common=f"{OWN_PROMPT} 'blueish'",
        ),
        Row("--negative", "--negative blue", new_image("negative", "blue")),
        Row("--image", "--image {image}", new_image("init_image.strength", 0.75)),
        Row("--mask", "--mask {mask}", kept_outside_the_mask, also="--image {image} --steps 4"),
        Row(
            "--strength",
            "--strength 0.5",
            new_image("init_image.strength", 0.5),
            also="--image {image} --steps 4",
        ),
        Row("--controlnet", "--controlnet emoji", needed("no ControlNet is given"), also="--control-image {image}"),
        Row(
            "--control-image",
            "--control-image {image}",
            needed("no image is given for it to follow"),
            also="--controlnet emoji",
        ),
        Row(
            "--control-image",
            LED,
            new_image("controlnet.name", "emoji"),
        ),
        Row("--control", "--control lineart", new_image("controlnet.edges", "lineart"), also=LED),
        Row(
            "--control-scale",
            "--control-scale 0.5",
            new_image("controlnet.scale", 0.5),
            also=LED,
        ),
        Row("--control-end", "--control-end 0.5", new_image("controlnet.end", 0.5), also=LED),
        Row("--control-end of nothing", "--control-end 0.5", refused("no ControlNet is given")),
        Row("--control-end 0", "--control-end 0", refused("the ControlNet would never act"), also=LED),
        Row("--control-scale of nothing", "--control-scale 0.5", refused("no ControlNet is given")),
        Row("--control of nothing", "--control lineart", refused("no ControlNet is given")),
        Row("--seed", "--seed 3", another_seed),
        Row("--count", "--count 2", one_more_image),
        Row("--steps", "--steps 3", new_image("steps", 3)),
        Row("--cfg", "--cfg 2", new_image("cfg", 2)),
        Row("--sampler", "--sampler euler", new_image("sampler", "euler")),
        Row(
            "--weighting",
            "--weighting a1111",
            new_image("weighting", "a1111"),
            common=f"{OWN_PROMPT} 'flat, (fox:1.7)'",
        ),
        Row("--width", "--width 80", of_size(80, 64)),
        Row("--width of part of a latent", "--width 65", refused("Give a multiple of 4, such as 64")),
        Row("--height", "--height 48", of_size(64, 48)),
        Row("--height of an init image", "--height 48", of_size(64, 48), also="--image {image}"),
        Row("--height of a ControlNet", "--height 48", of_size(64, 48), also=LED),
        Row("--batch-size", "--batch-size 1", says("a batch of 1", "a batch of 2"), also="--count 2"),
        Row("--precision", "--precision bf16", new_image("precision", "bf16")),
        Row("--precision fp16", "--precision fp16", refused("the base is on the CPU")),
        Row("--clip-skip", "--clip-skip 2", new_image("clip_skip", 2)),
        Row("--xy", "--xy 'cfg: 1, 2' ''", wrote_a_sheet("xy-0000.png")),
        Row("--device", "--device cuda:7", refused("cuda:7")),
        Row("--out", "--out elsewhere", in_another_folder),
        Row("--grid", "--grid", wrote_a_sheet("grid-0000.png")),
        Row("--overwrite", "--overwrite", replaced, before=f"{COMMON} --cfg 1"),
    ],
)
TABLES = [GENERATE]


@pytest.mark.parametrize(("table", "row"), [value for table in TABLES for value in table.parameters()])
def test_an_option_acts(runner: Runner, table: Table, row: Row) -> None:
    runner.check(table, row)
