"""The scorer and the ControlNet: a few steps of each give folders that open_clip and diffusers load."""

from __future__ import annotations

import io
import json
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import ControlNetModel
from rich.console import Console
from torch.nn.functional import normalize

from bwlab.emoji.build import Art
from bwlab.emoji.companions import CompanionConfig, build_controlnet, build_scorer, scorer_data, seen_names
from bwlab.emoji.measure_scorer import report_of
from bwlab.emoji.scorer import draw_views
from bwlab.emoji.world import HELD_OUT


def steps_logged(work: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (work / "log.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_scorer_loads_as_open_clip_and_continues(work: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    out = build_scorer(CompanionConfig(tmp_path / "scorer", work, steps=2), console)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(["noto, tomato, white background", "tomato"])
    assert tokens.shape == (2, 20)
    assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 192)
    assert any("Normalize" in type(step).__name__ for step in preprocess.transforms)
    assert sum(file.stat().st_size for file in out.iterdir()) < 8e6
    state = torch.load(work / "scorer.pt", weights_only=True)
    build_scorer(CompanionConfig(out, work, steps=2), console)
    assert state["step"] == torch.load(work / "scorer.pt", weights_only=True)["step"] == 2


def test_views_name_what_they_show(small_art: Art) -> None:
    data = scorer_data(small_art)
    assert set(seen_names(small_art)).isdisjoint(HELD_OUT)
    first = draw_views(data, torch.Generator().manual_seed(5))
    again = draw_views(data, torch.Generator().manual_seed(5))
    assert torch.equal(first.pictures, again.pictures)
    assert first.pictures.shape == (len(first.names), 3, 64, 64)
    assert float(first.pictures.abs().max()) <= 1
    pairs = set(zip(first.names.tolist(), first.styles.tolist(), strict=True))
    assert len(pairs) == len(first.names)  # no drawing twice in a step: each is the negative of the others
    assert "openmoji" not in data.styles


def test_the_report_tells_perfect_from_useless_features() -> None:
    generator = torch.Generator().manual_seed(0)
    identity = normalize(torch.randn(300, 1, 37, generator=generator), dim=-1)
    style = normalize(torch.randn(1, 9, 37, generator=generator), dim=-1)
    mixed = report_of(torch.cat([identity.expand(-1, 9, -1), 3 * style.expand(300, -1, -1)], -1))
    assert (mixed.identity, mixed.style) == (1.0, 1.0)
    useless = report_of(torch.randn(300, 9, 37, generator=generator))
    assert useless.identity < 0.05
    assert useless.style < 0.3


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_controlnet_loads_in_diffusers(work: Path, tmp_path: Path) -> None:
    config = CompanionConfig(tmp_path / "controlnet", work, steps=1)
    out = build_controlnet(config, "emoji", Console(file=io.StringIO()))
    net = ControlNetModel.from_pretrained(out)
    latents, text = torch.zeros(1, 8, 16, 16), torch.zeros(1, 32, 128)
    down, mid = net(latents, 3, text, torch.zeros(1, 3, 64, 64), return_dict=False)
    assert mid.shape[-2:] == (2, 2)
    assert len(down) > 4
