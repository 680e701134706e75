"""PNG files: the recipe inside, free names, and nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.generation.recipe import (
    GenerationRecipe,
    RecipeAdapter,
    first_free_number,
    png_bytes,
    read_recipe,
    recipe_from_json,
    write_png,
)

RECIPE = GenerationRecipe(
    prompt="ink, fox",
    negative="blurry",
    seed=7,
    steps=25,
    cfg=7.5,
    sampler="dpmpp_2m_karras",
    base="emoji",
    base_hash="0123456789abcdef",
    width=64,
    height=48,
    version="0.1.0",
    adapters=(RecipeAdapter("fox", "f" * 64, "0.8"), RecipeAdapter("ink", "e" * 64, "upper=1")),
)
IMAGE = Image.new("RGB", (64, 48), (200, 100, 50))


def test_parameters_are_as_a1111_writes_them() -> None:
    assert RECIPE.parameters() == (
        "ink, fox <lora:fox:0.8>\n"
        "Negative prompt: blurry\n"
        "Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, Size: 64x48, Model hash: 0123456789, "
        'Model: emoji, Lora hashes: "fox: ffffffffff, ink: eeeeeeeeee", Lora block scales: "ink: upper=1", '
        "Version: bwlab 0.1.0"
    )
    plain = replace(RECIPE, negative="", adapters=())
    assert plain.parameters().splitlines()[0] == "ink, fox"
    assert len(plain.parameters().splitlines()) == 2


def test_the_recipe_comes_back_from_the_file(tmp_path: Path) -> None:
    recipe = replace(RECIPE, prompt='tinte, "füchse" 狐', negative="")
    path = write_png(tmp_path / "a.png", IMAGE, recipe)
    assert read_recipe(path) == recipe
    with Image.open(path) as image:
        assert image.info["parameters"] == recipe.parameters()
        assert image.getpixel((0, 0)) == (200, 100, 50)


@given(st.text(max_size=30), st.integers(0, 2**63 - 1), st.floats(0, 100))
def test_any_recipe_round_trips(prompt: str, seed: int, cfg: float) -> None:
    recipe = replace(RECIPE, prompt=prompt, seed=seed, cfg=cfg)
    assert recipe_from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"adapters": [{"colour": 1}]}'])
def test_a_foreign_recipe_is_refused(text: str) -> None:
    with pytest.raises(BwlabError, match="bwlab did not write this recipe"):
        recipe_from_json(text)


def test_images_without_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="contains no recipe"):
        read_recipe(write_png(tmp_path / "a.png", IMAGE))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(BwlabError, match="not a readable image"):
        read_recipe(tmp_path / "b.png")


def test_a_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", IMAGE)
    before = path.read_bytes()
    other = Image.new("RGB", (5, 5))
    with pytest.raises(BwlabError, match="exists"):
        write_png(path, other)
    assert path.read_bytes() == before
    write_png(path, other, overwrite=True)
    assert path.read_bytes() == png_bytes(other)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_numbers_count_on_from_the_highest(tmp_path: Path) -> None:
    assert first_free_number(tmp_path) == 0
    for name in ("0003-seed1.png", "0011.png", "grid-0020.png", "fox.png", "0050.txt", "123.png"):
        (tmp_path / name).touch()
    assert first_free_number(tmp_path) == 12
    assert first_free_number(tmp_path, "grid-") == 21
