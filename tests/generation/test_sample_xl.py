"""Images from SDXL bases: as diffusers' own pipeline makes them, with adapters on both text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.base.load import load_base
from bwlab.generation.diffusers_pipelines import pipeline_for
from bwlab.generation.sample import generate
from bwlab.plugins.manager import PluginManager
from tests.generation.conftest import strong_adapter

if TYPE_CHECKING:
    from PIL import Image

    from bwlab.base.architectures import Pipeline


@pytest.fixture(scope="module")
def xl(tiny_xl_pipeline: Path) -> Pipeline:
    return load_base(tiny_xl_pipeline)


def pixels(images: list[Image.Image]) -> list[list[int]]:
    return [np.asarray(image).ravel().tolist() for image in images]


@pytest.mark.parametrize(
    ("cfg", "negative"),
    [(1.0, ""), (5.0, ""), (5.0, "dull")],
)
def test_images_are_those_of_diffusers_pipeline(cfg: float, negative: str, xl: Pipeline) -> None:
    ours = generate(xl, ["a cat", "an owl"], [3, 7], steps=2, cfg=cfg, sampler="euler", negative=negative)
    theirs = pipeline_for(xl, "euler")(
        prompt=["a cat", "an owl"],
        negative_prompt=[negative] * 2 if negative else None,
        num_inference_steps=2,
        guidance_scale=cfg,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 7)],
    )
    assert ours[0].size == (32, 32)
    assert pixels(ours) == pixels(theirs.images)


def test_adapters_act_on_both_text_encoders_inside_the_call_only(xl: Pipeline, manager: PluginManager) -> None:
    def paint(*adapters: ScaledAdapter) -> list[list[int]]:
        return pixels(generate(xl, ["a cat"], [0], adapters, steps=2, cfg=3.0))

    before, adapter = paint(), strong_adapter(xl, manager, "te=2, *=0", seed=0, text=True)
    assert {path.split(".")[0] for path in adapter.layers} == {"te", "te2"}
    second = Adapter(
        "second", "lora", {path: one for path, one in adapter.layers.items() if path[:3] == "te2"}, adapter.scheme
    )
    assert len({str(paint(*use)) for use in ((), (ScaledAdapter(adapter),), (ScaledAdapter(second),))}) == 3
    assert paint() == before
