"""ZipLoRA's column weights: at 1 a plain sum, learned ones lower what they are learned for, folded in exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.modules import layers_by_path
from bwlab.adapters.save import save_adapter
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.inputs import conditions
from bwlab_analysis.activations.session import LoadedBase, open_base
from bwlab_analysis.study import ziplora as zip_merge
from bwlab_analysis.study.plan import ZipSettings
from bwlab_analysis.study.subjects import data_folder

OWL = {"name": "owl", "words": "owl", "folder": None, "files": None}
INK = {**OWL, "name": "ink", "words": "ink"}


@pytest.fixture(scope="module")
def lab() -> LoadedBase:
    return open_base("emoji", build_manager(), "cpu")


def random_adapter(lab: LoadedBase, blocks: str, seed: int, kind: str = "locon") -> Adapter:
    ranks = parse_spec(blocks, lab.scheme, kind="rank")
    generator = torch.Generator().manual_seed(seed)
    adapter = create_adapter(
        lab.pipe.unet, lab.manager.adapter_type(kind), ranks, None, scheme=lab.scheme, generator=generator
    )
    for layer in adapter.layers.values():
        with torch.no_grad():
            layer.get_parameter("up").normal_(0, 0.05, generator=generator)
    return adapter.eval()


@pytest.fixture(scope="module")
def pair(lab: LoadedBase) -> list[Adapter]:
    return [random_adapter(lab, "out3=3", 1), random_adapter(lab, "out3=2, in3=2", 2, "lora")]


def prediction(lab: LoadedBase, *adapters: Adapter) -> torch.Tensor:
    channels, side = lab.pipe.unet.config["in_channels"], lab.pipe.unet.config["sample_size"]
    noisy = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(7))
    with torch.no_grad(), attach(lab.pipe.unet, *map(ScaledAdapter, adapters)):
        sample: torch.Tensor = lab.pipe.unet(noisy, 401, **conditions(lab.pipe, ["ink, owl"])).sample
    return sample


def test_weights_of_1_are_the_plain_sum(lab: LoadedBase, pair: list[Adapter]) -> None:
    ones = [{path: torch.ones(layer.weight_shape[1]) for path, layer in one.layers.items()} for one in pair]
    merged = zip_merge.zipped(lab, pair, ones)
    torch.testing.assert_close(prediction(lab, merged), prediction(lab, *pair), rtol=1e-5, atol=1e-5)


def test_folded_weights_act_as_the_learned_ones_did(lab: LoadedBase, pair: list[Adapter], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [
        {path: torch.rand(layer.weight_shape[1], generator=generator) for path, layer in one.layers.items()}
        for one in pair
    ]
    save_adapter(zip_merge.zipped(lab, pair, weights), tmp_path / "zip.safetensors")
    with zip_merge._zipped_live(layers_by_path(lab.pipe.unet), pair, weights):
        live = prediction(lab)
    stored = prediction(lab, lab.adapter(tmp_path / "zip.safetensors"))
    torch.testing.assert_close(stored, live, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(live, prediction(lab, *pair), atol=1e-3)


def test_learning_lowers_the_objective(
    lab: LoadedBase, pair: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    mse = torch.nn.functional.mse_loss

    def watched(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        loss = mse(one, other)
        found.append(float(loss.detach()))
        return loss

    class Fixed(zip_merge._Draw):
        def batches(self) -> Iterator[dict[str, object]]:
            self.generator.manual_seed(0)  # the same pictures and noise in every step
            return super().batches()

    monkeypatch.setattr(zip_merge, "_Draw", Fixed)
    monkeypatch.setattr(torch.nn.functional, "mse_loss", watched)
    folders = [data_folder("identity", OWL, tmp_path), data_folder("style", INK, tmp_path)]
    inputs = [lab.pictures(folder, 2).inputs(2, 0) for folder in folders]
    weights = zip_merge.learned_weights(lab, pair, inputs, ZipSettings(steps=6, rate=0.05, batch=1))
    assert sum(found[-2:]) < 0.9 * sum(found[:2])
    assert [set(part) for part in weights] == [set(one.layers) for one in pair]


def test_overlap_is_of_shared_layers_alone() -> None:
    a, b = {"x": torch.tensor([1.0, 2.0]), "y": torch.ones(3)}, {"x": torch.tensor([3.0, -1.0])}
    assert float(zip_merge.overlap(a, b)) == 0.5
    assert float(zip_merge.overlap({"y": torch.ones(3)}, b)) == 0


def test_other_kinds_of_layers_are_refused(lab: LoadedBase, tmp_path: Path) -> None:
    file = tmp_path / "ortho.safetensors"
    save_adapter(random_adapter(lab, "out3=2", 4), file)
    adapter = lab.adapter(file)
    adapter.layers["te.encoder.layers.0.mlp.fc1"] = next(iter(adapter.layers.values()))
    with pytest.raises(BwlabError, match="it has other layers too, first te"):
        zip_merge._require_low_rank(file, adapter)
