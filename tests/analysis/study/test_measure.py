"""Measures of pairs, each adapter at its scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.save import save_adapter
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.loaded_base import LoadedBase, open_base
from bwlab_analysis.study.measure import at_scale
from tests.analysis.random_adapters import random_adapter
from tests.analysis.study.finished import Finished


@pytest.fixture(scope="module")
def lab(tiny_pipeline: Path) -> LoadedBase:
    return open_base(str(tiny_pipeline), build_manager(), "cpu")


@torch.no_grad()
def predicted(lab: LoadedBase, *uses: ScaledAdapter) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    with attach(lab.pipe.unet, *uses):
        found: torch.Tensor = lab.pipe.unet(latents, 501, context).sample
    return found.double()


@pytest.mark.parametrize("scale", ["0.5", "-1.5", "mid=0.25, *=1", "in0=0, out3=2"])
def test_a_scale_baked_in_is_the_live_scale(lab: LoadedBase, scale: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(random_adapter(lab.pipe.unet, "locon", "all=2", 1), file)
    baked = at_scale(file, scale, tmp_path / "baked.safetensors", lab)
    spec = parse_spec(scale, lab.scheme, kind="scale", default=1.0)
    live = predicted(lab, ScaledAdapter(lab.adapter(file), spec))
    found = predicted(lab, ScaledAdapter(lab.adapter(baked)))
    plain, base = predicted(lab, ScaledAdapter(lab.adapter(file))), predicted(lab)
    assert torch.allclose(found, live, atol=1e-4 * float((live - base).abs().max()))
    assert not torch.allclose(found, plain, atol=1e-2 * float((live - base).abs().max()))


def test_at_scale_1_it_is_the_file_itself(lab: LoadedBase, tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    assert at_scale(file, "1", tmp_path / "baked.safetensors", lab) is file


def result(finished: Finished, name: str) -> dict[str, Any]:
    return dict(finished.job("measure", name).result(finished.out))


def test_what_is_measured(finished: Finished) -> None:
    whole, half = result(finished, "id + style"), result(finished, "id + half style")
    for found in (whole, half):
        assert set(found["weights"]["cosine"]) == {"value", "random", "random_sd"}
        assert set(found["losses"]) == {"identity", "style"}
        for inputs in ("images", "prompts"):
            assert {"effect_a", "effect_b", "retention_a", "interaction"} <= set(found[inputs]["prediction"])
        assert found["images"]["prediction"]["interaction"]["random"] is not None
        assert found["prompts"]["prediction"]["interaction"]["random"] is None, "random adapters act on images alone"
    assert {one["adapter"] for one in whole["blame"]["activations"]} == {"a", "b"}
    assert "blame" not in half


def test_scales_act(finished: Finished) -> None:
    whole, half = result(finished, "id + style"), result(finished, "id + half style")
    effects = [[one["prompts"]["prediction"][f"effect_{role}"]["value"] for one in (whole, half)] for role in "ab"]
    assert effects[0][0] == pytest.approx(effects[0][1])
    assert effects[1][1] == pytest.approx(effects[1][0] / 2, rel=0.05)
    assert whole["weights"]["cosine"]["value"] == pytest.approx(half["weights"]["cosine"]["value"], abs=1e-5)


def test_no_scaled_adapter_stays(finished: Finished) -> None:
    folder = finished.job("measure", "id + half style").folder(finished.out)
    assert [path.name for path in folder.iterdir() if path.suffix == ".safetensors"] == []
