"""Adapter files with their scale after a colon, `--adapter FILE:SPEC`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.generation.adapter_option import adapters_with_scales, split_adapter
from bwlab.generation.recipe import read_recipe
from tests.generation.test_generate_command import Captured, call, common, pixels


def test_a_scale_after_the_colon_is_that_of_the_option(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    base = (*common(tiny_pipeline, tmp_path), "--prompt", "fox")
    whole, upper = map(str, adapter_files)
    options = ("--adapter", whole, "--scale", "0.5", "--adapter", upper, "--scale", "*=0, out3=2")
    assert call(*base, *options) == 0
    assert call(*base, "--adapter", f"{whole}:0.5", "--adapter", f"{upper}: *=0, out3=2") == 0
    assert call(*base, "--adapter", whole, "--adapter", f"{upper}:*=0, out3=2", "--scale", "0.5") == 0
    files = [tmp_path / f"{n:04}-seed0.png" for n in range(3)]
    assert (pixels(files[0]) == pixels(files[1])).all()
    assert (pixels(files[0]) == pixels(files[2])).all()
    recipes = [read_recipe(file) for file in files]
    assert [(each.name, each.scale) for each in recipes[1].adapters] == [("all", "0.5"), ("upper", "*=0, out3=2")]
    assert recipes[0] == recipes[1] == recipes[2]


def test_a_spec_may_be_longer_than_names_of_files(tmp_path: Path) -> None:
    spec = ", ".join(f"in{block}.{layer}=0.35" for block in range(12) for layer in range(4))
    assert len(spec) > 255
    assert split_adapter(f"{tmp_path}/fox.safetensors:{spec}") == (tmp_path / "fox.safetensors", spec)


def test_an_existing_file_keeps_its_colons(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path
) -> None:
    odd = tmp_path / "fox:0.5"
    shutil.copy(adapter_files[0], odd)
    assert call(*common(tiny_pipeline, tmp_path / "out"), "--prompt", "fox", "--adapter", odd) == 0
    assert call(*common(tiny_pipeline, tmp_path / "out"), "--prompt", "fox", "--adapter", f"{odd}:0.25") == 0
    recipes = [read_recipe(tmp_path / "out" / f"{n:04}-seed0.png") for n in range(2)]
    assert [recipe.adapters[0].scale for recipe in recipes] == ["1", "0.25"]
    assert recipes[0].adapters[0].sha256 == recipes[1].adapters[0].sha256


@pytest.mark.parametrize(
    ("text", "file", "spec"),
    [
        (r"C:\loras\fox.safetensors", r"C:\loras\fox.safetensors", None),
        (r"C:\loras\fox.safetensors:0.8", r"C:\loras\fox.safetensors", "0.8"),
        (r"D:fox.safetensors", r"D:fox.safetensors", None),
        ("fox.safetensors", "fox.safetensors", None),
        ("fox.safetensors:-1", "fox.safetensors", "-1"),
        ("fox.safetensors:*=0, upper=1", "fox.safetensors", "*=0, upper=1"),
        ("a:b/fox.safetensors", "a:b/fox.safetensors", None),
    ],
)
def test_colons_of_drives_and_folders_stay(text: str, file: str, spec: str | None) -> None:
    assert split_adapter(text) == (Path(file), spec)


def test_bad_scales_are_one_line(
    tiny_pipeline: Path, adapter_files: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    file = str(adapter_files[0])
    bad = [
        (("--adapter", f"{file}:0.8", "--scale", "0.5"), "--scale 0.5: all.safetensors at the same position"),
        (("--adapter", f"{file}:0.8", "--adapter", file, "--scale", "0.5"), "has the scale 0.8 after its colon"),
        (("--adapter", f"{file}:0.8", "--scale", "0.5", "--scale", "1"), "2 scales for 1 adapter"),
        (("--adapter", f"{file}:"), "there is no scale after the colon"),
        (("--adapter", f"{file}:strong"), "strong"),
        (("--adapter", f"{file}:uper=1"), "uper"),
        (("--adapter", f"{file}:nan"), "nan"),
        (("--adapter", "none.safetensors:0.8"), "--adapter none.safetensors: no such file"),
        (("--adapter", "none.safetensors:strong"), "--adapter none.safetensors:strong: no such file"),
    ]
    for arguments, named in bad:
        assert call(*common(tiny_pipeline, tmp_path / "out"), "--prompt", "fox", *arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("bwlab: error: "), error
        assert named in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_scales_of_options_fill_up_the_adapters_without_one() -> None:
    assert adapters_with_scales(["a.safetensors", "b.safetensors"], ["0.5"])[1] == ("0.5", "1")
    with pytest.raises(BwlabError, match="1 scale for 0 adapters"):
        adapters_with_scales([], ["1"])
