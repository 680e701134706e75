"""diffusers, PEFT and LyCORIS make the same model of a converted file as bwlab does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from lycoris.modules import get_module, make_module
from peft import PeftModel
from torch import nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.adapters.save import save_adapter
from bwlab.blocks.families import scheme_for
from bwlab.formats.keys import kohya_name_of
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from tests.formats.adapters_made import trained
from tests.formats.agreement import TOLERANCE, attached_output, hidden, loaded_by_diffusers, predict, relative_error

XL_SPEC = "style=4, content=2, in1=3, mid=2, out2=5"


def converted(adapter: Adapter, folder: Path, form: str, manager: PluginManager) -> Path:
    """Return the adapter, saved and converted."""
    save_adapter(adapter, folder / "saved.safetensors")
    out = folder / ("peft" if form == "peft" else f"{form}.safetensors")
    convert(Conversion(folder / "saved.safetensors", Target(out, form)), manager)
    return out


def test_diffusers_loads_its_own_form(
    tmp_path: Path, unet: UNet2DConditionModel, manager: PluginManager, adapter: Adapter
) -> None:
    file = converted(adapter, tmp_path, "diffusers", manager)
    theirs = predict(loaded_by_diffusers(unet, file))
    assert relative_error(theirs, attached_output(unet, adapter)) < TOLERANCE
    tensors, alphas = StableDiffusionPipeline.lora_state_dict(str(file), unet_config=unet.config)
    blind = copy.deepcopy(unet)
    blind.load_lora_adapter(tensors, network_alphas=alphas, prefix="unet")
    assert torch.equal(predict(blind), theirs)


def test_peft_loads_its_folder(
    tmp_path: Path, unet: UNet2DConditionModel, manager: PluginManager, adapter: Adapter
) -> None:
    folder = converted(adapter, tmp_path, "peft", manager)
    theirs = PeftModel.from_pretrained(copy.deepcopy(unet), folder, subfolder="unet").eval()
    assert relative_error(predict(theirs), attached_output(unet, adapter)) < TOLERANCE


def test_lycoris_reconstructs_every_module(
    tmp_path: Path, unet: UNet2DConditionModel, manager: PluginManager, adapter: Adapter
) -> None:
    theirs = copy.deepcopy(unet)
    apply_lycoris(theirs, converted(adapter, tmp_path, "kohya", manager), adapter)
    assert relative_error(predict(theirs), attached_output(unet, adapter)) < TOLERANCE


def apply_lycoris(unet: nn.Module, file: Path, adapter: Adapter) -> None:
    """Put LyCORIS' own modules, made from the file, in the places of a model's layers."""
    tensors = safetensors.torch.load_file(file)
    for path in adapter.layers:
        name = kohya_name_of(path)
        kind, parameters = get_module(tensors, name)
        module = make_module(kind, parameters, name, unet.get_submodule(path))
        module.apply_to()
        module.eval()


@pytest.mark.parametrize("form", ["kohya", "ldm", "diffusers"])
def test_diffusers_loads_every_form_of_sdxl(
    tmp_path: Path, sdxl_unet: UNet2DConditionModel, manager: PluginManager, form: str
) -> None:
    adapter = trained(sdxl_unet, scheme_for(dict(sdxl_unet.config)), "locon", XL_SPEC, None)
    file = converted(adapter, tmp_path, form, manager)
    theirs = loaded_by_diffusers(sdxl_unet, file)
    assert relative_error(predict(theirs), attached_output(sdxl_unet, adapter)) < TOLERANCE


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_a_pipeline_loads_unet_and_text_encoder(
    tmp_path: Path, tiny_pipeline: Path, manager: PluginManager, form: str
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipe.unet.eval().requires_grad_(False)
    encoder = pipe.text_encoder.requires_grad_(False)
    adapter = trained(
        pipe.unet, scheme_for(dict(pipe.unet.config)), "lora", "mid=2, out3=3, te=5", None, encoder
    ).eval()
    file = converted(adapter, tmp_path, form, manager)
    with attach(pipe.unet, ScaledAdapter(adapter), text_encoder=encoder):
        ours, words = predict(pipe.unet), hidden(encoder)
    plain = hidden(encoder)
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    assert relative_error(predict(pipe.unet), ours) < TOLERANCE
    assert relative_error(hidden(encoder), words) < TOLERANCE
    assert relative_error(plain, words) > 100 * TOLERANCE


@pytest.mark.parametrize("form", ["kohya", "ldm", "diffusers", "peft"])
def test_a_pipeline_of_sdxl_loads_both_text_encoders(
    tmp_path: Path, tiny_xl_pipeline: Path, manager: PluginManager, form: str
) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_xl_pipeline, add_watermarker=False)
    encoders = [pipe.text_encoder.requires_grad_(False), pipe.text_encoder_2.requires_grad_(False)]
    scheme = scheme_for(dict(pipe.unet.config))
    adapter = trained(pipe.unet, scheme, "lora", "mid=2, te=3, te2=4", None, encoders).eval()
    file = converted(adapter, tmp_path, form, manager)
    with attach(pipe.unet, ScaledAdapter(adapter), text_encoder=encoders):
        ours = [hidden(encoder) for encoder in encoders]
    plain = [hidden(encoder) for encoder in encoders]
    if form == "peft":
        theirs = [
            PeftModel.from_pretrained(encoder, file, subfolder=name)
            for encoder, name in zip(encoders, ("text_encoder", "text_encoder_2"), strict=True)
        ]
    else:
        pipe.load_lora_weights(tmp_path, weight_name=file.name)
        theirs = encoders
    for other, own, before in zip(theirs, ours, plain, strict=True):
        assert relative_error(hidden(other), own) < TOLERANCE
        assert relative_error(before, own) > 100 * TOLERANCE
