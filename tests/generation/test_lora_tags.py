"""Tags of adapters in prompts, `<lora:name:0.8>`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from bwlab.adapters.save import save_adapter
from bwlab.generation.recipe import read_recipe
from bwlab.plugins.manager import PluginManager
from tests.generation.conftest import strong_adapter
from tests.generation.test_generate_command import Captured, call, common, pixels


@pytest.fixture(scope="module")
def loras(
    pipe: StableDiffusionPipeline,
    manager: PluginManager,
    adapter_files: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder of adapters: all, upper, styles/upper, styles/deep and run/adapter."""
    folder = tmp_path_factory.mktemp("loras")
    for name in ("styles", "run"):
        (folder / name).mkdir()
    shutil.copy(adapter_files[0], folder / "all.safetensors")
    shutil.copy(adapter_files[1], folder / "upper.safetensors")
    shutil.copy(adapter_files[0], folder / "styles" / "upper.safetensors")
    shutil.copy(adapter_files[0], folder / "run" / "adapter.safetensors")
    save_adapter(strong_adapter(pipe, manager, "all=2, te=2", 3, text=True), folder / "styles" / "deep.safetensors")
    return folder


@pytest.mark.parametrize(
    ("tag", "file", "scale"),
    [
        ("<lora:all:0.5>", "all", "0.5"),
        ("<lora:all>", "all", "1"),
        ("<LYCO: all : -1 >", "all", "-1"),
        ("<lora:upper:1>", "upper", "1"),
        ("<lora:styles/upper:1>", "styles/upper", "1"),
        (r"<lora:styles\upper.safetensors:1>", "styles/upper", "1"),
        ("<lora:run:1>", "run/adapter", "1"),
        ("<lora:deep:0.5:1>", "styles/deep", "te=0.5"),
        ("<lora:deep:te=0.25:unet=0.5>", "styles/deep", "*=0.5, te=0.25"),
        ("<lora:all:1:lbw=NONE>", "all", "0"),
        ("<lora:all:2:ALL>", "all", "2"),
    ],
)
def test_a_tag_is_an_adapter_with_a_scale(
    tiny_pipeline: Path, loras: Path, tmp_path: Path, tag: str, file: str, scale: str
) -> None:
    base = (*common(tiny_pipeline, tmp_path), "--negative", "dog")
    assert call(*base, "--prompt", f"fox {tag}", "--lora-dir", loras) == 0
    assert call(*base, "--prompt", "fox", "--adapter", f"{loras / file}.safetensors:{scale}") == 0
    tagged, given = (tmp_path / f"{n:04}-seed0.png" for n in range(2))
    assert (pixels(tagged) == pixels(given)).all()
    assert read_recipe(tagged).prompt == "fox"
    if scale not in ("0", "te=0.5"):
        assert read_recipe(tagged) == read_recipe(given)


def test_numbers_of_blocks_may_stand_unnamed(loras: Path, tmp_path: Path) -> None:
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.generation.job import GenerateJob
    from bwlab.generation.lora_tags import with_scales, with_tags

    scheme = scheme_for(base_unet("sd14").config)
    numbers = ",".join(["1", "0", *["0.5"] * 24])
    texts = [f"<lora:all:1:{numbers}>", f"<lora:all:1:lbw={numbers}>"]
    jobs = [with_scales(with_tags(GenerateJob((text,), lora_dir=loras)), scheme) for text in texts]
    assert jobs[0].tag_scales == jobs[1].tag_scales
    assert jobs[0].tag_scales[0][0].startswith("*=0.5, ")


def test_a_tag_acts_on_its_prompt_only(tiny_pipeline: Path, loras: Path, tmp_path: Path) -> None:
    prompts = ("<lora:all:0.5> fox", "fox", "fox <lora:upper:1><lora:all:1>")
    base: Sequence[str | Path] = (*common(tiny_pipeline, tmp_path), "--lora-dir", loras)
    assert call(*base, *(part for prompt in prompts for part in ("--prompt", prompt)), "--grid") == 0
    for prompt in prompts:
        assert call(*base, "--prompt", prompt) == 0
    files = [tmp_path / f"{n:04}-seed0.png" for n in range(6)]
    for together, alone in zip(files[:3], files[3:], strict=True):
        assert np.abs(pixels(together).astype(int) - pixels(alone)).max() <= 1
        by_name = [{use.name: use.scale for use in read_recipe(file).adapters} for file in (together, alone)]
        assert by_name[0] == by_name[1]
    assert len({pixels(file).tobytes() for file in files[3:]}) == 3
    assert read_recipe(files[1]).adapters == ()
    assert "<lora:all:0.5>" in read_recipe(files[0]).parameters()


