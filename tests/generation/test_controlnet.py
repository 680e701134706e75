"""Painting by lines: ControlNets of the embedded base's kind, with adapters active."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from PIL import Image, ImageDraw

from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.generation.controlnet import ControlNetInput, load_controlnet, read_controlnet_input
from bwlab.generation.img2img import InitImage
from bwlab.generation.sample import generate
from tests.analysis.random_adapters import random_adapter


def lively_controlnet(pipe: StableDiffusionPipeline) -> ControlNetModel:
    """Return a ControlNet from a base's UNet whose zero convolutions are random numbers: it does something."""
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4, 8))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*net.controlnet_down_blocks.parameters(), *net.controlnet_mid_block.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> StableDiffusionPipeline:
    return load_base(tiny_pipeline)


@pytest.fixture(scope="module")
def folder(pipe: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("controlnet")
    lively_controlnet(pipe).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("control") / "disc.png"
    image = Image.new("RGB", (47, 53), "white")
    ImageDraw.Draw(image).ellipse((9, 11, 37, 43), fill="red")
    image.save(path)
    return path


def generated(pipe: StableDiffusionPipeline, **options: object) -> np.ndarray:
    images = generate(pipe, ["a fox", "an owl"], [1, 2], steps=2, cfg=2.0, **options)  # type: ignore[arg-type]
    return np.stack([np.asarray(image, np.int16) for image in images])


def test_lines_change_what_is_generated_and_a_scale_of_0_does_not(
    pipe: StableDiffusionPipeline, folder: Path, image: Path
) -> None:
    control = read_controlnet_input(str(folder), image, "canny", pipe)
    assert control.image.size == (32, 32)
    assert set(np.unique(np.asarray(control.image))) == {0, 255}
    plain, led = generated(pipe), generated(pipe, controlnet=control)
    off = generated(pipe, controlnet=ControlNetInput(control.net, control.image, scale=0.0))
    assert np.abs(plain - led).mean() > 1
    assert np.abs(plain - off).max() <= 1


@pytest.mark.parametrize(("end", "on"), [(0.1, 1), (0.3, 1), (0.34, 2), (2 / 3, 2), (0.67, 3), (1.0, 3)])
def test_it_acts_at_the_steps_before_its_end(
    pipe: StableDiffusionPipeline, folder: Path, image: Path, end: float, on: int
) -> None:
    """Step i of 3 is at i / 3: also with few steps, the first one always has it."""
    control = read_controlnet_input(str(folder), image, "canny", pipe, end=end)
    calls: list[float] = []
    handle = control.net.register_forward_pre_hook(
        lambda net, arguments, named: calls.append(named["conditioning_scale"]), with_kwargs=True
    )
    try:
        generate(pipe, ["a fox"], [1], steps=3, cfg=1.0, sampler="euler", controlnet=control)
    finally:
        handle.remove()
    assert [scale > 0 for scale in calls] == [True] * on + [False] * (3 - on)


def test_it_is_what_diffusers_own_pipeline_generates(pipe: StableDiffusionPipeline, folder: Path, image: Path) -> None:
    from bwlab.generation.diffusers_pipelines import pipeline_for

    control = read_controlnet_input(str(folder), image, "lineart", pipe)
    pipeline = pipeline_for(pipe, "euler", "text", control.net)
    assert type(pipeline).__name__ == "StableDiffusionControlNetPipeline"
    theirs = pipeline(
        "a fox",
        image=control.image,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    mine = generate(pipe, ["a fox"], [1], steps=2, cfg=2.0, sampler="euler", controlnet=control)[0]
    assert np.abs(np.asarray(theirs, np.int16) - np.asarray(mine, np.int16)).max() <= 1


def test_adapters_act_beside_it(pipe: StableDiffusionPipeline, folder: Path, image: Path) -> None:
    from bwlab.adapters.attach import ScaledAdapter

    control = read_controlnet_input(str(folder), image, "canny", pipe)
    adapter = random_adapter(pipe.unet, "locon", "upper=2", 1)
    both = generated(pipe, controlnet=control, adapters=[ScaledAdapter(adapter)])
    assert np.abs(both - generated(pipe, controlnet=control)).mean() > 1
    assert all(not module._forward_hooks for module in pipe.unet.modules())


@pytest.mark.parametrize("masked", [False, True])
def test_it_leads_from_an_image_too(pipe: StableDiffusionPipeline, folder: Path, image: Path, masked: bool) -> None:
    control = read_controlnet_input(str(folder), image, "canny", pipe)
    mask = Image.new("L", (32, 32), 255) if masked else None
    start = InitImage(Image.new("RGB", (32, 32), "grey"), 0.9, mask)
    led, free = generated(pipe, controlnet=control, init_image=start), generated(pipe, init_image=start)
    assert np.abs(led - free).mean() > 0.5


def test_what_does_not_fit_is_reported(
    pipe: StableDiffusionPipeline, folder: Path, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(BwlabError, match="Did you mean canny"):
        read_controlnet_input(str(folder), image, "cany", pipe)
    with pytest.raises(BwlabError, match="no such folder"):
        load_controlnet(str(tmp_path / "none"), pipe)
    with pytest.raises(BwlabError, match=r"config\.json is missing"):
        load_controlnet(str(tmp_path), pipe)
    with pytest.raises(BwlabError, match="a file, not a folder"):
        load_controlnet(str(image), pipe)
    with pytest.raises(BwlabError, match="another base: in_channels"):
        load_controlnet(str(folder), load_base("emoji"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BwlabError, match="does not load"):
        load_controlnet(str(tmp_path), pipe)
