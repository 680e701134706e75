"""The family on the page "Add a model family" keeps the contract of families, trains and generates."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Lumina2Pipeline
from PIL import Image

from bwlab.cli import app as command_line
from bwlab.plugins.manager import build_manager
from bwlab.testing import run_family_contract
from tests.families.commands import PROMPT, pixels, run
from tests.families.conftest import two_images as two_images  # a fixture
from tests.families.lumina2 import save_tiny_lumina2

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-model-family.md"


@pytest.fixture(scope="module")
def plugin() -> Any:
    """Return the plugin that the page shows."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("lumina2_of_the_page")
    exec(compile(textwrap.dedent(code), str(PAGE), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small base."""
    return save_tiny_lumina2(tmp_path_factory.mktemp("lumina2") / "base")


def test_it_keeps_the_contract(plugin: Any, base: Path) -> None:
    assert [(clause, error) for clause, error in run_family_contract(plugin.FAMILY, base) if error] == []


@pytest.mark.parametrize("cfg", [1, 4])
def test_it_trains_and_images_are_those_of_diffusers(
    plugin: Any, base: Path, cfg: int, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "build_manager", lambda *given, **named: build_manager([plugin]))
    given = "--steps", 2, "--blocks", "late=2", "--set", "preview.enabled=false"
    run("train", "--base", base, "--data", two_images, "--out", tmp_path / "run", *given)
    adapter = tmp_path / "run" / "adapter.safetensors"
    sampled = "--prompt", PROMPT, "--steps", 2, "--cfg", cfg, "--seed", 5, "--out", tmp_path
    run("generate", "--base", base, "--adapter", adapter, "--scale", "0", *sampled)
    (file,) = tmp_path.glob("*.png")
    pipe: Any = Lumina2Pipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    theirs = pipe(
        PROMPT, negative_prompt="", num_inference_steps=2, guidance_scale=cfg, generator=generator, height=64, width=64
    ).images[0]
    with Image.open(file) as ours:
        assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1
