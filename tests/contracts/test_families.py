"""Every built-in model family fulfils the contract, and the contract finds families that break it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bwlab.base.families.builtin import FAMILIES
from bwlab.base.families.family import ModelFamily, TextBatch, filled_up
from bwlab.blocks.scheme import BlockScheme, Module
from bwlab.errors import BwlabError
from bwlab.testing import FamilyContract, run_family_contract
from bwlab.testing.families import FAMILY_CLAUSES, bench_of, captions_are_encoded_apart
from tests.families import toy_family
from tests.families.conftest import *  # noqa: F403 - the folders of small bases
from tests.families.toy_family import Toy, find_toy

BY_NAME = {family.name: family for family in FAMILIES}
FOLDERS = {"sd": "tiny_pipeline", "sdxl": "tiny_xl_pipeline", "flux": "flux_dev_folder"}
LOADS, BLOCKS, OTHERS = "its base loads", "its blocks have names", "models of others are refused"
ENCODED, ROWS, FIT = (
    "captions are encoded apart",
    "conditions have a row for each sample",
    "predictions fit the latents",
)
APART, COUNT, STEP = "samples are predicted apart", "caption and time count", "a step of training lowers the loss"
STAYS, IMAGES = "the base stays as it is", "prompts become images"
ALIKE = "training predicts as sampling does"


class Example(Toy):
    """The family of the tests, with an example."""

    def write_example(self, folder: Path) -> bool:
        toy_family.save_toy(folder)
        return True


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_built_in_family_fulfils_each_clause(name: str, small_images: None, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(FOLDERS.get(name, f"{name.replace('-', '_')}_folder"))
    assert [(clause, error) for clause, error in run_family_contract(BY_NAME[name], folder) if error] == []


class TestSound(FamilyContract):
    family = Example()


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(FamilyContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in FAMILY_CLAUSES}


READ = "its adapters are read back"


class OtherKind(Example):
    kinds = ("OtherPipeline",)


class OtherName(Example):
    name = "other"


class NoLastLayer(Example):
    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        found = find_toy(config)
        return found and replace(found, modules=found.modules[:-1])


class Greedy(Example):
    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        return find_toy({"depth": 3, **config, "_class_name": "ToyDenoiser"})


class Padded(Example):
    """Captions of a batch are averaged."""

    def encode(self, pipe: Any, captions: Sequence[str]) -> TextBatch:
        words = pipe.words(captions)
        return TextBatch(words - words.mean(0))


class Deaf(Example):
    def encode(self, pipe: Any, captions: Sequence[str]) -> TextBatch:
        return TextBatch(torch.ones_like(pipe.words(captions)))


class Joined(Example):
    """One text for all samples."""

    def conditions(self, pipe: Any, text: TextBatch, sizes: Tensor | None = None) -> dict[str, Any]:
        return {"words": text.context.mean(0, keepdim=True)}


class Upside(Example):
    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, times, conditions).movedim(1, -1)


class Infinite(Example):
    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, times, conditions) / 0.0


class FirstTime(Example):
    """Takes the first time for that of all samples."""

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, times[:1].expand_as(times), conditions)


class Timeless(Example):
    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, torch.zeros_like(times), conditions)


class Detached(Example):
    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, times, conditions).detach()


class Untrained(Example):
    """One of the blocks of `all` does not exist in the model."""

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        found = find_toy(config)
        if found is None:
            return None
        blocks = (*found.blocks()[:3], "ghost")
        return replace(found, modules=(*found.modules, Module("ghost", "ghost", "ghost")), parts=(("all", blocks),))


class Drifting(Example):
    """Each prediction moves the weights."""

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        prediction = super().run(denoiser, latents, times, conditions)
        with torch.no_grad():
            denoiser.leave.bias.add_(1e-6)
        return prediction


class WrongArgument(Example):
    def prompt_embeddings(
        self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str
    ) -> dict[str, Tensor | None]:
        return {"words": pipe.words(prompts)}


class Backwards(Example):
    """Trains on the negative of what it samples with."""

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return -super().run(denoiser, latents, times, conditions)


class Slow(Example):
    """Takes a time in 0..1000 for one in 0..1."""

    def run(self, denoiser: Any, latents: Tensor, times: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        return super().run(denoiser, latents, times / 1000, conditions)


class OtherWords(Example):
    """Trains on other embeddings of a caption than it samples with."""

    def encode(self, pipe: Any, captions: Sequence[str]) -> TextBatch:
        return TextBatch(2 * pipe.words(captions))


class Restless(Example):
    def prompt_embeddings(
        self, pipe: Any, prompts: Sequence[str], guided: bool, negative: str
    ) -> dict[str, Tensor | None]:
        return {"prompt_embeds": torch.randn_like(pipe.words(prompts))}


class Prefixed(Example):
    """Every caption begins with the same words, as with a system prompt."""

    def encode(self, pipe: Any, captions: Sequence[str]) -> TextBatch:
        system = pipe.words(["draw an image of"])[0]
        words = pipe.words(captions)
        return filled_up([torch.cat([system, row[: len(one)]]) for row, one in zip(words, captions, strict=True)])


def test_a_system_prompt_is_no_mistake() -> None:
    captions_are_encoded_apart(bench_of(Prefixed()))


@pytest.mark.parametrize(
    ("broken", "clauses"),
    [
        (Example, set()),
        (OtherKind, {clause.__name__.replace("_", " ") for clause in FAMILY_CLAUSES}),
        (OtherName, {BLOCKS, READ}),
        (NoLastLayer, {BLOCKS}),
        (Greedy, {OTHERS}),
        (Padded, {ENCODED, APART}),
        (Deaf, {ENCODED, COUNT}),
        (Joined, {ROWS, APART}),
        (Upside, {FIT, STEP}),
        (Infinite, {FIT, STEP}),
        (FirstTime, {APART}),
        (Timeless, {COUNT, ALIKE}),
        (Detached, {STEP}),
        (Untrained, {STEP, READ}),
        (Drifting, {STAYS}),
        (WrongArgument, {IMAGES, ALIKE}),
        (Restless, {IMAGES, ALIKE}),
        (Backwards, {ALIKE}),
        (Slow, {ALIKE}),
        (OtherWords, {ALIKE}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_family_is_found(broken: type[ModelFamily], clauses: set[str]) -> None:
    found = {clause for clause, error in run_family_contract(broken()) if error}
    assert clauses <= found
    # What makes no sense at all breaks more than one clause; others break only what they should.
    if broken not in (Padded, Deaf, Upside, Infinite):
        assert found == clauses


def test_a_family_without_a_base_is_not_called_broken() -> None:
    with pytest.raises(BwlabError, match=r"it writes no base to check it on.*--base"):
        run_family_contract(Toy())
    with pytest.raises(BwlabError, match="it writes no base"):
        run_family_contract(BY_NAME["sd"])


def test_the_base_that_it_writes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_family_contract(Example())
    assert list(tmp_path.iterdir()) == []
