"""A model family of a plugin, through training, generation and analysis."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from bwlab.cli import app as command_line
from bwlab.plugins.manager import build_manager
from tests.families import toy_family
from tests.families.commands import PROMPT, pixels, run


@pytest.fixture(autouse=True)
def toy_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command find the plugin."""
    monkeypatch.setattr(command_line, "build_manager", lambda *given, **named: build_manager([toy_family]))


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline of the plugin's family."""
    return toy_family.save_toy(tmp_path_factory.mktemp("toy"))


def trained(base: Path, data: Path, out: Path, blocks: str) -> Path:
    given = "--steps", 4, "--batch-size", 2, "--lr", 0.05, "--blocks", blocks, "--set", "preview.steps=2"
    run("train", "--base", base, "--data", data, "--out", out, *given)
    return out / "adapter.safetensors"


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("plugins", "list", "--json")
    plugins = json.loads(capsys.readouterr().out)
    mine = [plugin for plugin in plugins if plugin["name"] == "tests.families.toy_family"]
    assert mine
    assert "family" in json.dumps(mine)


def test_it_trains_the_named_blocks_and_generates(toy_folder: Path, two_images: Path, tmp_path: Path) -> None:
    adapter = trained(toy_folder, two_images, tmp_path / "run", "toy1=2")
    assert {key.split(".")[1:3] == ["blocks", "1"] for key in safetensors.torch.load_file(adapter)} == {True}
    losses = [
        record["loss"]
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        if "loss" in (record := json.loads(line))
    ]
    assert all(math.isfinite(loss) for loss in losses)
    assert list((tmp_path / "run" / "previews").glob("*.png"))
    images = []
    for name, scale in (("off", "0"), ("on", "1"), ("other", "toy1=0, *=1")):
        given = "--prompt", PROMPT, "--steps", 2, "--adapter", adapter, "--scale", scale, "--out", tmp_path / name
        run("generate", "--base", toy_folder, *given)
        from PIL import Image

        with Image.open(next((tmp_path / name).glob("*.png"))) as image:
            images.append(pixels(image))
    assert (images[0] != images[1]).any()
    assert np.array_equal(images[0], images[2])


def test_it_is_analysed(toy_folder: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [
        trained(toy_folder, two_images, tmp_path / name, blocks) for name, blocks in (("a", "all=2"), ("b", "toy2=2"))
    ]
    capsys.readouterr()
    data = (part for one in pair for part in ("--data", f"{one}={two_images}"))
    run("analyze", "conflict", *pair, "--base", toy_folder, *data, "--json")
    assert "toy2" in capsys.readouterr().out
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\na blue square\n")
    run("analyze", "activations", pair[0], "--base", toy_folder, "--prompts", prompts, "--json")
    assert "toy0" in capsys.readouterr().out
