"""What single settings of a run do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch import nn
from torch._inductor import config as inductor

import bwlab
from bwlab.adapters.attach import ScaledLayer, hook_layers
from bwlab.adapters.lowrank import LowRankLayer
from bwlab.base.conditioning import denoiser_conditions, encode_texts
from bwlab.base.load import load_base
from bwlab.dataset.order import generator_for
from bwlab.errors import BwlabError
from bwlab.plugins.events import RunRecord, StepRecord
from bwlab.plugins.manager import build_manager
from bwlab.training import device as compiled
from bwlab.training import train
from bwlab.training.device import new_accelerator
from bwlab.training.objective import noisy_batch, prediction_loss
from bwlab.training.prepare import prepare
from bwlab.training.run_folder import ExistingRun
from bwlab.training.settings import read_config
from bwlab.training.trainer import Trainer
from tests.forked import PROCESSES
from tests.training.runs import files_in, plugins, run, same_tensors, short_config

RECORD = RunRecord("", "", "", "", "", {}, 1, 0, 1, 1, 0, "")


def test_a_step_is_the_mean_of_its_batches(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = (
        "training.accumulation=3",
        "training.max_grad_norm=0",
        "training.min_snr_gamma=5",
        "training.noise_offset=0.2",
    )
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "adapter.blocks=out3=2", *sets)
    setup = prepare(config, plugins(), Console(quiet=True))
    trainer = Trainer(config, setup, plugins())
    parameters = list(setup.trainable.adapter.parameters())
    losses = []
    base = load_base(tiny_pipeline)  # the text encoder of the run has left memory
    with setup.trainable.attached(setup.pipe):
        for micro in range(3):
            generator = generator_for(0, "step", micro)
            batch = noisy_batch(setup.data.sample(micro, 2, 0), setup.process, generator, offset=0.2, gamma=5)
            with torch.no_grad():
                text = encode_texts(base, batch.captions)
            conditions = denoiser_conditions(setup.pipe, text)
            losses.append(prediction_loss(setup.pipe.unet(batch.noisy, batch.timesteps, **conditions).sample, batch))
        torch.stack(losses).mean().backward()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        for parameter in parameters:
            parameter.grad = None
        record = trainer.train_step(RECORD)
    assert record.loss == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-5)
    assert record.grad_norm == pytest.approx(norm, rel=1e-4)


def test_the_text_encoder_learns_and_its_keys_are_kohyas(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=2", "adapter.blocks=te=3"
    tensors = safetensors.torch.load_file(run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)))
    assert all(key.startswith("lora_te_text_model_encoder_layers_") for key in tensors)
    assert all(bool(tensor.any()) for key, tensor in tensors.items() if key.endswith("lora_up.weight"))


def test_a_run_goes_on_from_a_file(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "adapter.blocks=mid=2, te=3", "training.steps=2"
    first = run(short_config(tiny_pipeline, two_images, tmp_path / "first", *sets))
    config = short_config(
        tiny_pipeline, two_images, tmp_path / "on", *sets, f"adapter.initial={first}", "adapter.alpha=1"
    )
    started = prepare(config, plugins(), Console(quiet=True)).trainable.adapter
    before = prepare(
        short_config(tiny_pipeline, two_images, tmp_path / "x", *sets), plugins(), Console(quiet=True)
    ).trainable.adapter
    assert {layer.alpha for layer in started.layers.values()} == {1.0}
    assert any(bool(delta.any()) for _, delta in started.deltas())
    assert not any(bool(delta.any()) for _, delta in before.deltas())
    on = run(config)
    assert on.is_file()
    straight = short_config(tiny_pipeline, two_images, tmp_path / "more", *sets, f"adapter.initial={on}")
    kept = prepare(straight, plugins(), Console(quiet=True)).trainable.adapter
    deltas = dict(kept.deltas())
    tensors = safetensors.torch.load_file(on)
    up, down = (tensors[f"lora_unet_mid_block_resnets_0_conv1.lora_{leaf}.weight"] for leaf in ("up", "down"))
    alpha = float(tensors["lora_unet_mid_block_resnets_0_conv1.alpha"])
    product = (up.flatten(1) @ down.flatten(1) * alpha / 2).reshape(deltas["mid_block.resnets.0.conv1"].shape)
    torch.testing.assert_close(deltas["mid_block.resnets.0.conv1"], product)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["adapter.blocks=mid=2"], "layers differ"),
        (["adapter.blocks=mid=3, te=3"], "rank 2 at mid_block"),
        (["adapter.initial=no/such.safetensors"], "no such file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, sets: list[str], named: str
) -> None:
    common = "adapter.blocks=mid=2, te=3", "training.steps=1"
    first = run(short_config(tiny_pipeline, two_images, tmp_path / "first", *common))
    with pytest.raises(BwlabError, match=named):
        run(short_config(tiny_pipeline, two_images, tmp_path / "on", *common, f"adapter.initial={first}", *sets))
    assert not (tmp_path / "on").exists()


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train with and without compilation and compare; inductor, as in the next test, would take minutes for a UNet."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    sets = "training.steps=2", "adapter.blocks=mid=2, out3=2"
    plain = run(short_config(tiny_pipeline, two_images, tmp_path / "plain", *sets))
    other = run(short_config(tiny_pipeline, two_images, tmp_path / "compiled", *sets, "training.compile=true"))
    expected, actual = safetensors.torch.load_file(plain), safetensors.torch.load_file(other)
    assert expected.keys() == actual.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(tensor, actual[key], rtol=0, atol=2e-5)
    assert any(bool(tensor.any()) for key, tensor in actual.items() if key.endswith("lora_up.weight"))


def test_hooks_are_compiled_with_the_model() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.SiLU(), nn.Conv2d(7, 3, 1)).requires_grad_(False)
    convolution = model[0]
    assert isinstance(convolution, nn.Conv2d)
    layer = LowRankLayer.create(convolution, 2, 2.0, generator)
    nn.init.normal_(layer.up, generator=generator)
    image = torch.randn(2, 5, 11, 13, generator=generator)
    plain = model(image)
    outputs, gradients = [], []
    handles = hook_layers({"conv": [ScaledLayer(layer, 1.0)]}, {"conv": convolution})
    # Inductor compiles once more for each kind of vector instructions, to find out which there are.
    with inductor.patch({"cpp.simdlen": 1, "compile_threads": 1}):
        for run_model in (model, compiled.compiled_denoiser(model)):
            outputs.append(run_model(image))
            outputs[-1].square().sum().backward()
            assert layer.down.grad is not None
            gradients.append(layer.down.grad.clone())
            layer.zero_grad()
    for handle in handles:
        handle.remove()
    assert not torch.allclose(outputs[0], plain)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_backend_that_fails_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    with pytest.raises(BwlabError, match=r"training\.compile = true: .*\n?.*no compiler here"):
        compiled.compiled_denoiser(nn.Linear(2, 3))(torch.ones(1, 2))


class InfiniteSlope:
    """A plugin whose loss is 0 and has no slope there."""

    @bwlab.hookimpl
    def bwlab_extra_losses(self, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"steep": (prediction * 0).abs().sum().sqrt()}


def test_a_gradient_that_is_nan_stops_the_run_before_the_weights_change(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=2", "adapter.blocks=mid=2")
    with pytest.raises(BwlabError, match=r"training step 1: the gradient's norm is nan; no checkpoint yet"):
        run(config, InfiniteSlope())


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BwlabError, match="--device gpu"):
        new_accelerator("fp32", "gpu")
    assert new_accelerator("fp32", "cpu").device.type == "cpu"


class Kills:
    """A plugin that kills the process after the third step."""

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def train_and_kill(sets: list[str]) -> None:
    torch.set_num_threads(1)
    train(read_config(sets=sets), build_manager([Kills()]), Console(quiet=True), ExistingRun.REFUSE)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit(tiny_pipeline: Path, two_words: Path, tmp_path: Path) -> None:
    sets = [
        *("training.steps=5", "checkpoint.every=2", "preview.enabled=false", "training.batch_size=2"),
        *("training.optimizer=prodigy", "training.schedule=cosine", "training.ema=0.9", "training.accumulation=2"),
        *("adapter.blocks=mid=2, te=2", "tokens.words=<fox>", f"base={tiny_pipeline}", f"data.folder={two_words}"),
    ]
    killed = PROCESSES.Process(target=train_and_kill, args=([*sets, f"out={tmp_path / 'killed'}"],))
    killed.start()
    killed.join(240)
    assert killed.exitcode == -signal.SIGKILL
    assert ".lock" in files_in(tmp_path / "killed")
    straight = run(short_config(tiny_pipeline, two_words, tmp_path / "straight", *sets))
    resumed = run(short_config(tiny_pipeline, two_words, tmp_path / "killed", *sets), existing=ExistingRun.RESUME)
    assert same_tensors(straight, resumed)
    for name in ("<fox>.safetensors", "checkpoints/step-000005.state.safetensors"):
        assert same_tensors(tmp_path / "straight" / name, tmp_path / "killed" / name)
    assert ".lock" not in files_in(tmp_path / "killed")


def test_a_base_is_left_as_it_was(tiny_pipeline: Path, two_words: Path, tmp_path: Path) -> None:
    sets = "adapter.blocks=all=1, te=1", "tokens.words=<fox>"
    config = short_config(tiny_pipeline, two_words, tmp_path / "out", *sets)
    setup = prepare(config, plugins(), Console(quiet=True))
    trainer = Trainer(config, setup, plugins())
    with setup.trainable.attached(setup.pipe):
        trainer.train_step(RECORD)
    fresh = load_base(tiny_pipeline)
    for name in ("unet", "text_encoder"):
        used, new = getattr(setup.pipe, name), getattr(fresh, name)
        assert used.state_dict().keys() == new.state_dict().keys()
        assert all(torch.equal(tensor, new.state_dict()[key]) for key, tensor in used.state_dict().items())
        assert not any(module._forward_hooks for module in used.modules())
    assert setup.pipe.tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
