"""Variants of adapters in one forward pass are what they are alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Scale, ScaledAdapter, attach
from bwlab.errors import BwlabError
from bwlab_analysis.activations.batched_denoiser import BatchedDenoiser, BlockOutput, Variant, denoiser_blocks
from tests.analysis.random_adapters import random_adapter
from tests.conftest import TINY_WIDTH, XL_POOLED_WIDTH, XL_SECOND_WIDTH, tiny_unet, tiny_xl_unet


def text(width: int, count: int, seed: int) -> dict[str, Tensor]:
    return {"encoder_hidden_states": torch.randn(count, 7, width, generator=torch.Generator().manual_seed(seed))}


def xl_text(count: int, seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    added = {
        "text_embeds": torch.randn(count, XL_POOLED_WIDTH, generator=generator),
        "time_ids": torch.full((count, 6), 32.0),
    }
    return {**text(TINY_WIDTH + XL_SECOND_WIDTH, count, seed), "added_cond_kwargs": added}


@torch.no_grad()
def alone(
    unet: torch.nn.Module,
    adapters: Sequence[Adapter],
    scales: Sequence[Scale],
    latents: Tensor,
    times: Tensor,
    condition: Mapping[str, object],
) -> Tensor:
    uses = [ScaledAdapter(adapter, scale) for adapter, scale in zip(adapters, scales, strict=True)]
    with attach(unet, *uses):
        output: Tensor = unet(latents, times, **condition).sample
    return output


def variants_of(blocks: Sequence[str]) -> list[Variant]:
    everything = {"*": 1.0}
    knock_outs = [({**everything, block: 0.0}, 1.0) for block in blocks]
    return [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), *knock_outs, (0.3, {"*": 1.0, "rest": 0.0})]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@torch.no_grad()
def test_every_variant_is_what_it_is_alone(kind: str) -> None:
    torch.manual_seed(0)
    unet = (tiny_unet() if kind == "sd" else tiny_xl_unet()).eval()
    adapters = [random_adapter(unet, "locon", "all=2, rest=2", 1), random_adapter(unet, "lora", "all=3", 2)]
    scheme = adapters[0].scheme
    latents = torch.randn(3, 4, 8, 8)
    times = torch.tensor([11, 503, 871])
    conditions = [text(TINY_WIDTH, 3, 4)] if kind == "sd" else [xl_text(3, 4)]
    variants = variants_of(denoiser_blocks(scheme))
    denoiser = BatchedDenoiser(unet, scheme, adapters, variants)
    outputs = denoiser.forward(latents, times, conditions)
    assert outputs.shape == (len(variants), 3, 4, 8, 8)
    assert denoiser.cost() < 0.8
    for variant, output in zip(variants, outputs, strict=True):
        expected = alone(unet, adapters, variant, latents, times, conditions[0])
        assert torch.allclose(output, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(outputs[0], outputs[3], atol=1e-2)
    assert not unet.down_blocks[0]._forward_pre_hooks
    assert not unet.down_blocks[0]._forward_hooks


@torch.no_grad()
def test_variants_may_read_different_texts() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    adapter = random_adapter(unet, "lora", "out3=3", 2)
    latents, times = torch.randn(2, 4, 8, 8), torch.tensor([5, 900])
    texts = [text(TINY_WIDTH, 2, 1), text(TINY_WIDTH, 2, 2)]
    denoiser = BatchedDenoiser(unet, adapter.scheme, [adapter], [(0.0,), (1.0,), (1.0,)], text_of=(0, 1, 0))
    outputs = denoiser.forward(latents, times, texts)
    for output, scale, chosen in zip(outputs, (0.0, 1.0, 1.0), (0, 1, 0), strict=True):
        assert torch.allclose(output, alone(unet, [adapter], [scale], latents, times, texts[chosen]), atol=1e-5)


@torch.no_grad()
def test_blocks_before_the_first_difference_are_computed_once() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    adapter = random_adapter(unet, "locon", "upper=2", 3)
    seen: dict[str, int] = {}

    def on_block(output: BlockOutput) -> None:
        seen[output.block] = output.hidden.shape[0]
        assert output.hidden.shape[1] == 2

    denoiser = BatchedDenoiser(unet, adapter.scheme, [adapter], [({"in0": 0.0, "out3": g},) for g in (0.0, 0.5, 1.0)])
    denoiser.forward(torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), [text(TINY_WIDTH, 2, 1)], on_block)
    assert seen == {"in0": 1, "in1": 1, "in2": 1, "in3": 1, "mid": 1, "out0": 1, "out1": 1, "out2": 1, "out3": 3}
    assert denoiser.cost() == pytest.approx((9 + 2 * 3) / 33)


@torch.no_grad()
def test_a_block_tells_what_each_variant_has_there() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    adapter = random_adapter(unet, "lora", "in1=2", 3)
    latents, times, condition = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), text(TINY_WIDTH, 2, 1)
    told: dict[str, BlockOutput] = {}
    denoiser = BatchedDenoiser(unet, adapter.scheme, [adapter], [(0.0,), (1.0,)])
    denoiser.forward(latents, times, [condition], lambda output: told.update({output.block: output}))
    kept: list[Tensor] = []
    handle = unet.down_blocks[1].register_forward_hook(lambda module, args, output: kept.append(output[0]))
    alone(unet, [adapter], [1.0], latents, times, condition)
    handle.remove()
    assert torch.allclose(told["in1"].variant(1), kept[0], atol=1e-6)
    assert torch.equal(told["in0"].variant(0), told["in0"].variant(1))


def test_nothing_stays_behind_after_an_error() -> None:
    unet = tiny_unet().eval()
    adapter = random_adapter(unet, "lora", "in1=2", 3)
    denoiser = BatchedDenoiser(unet, adapter.scheme, [adapter], [(0.0,), (1.0,)])
    with pytest.raises(RuntimeError):
        denoiser.forward(torch.randn(2, 3, 8, 8), torch.tensor([5, 900]), [text(TINY_WIDTH, 2, 1)])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in unet.modules())


@pytest.mark.parametrize("variants", [[], [(1.0, 1.0)]])
def test_scales_that_do_not_fit_the_adapters_are_refused(variants: list[Variant]) -> None:
    unet = tiny_unet()
    adapter = random_adapter(unet, "lora", "in1=2", 3)
    with pytest.raises(BwlabError, match="one scale for each adapter"):
        BatchedDenoiser(unet, adapter.scheme, [adapter], variants)
