"""`bwlab generate` as typed: what it writes, and every bad input with its one line and exit code 2."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.main import get_command

from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.load import load_adapter
from bwlab.base.load import base_scheme, weights_hash
from bwlab.benchmark import load_benchmark
from bwlab.cli.app import exit_on_error
from bwlab.cli.generate import command
from bwlab.errors import BwlabError
from bwlab.generation.recipe import RecipeControlNet, RecipeEmbedding, read_recipe
from bwlab.generation.sample import _sample_batch, generate
from bwlab.generation.samplers import SAMPLERS
from bwlab.plugins.manager import PluginManager
from tests.conftest import TINY_WIDTH

Captured = pytest.CaptureFixture[str]


def call(*arguments: str | Path) -> int:
    """Run the command as the console script does and return its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    given = [str(argument) for argument in arguments]
    with pytest.raises(SystemExit) as left:
        exit_on_error(lambda: get_command(app).main(args=given, prog_name="bwlab generate"), lambda: False)
    return int(left.value.code or 0)


def common(base: Path, out: Path) -> Sequence[str]:
    return ("--base", str(base), "--out", str(out), "--steps", "2", "--device", "cpu")


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_images_carry_their_recipe(
    tiny_pipeline: Path,
    pipe: StableDiffusionPipeline,
    adapter_files: tuple[Path, Path],
    tmp_path: Path,
    capsys: Captured,
) -> None:
    prompts = ("--prompt", "ink, fox", "--prompt", "owl", "--negative", "dog", "--seed", "5", "--count", "2")
    adapters = ("--adapter", adapter_files[0], "--scale", "0.5", "--adapter", adapter_files[1])
    assert call(*common(tiny_pipeline, tmp_path), *prompts, *adapters, "--cfg", "3", "--sampler", "euler") == 0
    names = ["0000-seed5.png", "0001-seed6.png", "0002-seed5.png", "0003-seed6.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    recipe = read_recipe(tmp_path / names[1])
    assert (recipe.prompt, recipe.negative, recipe.seed, recipe.steps) == ("ink, fox", "dog", 6, 2)
    assert (recipe.cfg, recipe.sampler, recipe.base_hash) == (3, "euler", weights_hash(pipe))
    assert [(use.name, use.scale) for use in recipe.adapters] == [
        ("all", "0.5"),
        ("upper", "1"),
    ]
    assert recipe.adapters[0].sha256 == hashlib.sha256(adapter_files[0].read_bytes()).hexdigest()


def test_scales_are_paired_with_adapters_in_order(
    tiny_pipeline: Path,
    pipe: StableDiffusionPipeline,
    manager: PluginManager,
    adapter_files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    adapters = ("--scale", "0.5", "--adapter", adapter_files[0], "--adapter", adapter_files[1], "--scale", "-1")
    assert call(*common(tiny_pipeline, tmp_path), "--prompt", "fox", *adapters) == 0
    scheme = base_scheme(pipe, manager.block_schemes())
    loaded = [load_adapter(path, pipe.unet, manager, scheme) for path in adapter_files]
    uses = [ScaledAdapter(loaded[0], 0.5), ScaledAdapter(loaded[1], -1.0)]
    expected = generate(pipe, ["fox"], [0], uses, steps=2)[0]
    assert (pixels(tmp_path / "0000-seed0.png") == np.asarray(expected)).all()


def test_blocks_that_a_scale_does_not_name_keep_1(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    upper = ("--prompt", "fox", "--adapter", adapter_files[1])
    for scale in ("1", "mid=0", "upper=0", "*=0"):
        assert call(*common(tiny_pipeline, tmp_path), *upper, "--scale", scale) == 0
    full, without_mid, without_upper, off = (pixels(tmp_path / f"{n:04}-seed0.png") for n in range(4))
    assert (full == without_mid).all()
    assert (without_upper == off).all()
    assert (full != off).any()


def test_files_are_counted_on_or_replaced(tiny_pipeline: Path, tmp_path: Path) -> None:
    arguments = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--grid")
    assert call(*arguments) == 0
    first = pixels(tmp_path / "0000-seed0.png")
    assert call(*arguments, "--cfg", "1") == 0
    names = ["0000-seed0.png", "0001-seed0.png", "grid-0000.png", "grid-0001.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (pixels(tmp_path / "0000-seed0.png") == first).all()
    assert call(*arguments, "--cfg", "1", "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (pixels(tmp_path / "0000-seed0.png") == pixels(tmp_path / "0001-seed0.png")).all()


def test_a_schedule_of_zero_is_no_adapter(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--adapter", str(adapter_files[0]))
    for schedule in ("0", "0-1:1", "0-0.5:1", "0.5-1:1"):
        assert call(*arguments, "--schedule", schedule) == 0
    assert call(*common(tiny_pipeline, tmp_path), "--prompt", "fox") == 0
    off, on, early, late, plain = (pixels(tmp_path / f"{n:04}-seed0.png") for n in range(5))
    assert (off == plain).all()
    assert len({one.tobytes() for one in (off, on, early, late)}) == 4
    recipe = read_recipe(tmp_path / "0002-seed0.png")
    assert recipe.adapters[0].schedule == "0-0.5:1"
    assert 'Lora schedules: "all: 0-0.5:1"' in recipe.parameters()


def test_a_negative_prompt_without_guidance_is_told(tiny_pipeline: Path, tmp_path: Path, capsys: Captured) -> None:
    asked = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--negative", "dog")
    assert call(*asked, "--cfg", "1") == 0
    said = "bwlab: warning: --negative 'dog' has no effect: there is guidance only with --cfg above 1"
    assert said in capsys.readouterr().err
    assert call(*asked, "--cfg", "2") == 0
    assert "no effect" not in capsys.readouterr().err


def test_a_controlnet_changes_the_image_and_is_in_the_recipe(tmp_path: Path) -> None:
    control_image = tmp_path / "fox.png"
    load_benchmark().image("fox", "noto").save(control_image)
    arguments = ("--prompt", "flat, tomato, white background", "--out", tmp_path / "out", "--steps", "3")
    assert call(*arguments, "--device", "cpu") == 0
    controlnet = ("--controlnet", "emoji", "--control-image", control_image, "--control-scale", "0.8")
    assert call(*arguments, "--device", "cpu", *controlnet) == 0
    assert call(*arguments, "--device", "cpu", *controlnet[:-1], "0") == 0
    free, led, off = (tmp_path / "out" / f"{n:04}-seed0.png" for n in range(3))
    assert (pixels(led) != pixels(free)).any()
    assert (pixels(off) == pixels(free)).all()
    assert read_recipe(free).controlnet is None
    image_hash = hashlib.sha256(control_image.read_bytes()).hexdigest()
    assert read_recipe(led).controlnet == RecipeControlNet("emoji", image_hash, "canny", 0.8, 1.0)
    parameters = read_recipe(led).parameters()
    assert 'ControlNet 0: "Module: canny, Model: emoji, Weight: 0.8, Guidance End: 1"' in parameters


def test_embeddings_init_images_and_weighting_are_in_the_recipe(tiny_pipeline: Path, tmp_path: Path) -> None:
    word = tmp_path / "ink=1.safetensors"
    safetensors.torch.save_file({"emb_params": torch.ones(2, TINY_WIDTH)}, word)
    mask = Image.new("L", (32, 32), 255)
    mask.paste(0, (0, 0, 16, 32))
    for name, image in (("start.png", Image.new("RGB", (32, 32), "red")), ("mask.png", mask)):
        image.save(tmp_path / name)
    images = (str(tmp_path / name) for name in ("start.png", "mask.png"))
    start = ("--image", next(images), "--mask", next(images), "--strength", "0.5")
    arguments = (*common(tiny_pipeline, tmp_path / "out"), "--prompt", "a <ink>", "--weighting", "compel")
    assert call(*arguments, *start, "--embedding", f"{word}=<ink>") == 0
    assert call(*arguments, *start) == 0
    first, second = (tmp_path / "out" / f"{n:04}-seed0.png" for n in range(2))
    assert (pixels(first) != pixels(second)).any()
    recipe = read_recipe(first)
    assert recipe.embeddings == (RecipeEmbedding("<ink>", hashlib.sha256(word.read_bytes()).hexdigest()),)
    assert recipe.init_image is not None
    assert (recipe.init_image.strength, recipe.weighting) == (0.5, "compel")
    assert recipe.init_image.mask_sha256 == hashlib.sha256((tmp_path / "mask.png").read_bytes()).hexdigest()
    assert "Denoising strength: 0.5" in recipe.parameters()
    assert 'TI hashes: "<ink>: ' in recipe.parameters()
    assert read_recipe(second).embeddings == ()


def test_a_sheet_of_blocks_by_scale(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    base = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--adapter", str(adapter_files[0]), "--cfg", "3")
    assert call(*base, "--xy", "blocks: upper=1 | mid=1", "scale: 0, 2") == 0
    names = [*(f"{n:04}-seed0.png" for n in range(4)), "xy-0000.png"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    cells = [pixels(tmp_path / name) for name in names[:4]]
    recipes = [read_recipe(tmp_path / name) for name in names[:4]]
    assert [recipe.adapters[0].scale for recipe in recipes] == ["0", "0", "*=0, in0=2, out3=2", "*=0, mid=2"]
    assert (cells[0] == cells[1]).all()
    # Each image of the sheet is what its recipe paints alone, up to rounding in another batch.
    for place in (0, 2, 3):
        assert call(*base, "--scale", recipes[place].adapters[0].scale, "--out", tmp_path / f"alone{place}") == 0
        alone = pixels(tmp_path / f"alone{place}" / "0000-seed0.png")
        assert np.abs(alone.astype(int) - cells[place]).max() <= 1
    assert (cells[2] != cells[3]).any()
    sheet = pixels(tmp_path / "xy-0000.png")
    assert sheet.shape[1] > 2 * 192
    assert call(*base, "--xy", "sampler: euler, ddim", "", "--count", "2") == 0
    assert sorted(path.name for path in tmp_path.glob("xy-*")) == ["xy-0000.png", "xy-0001.png", "xy-0002.png"]
    assert [read_recipe(tmp_path / f"000{n}-seed{n // 6}.png").sampler for n in (4, 5, 6)] == ["euler", "ddim", "euler"]


def other_architecture(file: Path, out: Path) -> Path:
    tensors = safetensors.torch.load_file(file)
    wider = {key: tensor.repeat(1, 2) if key.endswith("down.weight") and tensor.dim() == 2 else tensor
             for key, tensor in tensors.items()}  # fmt: skip
    safetensors.torch.save_file(wider, out)
    return out


def test_bad_input_is_one_line(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    file = str(adapter_files[0])
    (tmp_path / "cut.safetensors").write_bytes(adapter_files[0].read_bytes()[:100])
    (tmp_path / "text.safetensors").write_text("a letter")
    foreign = str(other_architecture(adapter_files[0], tmp_path / "foreign.safetensors"))
    wide, image = str(tmp_path / "wide.safetensors"), str(tmp_path / "picture.png")
    safetensors.torch.save_file({"<x>": torch.zeros(768)}, wide)
    Image.new("RGB", (32, 32)).save(image)
    bad = [
        (("--scale", "1"), "1 scale for 0 adapters"),
        (("--adapter", file, "--scale", "1", "--scale", "2"), "2 scales for 1 adapter"),
        (("--adapter", file, "--scale", "strong"), "strong"),
        (("--adapter", file, "--scale", "nan"), "nan"),
        (("--adapter", file, "--scale", "uper=1"), "uper"),
        (("--adapter", "none.safetensors"), "no such file"),
        (("--adapter", str(tmp_path)), "a folder, not a file"),
        (("--adapter", str(tmp_path / "cut.safetensors")), "cut.safetensors"),
        (("--adapter", str(tmp_path / "text.safetensors")), "text.safetensors"),
        (("--adapter", foreign), "made for another model"),
        (("--sampler", "plms"), "dpmpp_2m_karras"),
        (("--cfg", "nan"), "--cfg nan"),
        (("--cfg", "inf"), "--cfg inf"),
        (("--cfg", "-1"), "--cfg -1"),
        (("--steps", "0"), "--steps 0"),
        (("--steps", "1001"), "Give 1 to 1000"),
        (("--count", "0"), "--count 0"),
        (("--seed", "-1"), "--seed -1"),
        (("--seed", str(2**63)), "out of range"),
        (("--device", "toaster"), "--device toaster"),
        (("--device", "meta:x"), "--device meta:x"),
        (("--base", "none"), "--base none: no such folder"),
        (("--sampler", "lcm", "--steps", "51"), "steps of lcm 51: out of range. Give 1 to 50"),
        (("--schedule", "1"), "1 schedule for 0 adapters"),
        (("--adapter", file, "--schedule", "0.5-0.4:1"), "0.5-0.4 ends before it begins"),
        (("--adapter", file, "--schedule", "0-0.5:1, 0.4-1:1"), "0-0.5 and 0.4-1 overlap"),
        (("--adapter", file, "--schedule", "0-1:nan"), "'nan': it is not a finite number"),
        (("--embedding", "none.pt"), "--embedding none.pt: no such file"),
        (("--embedding", f"{file}=<x>"), "tensors instead of one"),
        (("--embedding", wide), "768 wide, and this base's text embeddings 32"),
        (("--mask", file), "--mask: there is no init image"),
        (("--strength", "0.5"), "--strength: there is no init image"),
        (("--image", "none.png"), "--image none.png: no such file"),
        (("--image", file), "not a readable image"),
        (("--image", image, "--strength", "1.5"), "--strength 1.5: out of range"),
        (("--image", image, "--strength", "nan"), "--strength nan: out of range"),
        (("--image", image, "--strength", "0.3"), "--strength 0.3: that is none of 2 steps"),
        (("--weighting", "compel", "--negative", '("a", "b").and()'), "text of another length"),
        (("--weighting", "compl"), "--weighting compl: no such syntax"),
        (("--xy", "steps: 2, 3", "", "--grid"), "--grid: --xy writes a contact sheet of its own"),
        (("--xy", "scale: 1", ""), "there is no adapter 1 among 0"),
        (("--xy", "steps: 0", ""), "steps 0: out of range"),
        (("--xy", "seed: 1, 2", "", "--count", "2"), "seeds are an axis and --count is 2"),
        (("--xy", "prompt: owl | fox", "", "--prompt", "cat"), "prompts are an axis and 2 are given"),
    ]
    out = tmp_path / "out"
    for arguments, named in bad:
        assert call(*common(tiny_pipeline, out), "--prompt", "fox", *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("bwlab: error: "), error
        assert named in error
        assert error.count("\n") == 1, error
    assert not out.exists()


def test_out_in_the_place_of_a_file_is_refused(tiny_pipeline: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "out").write_text("mine")
    assert call(*common(tiny_pipeline, tmp_path / "out"), "--prompt", "fox") == 2
    assert "a file of that name" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_the_page_names_every_option_and_sampler() -> None:
    page = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")
    options = [name.replace("_", "-") for name in inspect.signature(command).parameters]
    assert [name for name in options if f"`--{name}" not in page] == []
    assert [name for name in SAMPLERS if f"`{name}`" not in page] == []


def test_weights_in_brackets_need_no_compel(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compel's own parser takes three to five times as long for each further bracket."""
    monkeypatch.setitem(sys.modules, "compel", None)
    prompt = "a (red:1.2) fox, ((((((((((((masterpiece))))))))))))"
    assert call(*common(tiny_pipeline, tmp_path), "--prompt", prompt, "--weighting", "a1111") == 0
    assert read_recipe(tmp_path / "0000-seed0.png").weighting == "a1111"


def test_images_are_written_as_they_are_finished(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The second batch fails: the eight images of the first one stay, and the next command counts on after them."""
    batches: list[int] = []

    def failing(*given: Any) -> list[Image.Image]:
        batches.append(len(given[1].rows))
        if len(batches) == 2:
            raise BwlabError("sampling", "NaN or infinity after step 1", "Lower the scale")
        return _sample_batch(*given)

    monkeypatch.setattr("bwlab.generation.sample._sample_batch", failing)
    given = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--count", "10", "--cfg", "1")
    assert call(*given) == 2
    assert batches == [8, 2]
    names = [f"{number:04}-seed{number}.png" for number in range(8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert call(*given[:-4], "--cfg", "1") == 0
    assert (tmp_path / "0008-seed0.png").is_file()
    assert (pixels(tmp_path / "0008-seed0.png") == pixels(tmp_path / names[0])).mean() > 0.9


def test_an_axis_of_samplers_is_checked_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("bwlab.generation.sample._sample_batch", None)
    given = (*common(Path("emoji-dit"), tmp_path), "--prompt", "fox", "--xy", "sampler: euler, ddim", "")
    assert call(*given) == 2
    assert "the base was trained by flow matching" in capsys.readouterr().err


def test_the_recipe_of_single_blocks_makes_the_image_again(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    given = (*common(tiny_pipeline, tmp_path), "--prompt", "fox", "--cfg", "1", "--adapter", str(adapter_files[0]))
    assert call(*given, "--xy", "blocks: upper=1", "") == 0
    first = tmp_path / "0000-seed0.png"
    (use,) = read_recipe(first).adapters
    assert call(*given, "--scale", use.scale) == 0
    again = tmp_path / "0001-seed0.png"
    assert (pixels(first) == pixels(again)).all()
    assert read_recipe(first) == read_recipe(again)
