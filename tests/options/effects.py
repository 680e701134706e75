"""Effects that rows of options assert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from bwlab.generation.recipe import read_recipe
from tests.generation.test_generate_command import pixels
from tests.options.rows import Done, Effect
from tests.training.runs import same_tensors


def both_work(without: Done, with_option: Done) -> None:
    """Assert that both calls end well."""
    assert without.code == 0, without.err
    assert with_option.code == 0, with_option.err


def all_of(*effects: Effect) -> Effect:
    """Return an effect that is all of several."""

    def check(without: Done, with_option: Done) -> None:
        for effect in effects:
            effect(without, with_option)

    return check


def refused(text: str) -> Effect:
    """Return the effect that the call with the option ends with exit code 2 and a line that holds a text."""

    def check(without: Done, with_option: Done) -> None:
        assert without.code == 0, without.err
        assert with_option.code == 2
        assert text in with_option.err, with_option.err
        assert with_option.err.count("bwlab: error: ") == 1

    return check


def needed(text: str) -> Effect:
    """Return the effect that only the call without the option ends with exit code 2 and a line that holds a text."""

    def check(without: Done, with_option: Done) -> None:
        assert (without.code, with_option.code) == (2, 0), with_option.err
        assert text in without.err, without.err

    return check


def says(text: str, *not_said: str) -> Effect:
    """Return the effect that only the call with the option prints a text, and only the other one those `not_said`."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = without.out + without.err, with_option.out + with_option.err
        assert text in second, second
        assert text not in first, first
        for other in not_said:
            assert other in first, first
            assert other not in second, second

    return check


def prints_json(check_values: Callable[[Any], object]) -> Effect:
    """Return the effect that the call with the option prints JSON of which a condition holds."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        assert without.out.lstrip()[:1] != "{"
        assert check_values(json.loads(with_option.out))

    return check


def json_differs(select: Callable[[Any], object], expected: object = None) -> Effect:
    """Return the effect on a part of the JSON that both calls print: it differs, and is then what is expected."""

    def check(without: Done, with_option: Done) -> None:
        both_work(without, with_option)
        first, second = (select(json.loads(done.out)) for done in (without, with_option))
        assert first != second, second
        if expected is not None:
            assert second == expected

    return check


def json_path_differs(path: str, expected: object = None) -> Effect:
    """Return the effect on the value at a dotted path of the JSON that both calls print; see `json_differs`."""
    return json_differs(lambda document: value_at(document, path), expected)


def first_image(done: Done) -> Path:
    """Return the first image that a call wrote."""
    return next(path for path in done.files("**/0000-*.png"))


def other_pixels(without: Done, with_option: Done) -> None:
    """Assert that the first image of both calls has one size but other pixels."""
    both_work(without, with_option)
    first, second = pixels(first_image(without)), pixels(first_image(with_option))
    assert first.shape == second.shape
    assert (first != second).any()


def recorded(path: str, expected: object) -> Effect:
    """Return the effect that only the recipe of the call with the option has an expected value at a dotted path."""

    def check(without: Done, with_option: Done) -> None:
        assert recipe_value(with_option, path) == expected
        assert recipe_value(without, path) != expected

    return check


def recipe_value(done: Done, path: str) -> object:
    """Return the value in the recipe of the first image at a dotted path; None if there is none."""
    recipe = read_recipe(first_image(done))
    assert recipe is not None
    return value_at(json.loads(recipe.to_json()), path)


def value_at(document: Any, path: str) -> object:
    """Return the value at a dotted path of JSON, with the index of a list as a number; None if there is none."""
    for part in path.split("."):
        if isinstance(document, list):
            document = document[int(part)] if int(part) < len(document) else None
        else:
            document = (document or {}).get(part)
    return document


def new_image(path: str, expected: object) -> Effect:
    """Return the effect that pixels differ and that only the recipe with the option has an expected value at a path."""
    return all_of(other_pixels, recorded(path, expected))


def tensors_in(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file."""
    return dict(safetensors.torch.load_file(path))


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    with safetensors.safe_open(path, "np") as file:
        return dict(file.metadata() or {})


def numbers_differ(first: Path, second: Path) -> None:
    """Assert that two safetensors files hold the same keys and shapes, with other numbers."""
    shapes = [{key: tensor.shape for key, tensor in tensors_in(path).items()} for path in (first, second)]
    assert shapes[0] == shapes[1]
    assert not same_tensors(first, second)