def test_tags_and_options_add_up_and_tags_have_axes(tiny_pipeline: Path, loras: Path, tmp_path: Path) -> None:
    given = ("--adapter", f"{loras / 'upper.safetensors'}:0.5", "--schedule", "0-0.5:1")
    base: Sequence[str | Path] = (*common(tiny_pipeline, tmp_path), "--prompt", "fox <lora:all:2>", "--lora-dir", loras)
    assert call(*base, *given, "--xy", "scale 2: 0.25, 1", "") == 0
    recipes = [read_recipe(tmp_path / f"{n:04}-seed0.png") for n in range(2)]
    assert [[(use.name, use.scale, use.schedule) for use in recipe.adapters] for recipe in recipes] == [
        [("upper", "0.5", "0-0.5:1"), ("all", "0.5", "1")],
        [("upper", "0.5", "0-0.5:1"), ("all", "2", "1")],
    ]


def test_bad_tags_are_one_line(tiny_pipeline: Path, loras: Path, tmp_path: Path, capsys: Captured) -> None:
    here = ("--lora-dir", loras)
    bad = [
        (("--prompt", "<lora:all:1>"), "prompt tag <lora:all:1>: no folder of adapters is given"),
        (("--prompt", "<lora:all:1>", "--lora-dir", tmp_path / "no"), "no: no such folder"),
        (("--prompt", "<lora:al:1>", *here), "has no adapter 'al'. Did you mean all?"),
        (("--prompt", "<lora:../all:1>", *here), "has no adapter '../all'"),
        (("--prompt", "<lora::1>", *here), "has no adapter ''"),
        (("--prompt", "<lora:all:1><lora:all:2>", *here), "<lora:all:1> in the same prompt names the same file"),
        (("--prompt", "<lora:all:strong>", *here), "strong"),
        (("--prompt", "<lora:all:1:IN04>", *here), "'IN04' is a preset of the extension LoRA Block Weight"),
        (("--prompt", "<lora:all:1:lbw=MIDD>", *here), "'MIDD' is a preset of the extension LoRA Block Weight"),
        (("--prompt", "<lora:all:1:lbw=1,0,1>", *here), "fit UNets with two layers per block only"),
        (("--prompt", "<lora:all:1:stop=10>", *here), "'stop'"),
        (("--prompt", "<hypernet:all:1>", *here), "bwlab reads no hypernetworks"),
        (("--prompt", "fox", "--negative", "<lora:all:1>", *here), "tags in --negative load no adapter"),
        (("--prompt", "fox", "--xy", "prompt: a <lora:all:1> | b", "", *here), "tags in --xy load no adapter"),
        (("--prompt", "<lora:all:1>", "--schedule", "1", *here), "1 schedule for 0 adapters"),
    ]
    out = tmp_path / "out"
    for arguments, named in bad:
        assert call(*common(tiny_pipeline, out), *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("bwlab: error: "), error
        assert named in error
        assert error.count("\n") == 1, error
    assert not out.exists()


def test_two_files_of_one_name_must_be_told_apart(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(adapter_files[0], tmp_path / folder / "fox.safetensors")
    arguments = ("--prompt", "<lora:fox:1>", "--lora-dir", tmp_path)
    assert call(*common(tiny_pipeline, tmp_path / "out"), *arguments) == 2
    assert "a/fox.safetensors and b/fox.safetensors have this name" in capsys.readouterr().err


def test_an_axis_of_an_adapter_leaves_prompts_without_its_tag_alone(
    tiny_pipeline: Path, loras: Path, tmp_path: Path
) -> None:
    prompts = ("--prompt", "fox <lora:all:1>", "--prompt", "fox", "--lora-dir", loras)
    axes = ("--xy", "blocks: all=1 | mid=1", "")
    assert call(*common(tiny_pipeline, tmp_path / "grid"), *prompts, *axes) == 0
    assert call(*common(tiny_pipeline, tmp_path / "plain"), "--prompt", "fox") == 0
    plain = pixels(tmp_path / "plain" / "0000-seed0.png")
    with_tag, without = (
        [pixels(tmp_path / "grid" / f"{number:04}-seed0.png") for number in numbers] for numbers in ((0, 1), (2, 3))
    )
    assert all((image == plain).all() for image in without)
    assert not (with_tag[0] == plain).all()
    assert not (with_tag[0] == with_tag[1]).all()
    assert read_recipe(tmp_path / "grid" / "0002-seed0.png").adapters == ()
