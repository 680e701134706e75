"""diffusers' own loader makes the same UNet of a written file as bwlab does."""

from __future__ import annotations

from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.load import load_adapter
from bwlab.adapters.save import save_adapter
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.plugins.manager import PluginManager
from tests.formats.adapters_made import trained
from tests.formats.agreement import (
    TOLERANCE,
    attached_output,
    hidden,
    loaded_by_diffusers,
    predict,
    relative_error,
)


def test_the_unet_loader_agrees(
    tmp_path: Path, unet: UNet2DConditionModel, scheme: BlockScheme, manager: PluginManager, adapter: Adapter
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_adapter(adapter, file)
    ours = attached_output(unet, adapter)
    with attach(unet, ScaledAdapter(load_adapter(file, unet, manager, scheme))):
        assert relative_error(predict(unet), ours) < TOLERANCE
    assert relative_error(predict(loaded_by_diffusers(unet, file)), ours) < TOLERANCE


def test_the_unet_loader_agrees_on_sdxl(tmp_path: Path, sdxl_unet: UNet2DConditionModel) -> None:
    adapter = trained(sdxl_unet, scheme_for(dict(sdxl_unet.config)), "locon", "style=4, content=2, in1=3, mid=2", 2.0)
    file = tmp_path / "adapter.safetensors"
    save_adapter(adapter, file)
    theirs = loaded_by_diffusers(sdxl_unet, file)
    assert relative_error(predict(theirs), attached_output(sdxl_unet, adapter)) < TOLERANCE


def test_the_pipeline_loader_agrees(tmp_path: Path, tiny_pipeline: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipe.unet.eval().requires_grad_(False)
    adapter = trained(pipe.unet, scheme_for(dict(pipe.unet.config)), "locon", "upper=4, mid=2", 2.0)
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    ours = attached_output(pipe.unet, adapter)
    pipe.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert relative_error(predict(pipe.unet), ours) < TOLERANCE


def test_the_pipeline_loader_agrees_on_the_text_encoder(tmp_path: Path, tiny_pipeline: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    encoder, scheme = pipe.text_encoder.requires_grad_(False), scheme_for(dict(pipe.unet.config))
    adapter = trained(pipe.unet, scheme, "lora", "mid=2, te=3", 1.5, encoder).eval()
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    plain = hidden(encoder)
    with attach(pipe.unet, ScaledAdapter(adapter), text_encoder=encoder):
        ours = hidden(encoder)
    pipe.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert relative_error(hidden(encoder), ours) < TOLERANCE
    assert relative_error(plain, ours) > 100 * TOLERANCE
