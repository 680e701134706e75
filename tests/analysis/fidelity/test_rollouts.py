"""Conflict measured in generated images: shares with intervals, what images share, and the compositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import Image

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.names import embedded_scorer
from bwlab.benchmark import load_benchmark
from bwlab.blocks.spec import parse_spec
from bwlab.generation.sample import generate
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.loaded_base import LoadedBase, open_base
from bwlab_analysis.fidelity.clip import identity_margins, load_clip
from bwlab_analysis.fidelity.rollouts import (
    RolloutSettings,
    TrainedSubject,
    learned_from,
    measure_rollouts,
    share_lost,
    shared_prompt,
)


@pytest.fixture(scope="module")
def base(tiny_pipeline: Path) -> LoadedBase:
    return open_base(str(tiny_pipeline), build_manager(), "cpu")


def adapter(base: LoadedBase, seed: int) -> Adapter:
    """Return an adapter of all blocks whose numbers are random."""
    generator = torch.Generator().manual_seed(seed)
    kind = base.manager.adapter_types()["locon"]
    ranks = parse_spec("all=2", base.scheme, kind="rank")
    made = create_adapter(base.pipe.unet, kind, ranks, 2.0, scheme=base.scheme, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def brightness(images: Sequence[Image]) -> list[float]:
    return [float(np.asarray(image).mean()) for image in images]


def test_a_share_is_what_is_lost_of_the_gain() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.1, (3, 5))
    alone = base + 2 + rng.normal(0, 0.1, (3, 5))
    found = share_lost(base, alone, alone - 0.5)
    assert found is not None
    assert found.mean == pytest.approx(0.5 / (alone - base).mean())
    assert found.low < found.mean < found.high
    assert found.high - found.low < 0.05
    nothing = share_lost(base, alone, alone)
    assert nothing is not None
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


def test_without_a_gain_nothing_can_be_lost() -> None:
    base = np.random.default_rng(0).normal(0, 1, (2, 8))
    assert share_lost(base, base, base - 1) is None
    assert share_lost(base, base - 1, base) is None


def test_each_composition_is_what_generate_makes(base: LoadedBase) -> None:
    a, b = adapter(base, 1), adapter(base, 2)
    settings = RolloutSettings(("a fox", "an owl"), samples=3, steps=2, draws=0, seed=4)
    found = measure_rollouts(base.pipe, a, b, {"a": TrainedSubject("style", brightness)}, settings)
    assert found.seeds == 2  # at least 3 images, as many for each prompt
    rows = (["a fox", "a fox", "an owl", "an owl"], [4, 5, 6, 7])
    on = {"base": (), "a": (a,), "b": (b,), "both": (a, b)}
    for name, active in on.items():
        expected = generate(base.pipe, *rows, [ScaledAdapter(one) for one in active], steps=2, cfg=3.0)
        pairs = zip(found.images[name], expected, strict=True)
        assert max(np.abs(np.asarray(x, int) - np.asarray(y, int)).max() for x, y in pairs) <= 1, name
    (cost,) = found.costs
    assert (cost.adapter, cost.of) == ("a", "style")
    means = [np.mean(brightness(found.images[name])) for name in ("base", "a", "both")]
    assert [cost.base, cost.alone, cost.both] == pytest.approx(means)
    assert cost.random_lost is None


def test_without_a_scorer_the_latents_are_compared(base: LoadedBase) -> None:
    a = adapter(base, 1)
    weak = adapter(base, 2)
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.mul_(0.05)
    found = measure_rollouts(base.pipe, a, weak, {}, RolloutSettings(("a fox",), samples=4, steps=2))
    changes = {cost.adapter: cost.lost for cost in found.costs}
    assert {cost.of for cost in found.costs} == {"latents"}
    assert changes["a"] is not None
    assert changes["b"] is not None
    assert 0 <= changes["a"].mean < changes["b"].mean  # the strong one changes the weak one's images more
    assert all(cost.random_lost is not None for cost in found.costs)


def test_what_images_share_is_found_from_them() -> None:
    clip, benchmark = load_clip(embedded_scorer()), load_benchmark()
    foxes = [benchmark.image(*pair) for pair in benchmark.identity_pairs("fox")]
    inks = [benchmark.image(*pair) for pair in benchmark.style_pairs("ink")]
    assert learned_from(clip, foxes).of == "identity"
    assert learned_from(clip, inks).of == "style"
    assert learned_from(clip, inks, "identity").of == "identity"
    fox, owl = benchmark.image("fox", "pencil"), benchmark.image("owl", "pencil")
    margins = learned_from(clip, foxes).scores([fox, owl])
    assert margins == identity_margins(clip, [fox, owl], foxes)
    assert 1 > margins[0] > 0.25 > 0.16 > margins[1]


def test_a_prompt_is_made_of_the_tags_in_common() -> None:
    foxes = ["flat, fox, white background", "noto, fox, white background", "fox, blue background, white background"]
    inks = ["ink, cat face, white background", "ink, rose, white background"]
    assert shared_prompt([foxes, inks]) == "ink, fox, white background"
    assert shared_prompt([foxes, ["a cat", "a rose"]]) is None
