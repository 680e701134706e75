"""diffusers' own loader makes the same UNet of a written file as bwlab does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

from bwlab.adapters.adapter import Attached, attach
from bwlab.adapters.loading import load_adapter
from bwlab.blocks.scheme import BlockScheme, scheme_for
from bwlab.formats.kohya import save_adapter
from bwlab.plugins import PluginManager
from tests.formats.adapters_made import trained

TOLERANCE = 1e-5

CASES = [
    pytest.param("lora", "all=4", 4.0, id="lora"),
    pytest.param("locon", "all=4", 2.0, id="locon"),
    pytest.param("locon", "upper=4", 1.0, id="upper-only"),
    pytest.param("locon", "upper=6, mid=2, lower=3, in3=5", 1.5, id="mixed-ranks"),
    pytest.param("locon", "upper=6, mid=2, lower=3, in3=5", None, id="mixed-alphas"),
    pytest.param("lora", "out1.1=3, mid=2", None, id="one-pair"),
]


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size, width = int(unet.config["sample_size"]), int(unet.config["cross_attention_dim"])
    latents = torch.randn(2, 4, size, size, generator=generator)
    sample: Tensor = unet(latents, 400, torch.randn(2, 6, width, generator=generator)).sample
    return sample


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("type_name", "spec", "alpha"), CASES)
def test_the_unet_loader_agrees(
    tmp_path: Path,
    unet: UNet2DConditionModel,
    scheme: BlockScheme,
    manager: PluginManager,
    type_name: str,
    spec: str,
    alpha: float | None,
) -> None:
    adapter, file = trained(unet, scheme, type_name, spec, alpha), tmp_path / "adapter.safetensors"
    save_adapter(adapter, file)
    with attach(unet, Attached(adapter)):
        ours = predict(unet)
    with attach(unet, Attached(load_adapter(file, unet, manager, scheme))):
        assert relative_error(predict(unet), ours) < TOLERANCE
    theirs = copy.deepcopy(unet)
    tensors, alphas = StableDiffusionPipeline.lora_state_dict(str(file), unet_config=unet.config)
    theirs.load_lora_adapter(tensors, network_alphas=alphas, prefix="unet")
    assert relative_error(predict(theirs), ours) < TOLERANCE
    assert relative_error(predict(unet), ours) > 100 * TOLERANCE


def test_the_unet_loader_agrees_on_sdxl(tmp_path: Path, sdxl_unet: UNet2DConditionModel) -> None:
    adapter = trained(sdxl_unet, scheme_for(dict(sdxl_unet.config)), "locon", "style=4, content=2, in1=3, mid=2", 2.0)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    with attach(sdxl_unet, Attached(adapter)):
        ours = predict(sdxl_unet)
    assert relative_error(predict(sdxl_unet), ours) > 100 * TOLERANCE
    theirs = copy.deepcopy(sdxl_unet)
    file = str(tmp_path / "adapter.safetensors")
    tensors, alphas = StableDiffusionXLPipeline.lora_state_dict(file, unet_config=theirs.config)
    theirs.load_lora_adapter(tensors, network_alphas=alphas, prefix="unet")
    assert relative_error(predict(theirs), ours) < TOLERANCE


def test_the_pipeline_loader_agrees(tmp_path: Path, tiny_pipeline: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipe.unet.eval().requires_grad_(False)
    adapter = trained(pipe.unet, scheme_for(dict(pipe.unet.config)), "locon", "upper=4, mid=2", 2.0)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    with attach(pipe.unet, Attached(adapter)):
        ours = predict(pipe.unet)
    pipe.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert relative_error(predict(pipe.unet), ours) < TOLERANCE


def test_the_pipeline_loader_agrees_on_the_text_encoder(tmp_path: Path, tiny_pipeline: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    encoder, scheme = pipe.text_encoder.requires_grad_(False), scheme_for(dict(pipe.unet.config))
    adapter = trained(pipe.unet, scheme, "lora", "mid=2, te=3", 1.5, encoder).eval()
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    tokens = torch.tensor([[512, 5, 7, 9, 513]])
    plain = encoder(tokens).last_hidden_state
    with attach(pipe.unet, Attached(adapter), text_encoder=encoder):
        ours = encoder(tokens).last_hidden_state
    pipe.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    theirs = encoder(tokens).last_hidden_state.detach()
    assert relative_error(theirs, ours) < TOLERANCE
    assert relative_error(plain, ours) > 100 * TOLERANCE
