"""The scorer and the ControlNet: a few steps of each give folders that open_clip and diffusers load."""

from __future__ import annotations

import io
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import ControlNetModel
from rich.console import Console

from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.clip import load_clip
from bwlab_emoji.companions import CompanionConfig, build_controlnet, build_scorer


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_scorer_loads_as_open_clip_and_continues(work: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    out = build_scorer(CompanionConfig(tmp_path / "scorer", work, steps=2), console)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["noto, tomato, white background", "tomato"])
    assert tokens.shape == (2, 20)
    assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 256)
    assert any("Normalize" in type(step).__name__ for step in preprocess.transforms)
    assert sum(file.stat().st_size for file in out.iterdir()) < 8e6
    assert load_clip(str(out)).parts["identity"] == slice(0, 160)
    state = torch.load(work / "scorer.pt", weights_only=True)
    build_scorer(CompanionConfig(out, work, steps=2), console)
    assert state["step"] == torch.load(work / "scorer.pt", weights_only=True)["step"] == 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_controlnet_needs_a_unet(tmp_path: Path) -> None:
    """Nothing is downloaded or drawn before that is told."""
    config = CompanionConfig(tmp_path / "controlnet", tmp_path / "work", steps=1)
    with pytest.raises(BwlabError, match="--base emoji-dit: it has no UNet"):
        build_controlnet(config, "emoji-dit", Console(file=io.StringIO()))
    assert list((tmp_path / "work").iterdir()) == []


def test_the_controlnet_loads_in_diffusers(work: Path, tmp_path: Path) -> None:
    config = CompanionConfig(tmp_path / "controlnet", work, steps=1)
    out = build_controlnet(config, "emoji", Console(file=io.StringIO()))
    net = ControlNetModel.from_pretrained(out)
    latents, text = torch.zeros(1, 8, 16, 16), torch.zeros(1, 32, 128)
    down, mid = net(latents, 3, text, torch.zeros(1, 3, 64, 64), return_dict=False)
    assert mid.shape[-2:] == (2, 2)
    assert len(down) > 4
