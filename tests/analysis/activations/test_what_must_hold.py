"""What function-space measures must give by theory.

The bases have the very modules of SD 1.4, SD 2.1 and SDXL, and the kinds of blocks of SD3 and FLUX.1.

Write `f(s)` for what a place puts out with `W + s dW` in the place of each weight, so that two identical adapters
together are `f(2)`. Their retention is `<f(2) - f(1), f(1) - f(0)> / |f(1) - f(0)|^2` and their interaction
`|f(2) - 2 f(1) + f(0)| / (2 |f(1) - f(0)|)`.

- If f is affine in s (one linear layer is changed, and only additions come after it), `f(2) - f(1) = f(1) - f(0)`:
  retention is 1 and interaction is 0. The same holds of two different adapters of that layer.
- Else `f(s) = f(0) + s J + s^2 H / 2 + ...` with `H` of second order in dW: retention is
  `1 + <J, H> / |J|^2 + ...` and interaction `|H| / (2 |J|) + ...`. Both deviations are of first order in dW: an
  adapter half as strong has half of them. Their signs and sizes are the network's; alignment is 1 in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.models import denoiser_of, family_of
from bwlab.base.noise import noise_process
from bwlab.base.weights import open_model
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.batched_denoiser import denoiser_blocks
from bwlab_analysis.activations.inputs import Inputs, text_conditions
from bwlab_analysis.activations.interaction import InteractionReport, interaction
from bwlab_analysis.activations.loaded_base import LoadedBase, open_base
from bwlab_analysis.activations.random_adapters import random_adapter_like
from bwlab_analysis.measures import PREDICTION, Measured
from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.pair_measures import COSINE
from tests.analysis.small_bases import ALGORITHMS, SCHEMES, adapter_file, save_small_base
from tests.families.pipelines import save_tiny_sd3, tiny_flux


@dataclass(frozen=True)
class Places:
    """Places of a base, by name and by path.

    Attributes:
        middle: a block in the middle.
        within: beginnings of the paths of some layers of that block.
        all_within: the same of all its layers.
        last: the last block's layer after which there is only an addition.
        output: the last layer of all.
        early: a block, and the beginning of its layers' paths.
        late: another behind it.

    """

    middle: str
    within: tuple[str, ...]
    all_within: str
    last: str
    output: str
    early: tuple[str, str] = ("in1", "down_blocks.1.")
    late: tuple[str, str] = ("out1", "up_blocks.1.")


MID = ("mid_block.attentions.0.transformer_blocks.0.attn1.", "mid_block.resnets.1.conv2")
UNET = Places("mid", MID, "mid_block.", "up_blocks.3.attentions.2.proj_out", "conv_out")
PLACES = {
    "sd14": UNET,
    "sd21": UNET,
    "sdxl": replace(UNET, last="up_blocks.2.resnets.2.conv2"),
    "sd3": Places(
        "joint1",
        ("transformer_blocks.1.attn.to_q", "transformer_blocks.1.ff.net.2"),
        "transformer_blocks.1.",
        "transformer_blocks.3.ff.net.2",
        "proj_out",
        ("joint0", "transformer_blocks.0."),
        ("joint2", "transformer_blocks.2."),
    ),
    "flux": Places(
        "double1",
        ("transformer_blocks.1.attn.to_q", "transformer_blocks.1.ff.net.2"),
        "transformer_blocks.1.",
        "single_transformer_blocks.2.proj_out",
        "proj_out",
        ("single0", "single_transformer_blocks.0."),
        ("single1", "single_transformer_blocks.1."),
    ),
}


@dataclass(frozen=True, eq=False)
class Bench:
    """A base in float64, inputs to look at it with, and where to look."""

    loaded_base: LoadedBase
    inputs: Inputs
    places: Places

    @property
    def denoiser(self) -> Any:
        return denoiser_of(self.loaded_base.pipe)

    def adapter(
        self, folder: Path, paths: Iterable[str], seed: int = 0, algorithm: str = "locon", **more: float
    ) -> Adapter:
        name = f"{algorithm}-{seed}-{sorted(more.items())}.safetensors"
        return self.loaded_base.adapter(adapter_file(folder / name, self.denoiser, algorithm, paths, seed, **more))

    def look(self, a: Adapter, b: Adapter, draws: int = 0, seed: int = 0) -> InteractionReport:
        return interaction(self.loaded_base.pipe, self.loaded_base.scheme, a, b, self.inputs, (500,), draws, seed)

    @torch.no_grad()
    def predictions(self, adapter: Adapter, scale: float) -> Tensor:
        pipe, times = self.loaded_base.pipe, torch.full((len(self.inputs),), 500)
        noisy = noise_process(pipe).add_noise(self.inputs.latents, self.inputs.noise, times)
        with attach(self.denoiser, ScaledAdapter(adapter, scale)):
            return family_of(pipe).run(self.denoiser, noisy, times, text_conditions(pipe, self.inputs.captions))


@pytest.fixture(scope="module", params=PLACES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    kind, folder = request.param, tmp_path_factory.mktemp("base")
    if kind in SCHEMES:
        save_small_base(kind, folder)
    elif kind == "sd3":
        save_tiny_sd3(folder)
    else:
        tiny_flux(guidance=True).save_pretrained(folder)
    loaded_base = open_base(str(folder), build_manager(), "cpu")
    loaded_base.pipe.to(torch.float64)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Bench(loaded_base, Inputs(latents, noise, ("a fox", "ink"), "random numbers", (0, 1)), PLACES[kind])


def value(report: InteractionReport, place: str, measure: str) -> float:
    return measured(report, place, measure).value


def measured(report: InteractionReport, place: str, measure: str) -> Measured:
    found = report.at(place).measures[measure]
    assert found is not None
    return found


@pytest.mark.parametrize("other", [0, 1])
def test_behind_one_linear_layer_effects_add_up(bench: Bench, tmp_path: Path, other: int) -> None:
    """Two identical adapters (0) and two different ones (1) of a layer after which there are only additions."""
    last = denoiser_blocks(bench.loaded_base.scheme)[-1]
    for path, place in ((bench.places.last, last), (bench.places.output, PREDICTION)):
        report = bench.look(bench.adapter(tmp_path, [path]), bench.adapter(tmp_path, [path], other))
        assert value(report, place, "effect_a") > 0
        assert value(report, place, "retention_a") == pytest.approx(1, abs=1e-9)
        assert value(report, place, "retention_b") == pytest.approx(1, abs=1e-9)
        assert value(report, place, "interaction") == pytest.approx(0, abs=1e-9)


def test_non_linearity_takes_retention_off_1_in_proportion_to_the_adapter(bench: Bench, tmp_path: Path) -> None:
    off, beyond = [], []
    for alpha in (0.002, 0.001):
        adapter = bench.adapter(tmp_path, [bench.places.all_within], alpha=alpha)
        report = bench.look(adapter, adapter)
        assert value(report, PREDICTION, "alignment") == pytest.approx(1, abs=1e-9)
        off.append(value(report, bench.places.middle, "retention_a") - 1)
        beyond.append(value(report, bench.places.middle, "interaction"))
    assert off[0] / off[1] == pytest.approx(2, rel=0.05)
    assert beyond[0] / beyond[1] == pytest.approx(2, rel=0.05)
    assert 0 < abs(off[1]) < 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_identical_adapters_are_one_twice_as_strong(bench: Bench, tmp_path: Path, algorithm: str) -> None:
    files = [
        adapter_file(tmp_path / f"{name}.safetensors", bench.denoiser, algorithm, bench.places.within, 0, size=0.1)
        for name in "ab"
    ]
    a, b = (bench.loaded_base.adapter(file) for file in files)
    weights = measure_conflict(files[0], files[1], [COSINE], None, open_model(bench.loaded_base.base)).total.measures[
        "cosine"
    ]
    assert weights is not None
    assert weights.value == pytest.approx(1, abs=1e-7)
    report = bench.look(a, b)
    none, once, twice = (bench.predictions(a, scale).double() for scale in (0.0, 1.0, 2.0))
    effect = once - none
    kept = ((twice - once) * effect).sum() / effect.square().sum()
    beyond = (twice - 2 * once + none).norm() / (2 * effect.norm())
    for adapter in ("a", "b"):
        assert value(report, PREDICTION, f"effect_{adapter}") == pytest.approx(
            float(effect.norm() / none.norm()), rel=1e-9
        )
        assert value(report, PREDICTION, f"retention_{adapter}") == pytest.approx(float(kept), rel=1e-6)
    assert value(report, PREDICTION, "alignment") == pytest.approx(1, abs=1e-9)
    assert value(report, PREDICTION, "interaction") == pytest.approx(float(beyond), rel=1e-6)


def test_disjoint_blocks_interact_only_from_the_later_one_on(bench: Bench, tmp_path: Path) -> None:
    (early_block, early_paths), (late_block, late_paths) = bench.places.early, bench.places.late
    early = adapter_file(tmp_path / "a.safetensors", bench.denoiser, "lora", [early_paths], 0)
    late = adapter_file(tmp_path / "b.safetensors", bench.denoiser, "lora", [late_paths], 1)
    weights = measure_conflict(early, late, [COSINE])
    assert weights.total.disjoint
    assert weights.total.measures["cosine"] is None
    assert (weights.shared_share_a, weights.shared_share_b) == (0, 0)
    report = bench.look(bench.loaded_base.adapter(early), bench.loaded_base.adapter(late))
    places = [place.block for place in report.effects if place.timestep == "all"]
    at, until = places.index(early_block), places.index(late_block)
    for place in places[at:until]:
        assert value(report, place, "effect_b") == 0
        assert value(report, place, "retention_a") == 1
        assert value(report, place, "interaction") == 0
        assert report.at(place).measures["retention_b"] is None
    for place in places[until:]:
        assert value(report, place, "interaction") > 0


def test_an_adapter_of_scale_0_takes_nothing_away(bench: Bench, tmp_path: Path) -> None:
    adapter, nothing = (
        bench.adapter(tmp_path, bench.places.within),
        bench.adapter(tmp_path, bench.places.within, 1, size=0.0),
    )
    report = bench.look(adapter, nothing, draws=2)
    for place in (bench.places.middle, PREDICTION):
        assert value(report, place, "effect_a") > 0
        assert value(report, place, "effect_b") == 0
        assert report.at(place).measures["retention_b"] is None
        assert report.at(place).measures["alignment"] is None
        assert value(report, place, "retention_a") == pytest.approx(1, abs=1e-9)
        assert value(report, place, "interaction") == pytest.approx(0, abs=1e-9)
    assert report.blame == ()


@pytest.mark.slow
def test_random_pairs_are_within_their_null(bench: Bench, tmp_path: Path) -> None:
    """B is one more random adapter, drawn as those of the null are: the six are exchangeable.

    With n = 5 draws `z = (x - mean) / sd` is `sqrt(1 + 1 / n)` times Student's t with 4 degrees of freedom, if what
    they give is normal: |z| <= 3 for 95 %.
    """
    a = bench.adapter(tmp_path, bench.places.within)
    scores = []
    for seed in range(8):
        b = random_adapter_like(a, bench.denoiser, 1000 + seed)
        report = bench.look(a, b, draws=5, seed=20 * seed)
        for place in (bench.places.middle, PREDICTION):
            for measure in ("retention_a", "effect_b"):
                found = measured(report, place, measure)
                assert found.random is not None
                assert found.random_sd is not None
                scores.append((found.value - found.random) / found.random_sd)
    assert sum(abs(z) <= 3 for z in scores) >= 0.85 * len(scores)
    assert abs(sum(scores) / len(scores)) < 1
