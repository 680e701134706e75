"""The measures of conflict of benchmarks/conflict_candidates.py, and what the committed ones say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.conflict_candidates import MEASURES, Learned, Measuring, app, with_measures
from benchmarks.conflict_validation import read_pairs, tables_of
from bwlab.adapters.attach import ScaledAdapter
from bwlab.generation.attach import attach_scaled
from bwlab.plugins.manager import build_manager
from bwlab.tables import markdown_table
from bwlab_analysis.activations.inputs import Inputs, folder_inputs
from bwlab_analysis.activations.loaded_base import LoadedBase, open_base
from tests.analysis.random_adapters import random_adapter
from tests.analysis.study.finished import TINY, Finished

DOCS = Path(__file__).resolve().parents[3] / "docs"
PROMPTS = ("ink, fox",)


@pytest.fixture(scope="module")
def lab() -> LoadedBase:
    return open_base("emoji", build_manager(), "cpu")


@pytest.fixture(scope="module")
def inputs(lab: LoadedBase, finished: Finished) -> Inputs:
    (data,) = (finished.job("train", "id").folder(finished.out) / "data").iterdir()
    return folder_inputs(lab.images(data, 2), 2, 0)


def learned(lab: LoadedBase, inputs: Inputs, blocks: str, seed: int, scale: float = 1.0) -> Learned:
    return Learned(ScaledAdapter(random_adapter(lab.pipe.unet, "lora", blocks, seed), scale), inputs)


def test_an_adapter_of_scale_0_does_nothing_to_another(lab: LoadedBase, inputs: Inputs) -> None:
    own, other = learned(lab, inputs, "mid=2, *=0", 1), learned(lab, inputs, "mid=2, *=0", 2, 0.0)
    found = Measuring(lab).along_sampling(own, other, PROMPTS)
    assert found["retention"] == pytest.approx(1, abs=1e-4)
    assert found["change"] == pytest.approx(0, abs=1e-3)


def test_an_adapter_beside_itself(lab: LoadedBase, inputs: Inputs) -> None:
    own = learned(lab, inputs, "mid=2, *=0", 1)
    measuring = Measuring(lab)
    layers = measuring.of_layers(own, learned(lab, inputs, "mid=2, *=0", 1))
    assert layers["parts"] == pytest.approx(1, abs=1e-5)
    assert layers["energy"] == pytest.approx(0, abs=1e-5)
    assert measuring.of_layers(own, learned(lab, inputs, "mid=2, *=0", 1, -2.0)) == pytest.approx(
        {"parts": -1, "energy": 1.386294}, abs=1e-4
    )
    assert measuring.of_gradients(own, own)["gradients"] == pytest.approx(1, abs=1e-5)


def test_the_first_order_is_the_slope_of_the_loss(lab: LoadedBase, inputs: Inputs) -> None:
    own, other = learned(lab, inputs, "mid=2, *=0", 1), learned(lab, inputs, "mid=2, in1=2, *=0", 2)
    measuring = Measuring(lab)
    found = measuring.of_gradients(own, other)
    step, sides = 1e-2, []
    for scale in (step, -step):
        # Of the layers that `own` adapts: gradients are of these.
        small = ScaledAdapter(other.scaled.adapter, f"mid={scale}, *=0")
        with torch.no_grad(), attach_scaled(lab.pipe, (own.scaled, small), fold=True):
            sides.append([float(loss) for loss in losses(measuring, inputs)])
    up, down = sides
    slopes = [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
    assert found["first_order"] == pytest.approx(sum(slopes) / len(slopes), rel=0.02, abs=1e-6)
    assert found["second_order"] == pytest.approx(sum(slope**2 for slope in slopes) / len(slopes), rel=0.04)


def losses(measuring: Measuring, inputs: Inputs) -> Iterator[torch.Tensor]:
    """Yield the loss of each image, the mean over the timesteps."""
    for image in inputs.batches(1):
        yield torch.stack(
            [(measuring.unet(**call)[0] - noise).square().mean() for call, noise in measuring.noisy(image)]
        ).mean()


def test_the_page_has_the_tables_of_the_numbers() -> None:
    page = (DOCS / "study" / "candidates.md").read_text(encoding="utf-8")
    pairs = with_measures(read_pairs(DOCS / "conflict-validation.json"), DOCS / "study" / "conflict-candidates.json")
    assert len(pairs.names) == 240
    for table in tables_of(pairs, MEASURES):
        assert markdown_table(table).strip() in page


@pytest.mark.slow
def test_the_command_measures_each_pair_once(
    finished: Finished, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.conflict_candidates.STEPS", 2)
    monkeypatch.setattr("benchmarks.conflict_candidates.TIMESTEPS", (801, 201))
    monkeypatch.setattr("benchmarks.conflict_candidates.IMAGES", 2)
    file = tmp_path / "measures.json"
    arguments = ["measure", "--study", str(finished.out), "--out", str(file), "--plan", str(TINY), "--clip", str(clip)]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    rows = json.loads(file.read_text())["pairs"]
    assert [row["pair"] for row in rows] == [
        [name, "fox", "ink"] for name in ("id + style", "id + half style", "id + ortho")
    ]
    whole, half, _ = rows
    for direction in ("identity", "style"):
        assert set(whole[direction]) == set(MEASURES)
    # Half of the style: half of the slope of the identity's loss, and a quarter of the energy in layers.
    assert half["identity"]["first_order"] == pytest.approx(whole["identity"]["first_order"] / 2, rel=1e-3)
    assert half["identity"]["energy"] == pytest.approx(whole["identity"]["energy"] - 1.386294, abs=1e-3)
    assert half["style"]["energy"] == pytest.approx(whole["style"]["energy"] + 1.386294, abs=0.05)
    before = file.read_bytes()
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert file.read_bytes() == before
