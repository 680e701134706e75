"""Adapters on a user's own pipeline: what acts, where, at which step, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, layer_scale
from bwlab.adapters.attach import attach as attach_adapters
from bwlab.adapters.modules import layers_by_path
from bwlab.adapters.save import save_adapter
from bwlab.base.load import base_scheme
from bwlab.base.models import text_encoders
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.generation.attach import (
    AdapterSource,
    attach_to_pipeline,
    embeddings_of_adapters,
    fraction_of,
    load_for_pipeline,
)
from bwlab.generation.diffusers_pipelines import pipeline_for
from bwlab.generation.sample import generate
from bwlab.plugins.manager import PluginManager
from tests.generation.conftest import strong_adapter

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

STEPS = 4


def models(pipe: Pipeline) -> list[nn.Module]:
    return [pipe.unet, pipe.vae, *text_encoders(pipe)]


def state(pipe: Pipeline) -> list[object]:
    """Return identities of all modules and parameters, their bits and their hooks."""
    modules = [module for model in models(pipe) for module in model.modules()]
    tensors = [tensor for model in models(pipe) for tensor in model.state_dict().values()]
    hooks = [
        list(getattr(module, name))
        for module in modules
        for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    ]
    return [
        *(id(module) for module in modules),
        *(id(parameter) for model in models(pipe) for parameter in model.parameters()),
        *(tensor.numpy().tobytes() for tensor in tensors),
        *hooks,
        *(id(part) for part in pipe.components.values()),
    ]


def paint(pipe: Any, prompt: str = "fox", seed: int = 3, **settings: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
    generator = torch.Generator().manual_seed(seed)
    result = pipe(prompt, num_inference_steps=STEPS, guidance_scale=5.0, generator=generator, **settings)
    return np.asarray(result.images[0])


@pytest.fixture(scope="module")
def everywhere(pipe: Pipeline, manager: PluginManager) -> Adapter:
    return strong_adapter(pipe, manager, "all=2, te=2", seed=1, text=True, kind="locon")


def test_half_precision_files_act_in_the_precision_of_the_base(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter, tmp_path: Path
) -> None:
    """Also where factors differ in dtype, as `bwlab convert` writes a factor that half precision would round."""
    whole = tmp_path / "whole.safetensors"
    save_adapter(everywhere, whole)
    with safe_open(whole, "pt") as opened:
        metadata = opened.metadata()
    rounded = {key: tensor.half() for key, tensor in load_file(whole).items()}
    forms: dict[str, Callable[[str, Tensor], Tensor]] = {
        "half": lambda key, tensor: tensor,
        "mixed": lambda key, tensor: tensor.float() if "up" in key.split(".")[-2] else tensor,
        "float": lambda key, tensor: tensor.float(),
    }
    images = {}
    for name, form in forms.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({key: form(key, tensor) for key, tensor in rounded.items()}, file, metadata)
        assert len({tensor.dtype for tensor in load_file(file).values()}) == (2 if name == "mixed" else 1)
        adapter = load_for_pipeline(file, pipe, manager, base_scheme(pipe, manager.block_schemes()))
        assert {layer.compute_dtype() for layer in adapter.layers.values()} == {torch.float32}
        with attach_to_pipeline(pipe, [file], manager):
            images[name] = paint(pipe)
    assert (images["half"] == images["float"]).all()
    assert (images["mixed"] == images["float"]).all()
    assert (images["float"] != paint(pipe)).any()


def test_the_pipeline_is_afterwards_what_it_was(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter, tmp_path: Path
) -> None:
    before, plain = state(pipe), paint(pipe)
    save_adapter(everywhere, tmp_path / "file.safetensors")
    uses: list[AdapterSource] = [
        everywhere,
        tmp_path / "file.safetensors",
        ScaledAdapter(everywhere, "upper=1, *=0", "0-0.5:1, 0.5-1:0.3"),
    ]
    with attach_to_pipeline(pipe, uses, manager):
        assert (paint(pipe) != plain).any()
        assert state(pipe) != before
    assert state(pipe) == before
    assert (paint(pipe) == plain).all()


def test_embeddings_in_an_adapter_file_come_with_the_adapter(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter, tmp_path: Path
) -> None:
    file, width = tmp_path / "bundled.safetensors", pipe.text_encoder.config.hidden_size
    save_adapter(everywhere, file)
    save_file({**load_file(file), "bundle_emb.<s1>.string_to_param.*": torch.full((2, width), 0.5)}, file)
    scheme = base_scheme(pipe, manager.block_schemes())
    adapter = load_for_pipeline(file, pipe, manager, scheme)
    assert [(one.word, one.vectors["te"].shape) for one in adapter.embeddings] == [("<s1>", (2, width))]
    assert embeddings_of_adapters([ScaledAdapter(everywhere), ScaledAdapter(adapter, 0.5)]) == list(adapter.embeddings)
    with attach_to_pipeline(pipe, [adapter], manager):
        assert "<s1>" in pipe.tokenizer.get_added_vocab()
    assert "<s1>" not in pipe.tokenizer.get_added_vocab()


def test_an_exception_in_the_middle_of_sampling_leaves_nothing(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter
) -> None:
    before = state(pipe)

    def stop(_: object, step: int, __: object, values: dict[str, object]) -> dict[str, object]:
        if step == 2:
            raise KeyboardInterrupt
        return values

    with (
        pytest.raises(KeyboardInterrupt),
        attach_to_pipeline(pipe, [ScaledAdapter(everywhere, schedule="0-0.5:1, 0.5-1:0.3"), everywhere], manager),
    ):
        paint(pipe, callback_on_step_end=stop)
    assert state(pipe) == before


@pytest.mark.parametrize(
    ("scale", "schedule", "found"),
    [("uper=1", None, "upper"), (1.0, "0-2:1", "leaves the sampling"), (float("nan"), None, "not a finite number")],
)
def test_what_is_wrong_is_said_before_anything_is_attached(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter, scale: str | float, schedule: str | None, found: str
) -> None:
    before = state(pipe)
    with (
        pytest.raises(BwlabError, match=found),
        attach_to_pipeline(pipe, [everywhere, ScaledAdapter(everywhere, scale, schedule)], manager),
    ):
        raise AssertionError("unreachable")
    assert state(pipe) == before


def test_a_missing_file_attaches_nothing(pipe: Pipeline, manager: PluginManager, everywhere: Adapter) -> None:
    before = state(pipe)
    with (
        pytest.raises(BwlabError, match=r"none\.safetensors"),
        attach_to_pipeline(pipe, [everywhere, "none.safetensors"], manager),
    ):
        raise AssertionError("unreachable")
    assert state(pipe) == before


def test_every_layer_gets_the_scale_of_its_block(pipe: Pipeline, manager: PluginManager, everywhere: Adapter) -> None:
    """The reference is a UNet whose weights have the deltas added, in float64."""
    scheme = base_scheme(pipe, manager.block_schemes())
    blocks = [block for block in scheme.blocks() if block != "rest"]
    text = ", ".join(f"{block}={(-1) ** number * 0.1 * (number + 1):.1f}" for number, block in enumerate(blocks))
    spec = parse_spec(text, scheme, kind="scale")
    layers = layers_by_path(pipe.unet, text_encoders(pipe))
    assert {scheme.block_of(path) for path in everywhere.layers} == set(blocks)
    assert {"down_blocks.3.resnets.0.conv1", "mid_block.resnets.1.conv2", "up_blocks.0.upsamplers.0.conv"} <= set(
        everywhere.layers
    )
    with double(models(pipe)), double([*everywhere.layers.values()]):
        with attach_to_pipeline(pipe, [ScaledAdapter(everywhere, text)], manager):
            hooked = unet_and_text(pipe)
        own = {path: layers[path].weight.data for path in everywhere.layers}
        try:
            for path, delta in everywhere.deltas():
                layers[path].weight.data = own[path] + layer_scale(spec, path, scheme) * delta
            merged = unet_and_text(pipe)
        finally:
            for path, weight in own.items():
                layers[path].weight.data = weight
    for ours, reference in zip(hooked, merged, strict=True):
        assert float((ours - reference).norm() / reference.norm()) < 1e-10


@contextmanager
def double(modules: list[Any]) -> Iterator[None]:
    """Compute in float64 inside the block; the float32 bits come back exactly."""
    for module in modules:
        module.double()
    try:
        yield
    finally:
        for module in modules:
            module.float()


def unet_and_text(pipe: Pipeline) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    text = torch.randn(2, 16, pipe.unet.config.cross_attention_dim, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        words = pipe.text_encoder(pipe.tokenizer("fox", return_tensors="pt").input_ids)[0]
        return pipe.unet(noisy, 500, text).sample, words


def calls_of_unet(pipe: Pipeline) -> list[tuple[tuple[object, ...], dict[str, object], Tensor]]:
    """Paint, and return what the UNet is called with and returns."""
    calls: list[tuple[tuple[object, ...], dict[str, object], Tensor]] = []

    def keep(_: object, arguments: tuple[object, ...], named: dict[str, object], output: Any) -> None:
        calls.append((arguments, named, output[0].clone()))

    handle = pipe.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        paint(pipe)
    finally:
        handle.remove()
    return calls


@pytest.mark.parametrize("scale", [0.7, "upper=-1", {"*": torch.tensor([0.0, 0.5])}, torch.tensor([0.3, 1.0])])
def test_each_step_has_its_factor(pipe: Pipeline, manager: PluginManager, everywhere: Adapter, scale: Any) -> None:
    unet_only = Adapter(
        "unet", "locon", {p: layer for p, layer in everywhere.layers.items() if p[:3] != "te."}, everywhere.scheme
    )
    with attach_to_pipeline(pipe, [ScaledAdapter(unet_only, scale, "0-0.5:1, 0.75-1:0.3")], manager):
        calls = calls_of_unet(pipe)
    assert len(calls) == STEPS
    scheme = base_scheme(pipe, manager.block_schemes())
    parsed = parse_spec(scale, scheme, kind="scale", default=1.0) if isinstance(scale, str) else scale
    for (arguments, named, output), factor in zip(calls, (1, 1, 0, 0.3), strict=True):
        scales = {
            module.path: factor * layer_scale(parsed, module.path, scheme)
            for module in scheme.modules
            if module.block != "te"
        }
        with torch.no_grad(), attach_adapters(pipe.unet, ScaledAdapter(unet_only, scales)):
            again = pipe.unet(*arguments, **named)[0]
        assert torch.allclose(again, output, rtol=1e-5, atol=1e-6)
        if factor == 0:
            with torch.no_grad():
                assert torch.equal(pipe.unet(*arguments, **named)[0], output)


def test_a_second_call_begins_anew(pipe: Pipeline, manager: PluginManager, everywhere: Adapter) -> None:
    with attach_to_pipeline(pipe, [ScaledAdapter(everywhere, schedule="0-0.5:1")], manager):
        first, second = paint(pipe), paint(pipe)
    assert (first == second).all()


def test_image_to_image_begins_late_in_the_sampling(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter
) -> None:
    image = Image.new("RGB", (32, 32), "red")
    unet_only = Adapter(
        "unet", "locon", {p: layer for p, layer in everywhere.layers.items() if p[:3] != "te."}, everywhere.scheme
    )
    to_image = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    to_image.set_progress_bar_config(disable=True)
    plain = paint(to_image, image=image, strength=0.5)
    generated = {}
    for schedule in ("0-0.5:1", "0.5-1:1", "1"):
        # The schedulers are one object.
        with attach_to_pipeline(pipe, [ScaledAdapter(unet_only, schedule=schedule)], manager):
            generated[schedule] = paint(to_image, image=image, strength=0.5)
    assert (generated["0-0.5:1"] == plain).all()
    assert (generated["0.5-1:1"] == generated["1"]).all()
    assert (generated["1"] != plain).any()


def test_layers_of_text_encoders_keep_their_scale(pipe: Pipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(pipe, manager, "te=4", seed=1, text=True)
    plain = paint(pipe)
    with attach_to_pipeline(pipe, [adapter], manager):
        always = paint(pipe)
    with attach_to_pipeline(pipe, [ScaledAdapter(adapter, schedule="0.5-1:0")], manager):
        scheduled = paint(pipe)
    assert (always == scheduled).all()
    assert (always != plain).any()


def test_sdxl_with_both_text_encoders(xl_pipe: Pipeline, manager: PluginManager) -> None:
    adapter = strong_adapter(xl_pipe, manager, "all=2, te=2", seed=1, text=True)
    assert {path.split(".")[0] for path in adapter.layers} >= {"te", "te2", "down_blocks", "mid_block", "up_blocks"}
    plain = paint(xl_pipe)  # transformers sets hooks of its own that stay
    before = state(xl_pipe)
    with attach_to_pipeline(xl_pipe, [ScaledAdapter(adapter, "te1=0, all=0")], manager):
        second_only = paint(xl_pipe)
    with attach_to_pipeline(xl_pipe, [ScaledAdapter(adapter, "te=0", "0-0.5:1")], manager):
        early = paint(xl_pipe)
    assert state(xl_pipe) == before
    assert (second_only != plain).any()
    assert (early != plain).any()
    assert (paint(xl_pipe) == plain).all()


def test_generate_generates_what_the_users_own_call_paints(
    pipe: Pipeline, manager: PluginManager, everywhere: Adapter
) -> None:
    scheduler = pipe.scheduler
    ours = generate(pipe, ["fox"], [3], [ScaledAdapter(everywhere, 0.5)], steps=STEPS, cfg=5.0, sampler="ddim")[0]
    pipe.scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False, steps_offset=1)
    try:
        with attach_to_pipeline(pipe, [ScaledAdapter(everywhere, 0.5)], manager):
            theirs = paint(pipe)
    finally:
        pipe.scheduler = scheduler
    assert np.abs(np.asarray(ours).astype(int) - theirs).max() <= 1


def test_a_schedule_without_sampling_is_an_error(pipe: Pipeline, manager: PluginManager, everywhere: Adapter) -> None:
    scheduler = pipe.scheduler
    text = torch.zeros(2, 16, pipe.unet.config.cross_attention_dim)
    noisy = torch.zeros(2, 4, 8, 8)
    pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    try:
        with attach_to_pipeline(pipe, [ScaledAdapter(everywhere, schedule="0-0.5:1")], manager):
            with pytest.raises(BwlabError, match="no sampling steps"):
                pipe.unet(noisy, 500, text)
            pipe.scheduler.set_timesteps(STEPS)
            with pytest.raises(BwlabError, match="does not visit"):
                pipe.unet(noisy, 500, text)
            with pytest.raises(BwlabError, match="2 timesteps at once"):
                pipe.unet(noisy, torch.tensor([500, 400]), text)
            pipe.unet(noisy, timestep=pipe.scheduler.timesteps[1], encoder_hidden_states=text)
    finally:
        pipe.scheduler = scheduler


@pytest.mark.parametrize("sampler", ["heun", "euler", "dpmpp_2m"])
def test_step_i_of_n_is_at_i_of_n(pipe: Pipeline, sampler: str) -> None:
    """Heun visits all timesteps but the first one twice."""
    pipeline = pipeline_for(pipe, sampler)
    pipeline.scheduler.set_timesteps(25)
    timesteps = torch.unique_consecutive(pipeline.scheduler.timesteps)
    places = [fraction_of(pipeline, float(timestep)) for timestep in timesteps]
    assert places == [step / 25 for step in range(25)]
