"""Variants of adapters that share computations predict what each predicts alone, in every block of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import denoiser_of, family_of
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab_analysis.activations.batched_denoiser import BatchedDenoiser, BlockOutput, as_maps, block_path
from tests.families.pipelines import LATE_BLOCKS


def test_variants_are_what_they_are_alone(base: Path, family: str) -> None:
    pipe, manager = load_base(base), build_manager()
    scheme, model, denoiser = base_scheme(pipe, manager.block_schemes()), family_of(pipe), denoiser_of(pipe)
    late = LATE_BLOCKS[family]

    def random_adapter(blocks: str, seed: int) -> Adapter:
        ranks = parse_spec(blocks, scheme, kind="rank")
        adapter = create_adapter(denoiser, manager.adapter_type("lora"), ranks, None, scheme=scheme)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return adapter.eval()

    adapters = random_adapter("all=2", 1), random_adapter(f"{late}=2", 2)
    variants = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    conditions = denoiser_conditions(pipe, encode_texts(pipe, ["a red square", "blue"]))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([801.0, 401.0])
    blocks: dict[str, BlockOutput] = {}
    batched = BatchedDenoiser(denoiser, scheme, adapters, variants)
    with torch.no_grad():
        found = batched.forward(latents, times, [conditions], lambda output: blocks.update({output.block: output}))
        for index, scales in enumerate(variants):
            alone: dict[str, Tensor] = {}
            handles = [
                denoiser.get_submodule(block_path(scheme, block)).register_forward_hook(
                    lambda _, __, output, block=block, alone=alone: alone.update({block: model.image_stream(output)})
                )
                for block in blocks
            ]
            scaled = [ScaledAdapter(adapter, scale) for adapter, scale in zip(adapters, scales, strict=True)]
            with attach(denoiser, *scaled):
                expected = model.run(denoiser, latents, times, conditions)
            for handle in handles:
                handle.remove()
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-5)
            for block, output in blocks.items():
                tokens = model.image_tokens(denoiser, block, (8, 8)) or alone[block].shape[1]
                own = as_maps(alone[block][:, :tokens], 8, 8)
                torch.testing.assert_close(output.variant(index), own, rtol=1e-4, atol=1e-5)
    assert set(blocks) == {block for block in scheme.blocks() if block not in ("te", "te2", "te3", "rest")}
    assert batched.cost() < 1 or not model.grows_between_blocks


def test_tokens_are_laid_out_as_the_image() -> None:
    tokens = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    maps = as_maps(tokens, 4, 6)
    assert maps.shape == (2, 3, 2, 3)
    assert torch.equal(maps[1, :, 1, 0], tokens[1, 3])
    assert as_maps(maps, 4, 6) is maps
    text = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    assert torch.equal(as_maps(text, 4, 6)[:, :, 0], text.mT)
