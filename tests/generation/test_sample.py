"""Generation: the same seed paints the same image, adapters act only where and while they are asked to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from bwlab.adapters.attach import ScaledAdapter
from bwlab.errors import BwlabError
from bwlab.generation.sample import generate
from bwlab.plugins.manager import PluginManager
from tests.generation.conftest import strong_adapter

FEW = 4


def differ(a: Image.Image, b: Image.Image) -> int:
    """Return the largest difference of two images, 0..255."""
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


def bits(pipe: StableDiffusionPipeline) -> list[torch.Tensor]:
    models = (pipe.unet, pipe.text_encoder, pipe.vae)
    return [tensor.clone() for model in models for tensor in model.state_dict().values()]


@pytest.mark.parametrize("sampler", ["dpmpp_2m_karras", "euler_a"])
def test_images_do_not_depend_on_those_beside_them(pipe: StableDiffusionPipeline, sampler: str) -> None:
    prompts, seeds = ["fox", "owl", "fox"], [7, 7, 8]
    together = generate(pipe, prompts, seeds, steps=FEW, sampler=sampler)
    pairs = generate(pipe, prompts, seeds, steps=FEW, sampler=sampler, batch_size=2)
    alone = [
        generate(pipe, [prompt], [seed], steps=FEW, sampler=sampler)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    # Kernels for other batch sizes sum in another order: one grey level of 255.
    assert max(differ(a, b) for other in (pairs, alone) for a, b in zip(together, other, strict=True)) <= 1
    assert differ(together[0], together[2]) > 10


def test_the_same_call_generates_the_same_bits(pipe: StableDiffusionPipeline) -> None:
    torch.manual_seed(1)
    first = generate(pipe, ["fox"], [3], steps=FEW, sampler="euler_a")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = generate(pipe, ["fox"], [3], steps=FEW, sampler="euler_a")
    assert differ(first[0], second[0]) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_adapters_act_inside_the_call_only(pipe: StableDiffusionPipeline, manager: PluginManager) -> None:
    before = bits(pipe)
    plain = generate(pipe, ["fox"], [3], steps=FEW)
    adapter = strong_adapter(pipe, manager, "all=2", seed=1)
    adapted = generate(pipe, ["fox"], [3], [ScaledAdapter(adapter)], steps=FEW)
    off = generate(pipe, ["fox"], [3], [ScaledAdapter(adapter, 0.0)], steps=FEW)
    after = generate(pipe, ["fox"], [3], steps=FEW)
    assert differ(plain[0], adapted[0]) > 10
    assert differ(plain[0], off[0]) == differ(plain[0], after[0]) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, bits(pipe), strict=True))


def test_an_error_leaves_nothing_attached(pipe: StableDiffusionPipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(pipe, manager, "all=2", seed=1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    plain = generate(pipe, ["fox"], [3], steps=FEW)
    with pytest.raises(KeyboardInterrupt):
        generate(pipe, ["fox"], [3], [ScaledAdapter(adapter)], steps=FEW, on_step=stop)
    assert differ(plain[0], generate(pipe, ["fox"], [3], steps=FEW)[0]) == 0


def test_text_encoder_layers_act_too(pipe: StableDiffusionPipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(pipe, manager, "te=4", seed=1, text=True)
    assert adapter.layers
    assert all(path.startswith("te.") for path in adapter.layers)
    plain, adapted = (generate(pipe, ["fox"], [3], use, steps=FEW, cfg=5) for use in ([], [ScaledAdapter(adapter)]))
    assert differ(plain[0], adapted[0]) > 0


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("text", [False, True])
def test_scales_per_image(pipe: StableDiffusionPipeline, manager: PluginManager, cfg: float, text: bool) -> None:
    adapter = strong_adapter(pipe, manager, "all=2, te=4" if text else "all=2", seed=1, text=text)
    scales = [0.0, 0.5, 1.0]
    seeds = [3, 3, 3]
    uses = ([ScaledAdapter(adapter, torch.tensor(scales))], [ScaledAdapter(adapter, {"*": torch.tensor(scales)})])
    single = [generate(pipe, ["fox"], [3], [ScaledAdapter(adapter, scale)], steps=FEW, cfg=cfg)[0] for scale in scales]
    for use in uses:
        together = generate(pipe, ["fox"] * 3, seeds, use, steps=FEW, cfg=cfg, batch_size=2)
        assert max(differ(a, b) for a, b in zip(together, single, strict=True)) <= 1
    assert differ(single[0], single[1]) > 1
    with pytest.raises(BwlabError, match="for 2 prompts"):
        generate(pipe, ["fox"] * 2, [1, 2], uses[0], steps=FEW)


def test_guidance_and_the_negative_prompt_act(pipe: StableDiffusionPipeline) -> None:
    def paint(cfg: float, negative: str) -> Image.Image:
        return generate(pipe, ["fox"], [3], steps=FEW, cfg=cfg, negative=negative)[0]

    assert differ(paint(1, ""), paint(1, "owl")) == 0
    assert differ(paint(20, ""), paint(20, "owl")) > 0
    assert differ(paint(1, ""), paint(20, "")) > 0


def test_progress_counts_every_sampling_step(pipe: StableDiffusionPipeline) -> None:
    seen: list[tuple[int, int]] = []
    generate(pipe, ["fox"] * 3, [1, 2, 3], steps=2, batch_size=2, on_step=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_prompts_no_images(pipe: StableDiffusionPipeline) -> None:
    assert generate(pipe, [], []) == []
    with pytest.raises(BwlabError, match="1 prompts and 2 seeds"):
        generate(pipe, ["fox"], [1, 2])
