"""Whole runs on the tiny pipeline: what they write, train, log and tell."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

import bwlab
from bwlab.dataset.order import generator_for
from bwlab.errors import BwlabError
from bwlab.plugins.events import CheckpointRecord, FinishRecord, RunRecord, StepRecord
from bwlab.training.objective import noisy_batch, prediction_loss
from bwlab.training.prepare import prepare
from bwlab.training.settings import read_config
from bwlab.training.trainer import Trainer
from tests.training.runs import files_in, plugins, run, short_config


def log_of(out: Path, event: str) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_a_run_writes_its_folder(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=5", "preview.enabled=true", "preview.every=2", "preview.steps=2", "checkpoint.every=2"
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)
    path = run(config)
    assert path == tmp_path / "out" / "adapter.safetensors"
    assert files_in(tmp_path / "out") == [
        "adapter.safetensors",
        "checkpoints/step-000004.safetensors",
        "checkpoints/step-000004.state.safetensors",
        "checkpoints/step-000005.safetensors",
        "checkpoints/step-000005.state.safetensors",
        "config.toml",
        "log.jsonl",
        *(f"previews/step-{step:06}-{index}.png" for step in (2, 4, 5) for index in (0, 1)),
    ]
    assert read_config(tmp_path / "out" / "config.toml") == config
    assert [line["step"] for line in log_of(tmp_path / "out", "step")] == [1, 2, 3, 4, 5]
    with Image.open(tmp_path / "out" / "previews" / "step-000005-0.png") as preview:
        assert preview.size == (32, 32)


def test_the_metadata_can_repeat_the_run(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=2", "adapter.blocks=upper=3")
    with safe_open(run(config), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["bwlab.version"] == bwlab.__version__
    assert json.loads(metadata["bwlab.ranks"]) == {"in0": [3], "out3": [3]}
    assert len(metadata["bwlab.base_hash"]) == len(metadata["bwlab.dataset_hash"]) == 64
    assert (metadata["ss_steps"], metadata["ss_num_train_images"]) == ("2", "2")
    again = tmp_path / "again.toml"
    again.write_text(metadata["bwlab.config"])
    sets = f"base={tiny_pipeline}", f"data.folder={two_images}", f"out={config.out}"
    assert read_config(again, sets=sets) == config
    # Files are passed on: what folders are called above the run's is nobody's business.
    assert [key for key, value in metadata.items() if str(tmp_path.parent) in value] == []
    assert tomllib.loads(metadata["bwlab.config"])["out"] == "out"
    assert tomllib.loads(metadata["bwlab.config"])["adapter"]["blocks"] == "upper=3"


@pytest.mark.parametrize("kind", ["lora", "locon"])
def test_upper_only_training_writes_upper_keys_only(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path, kind: str
) -> None:
    sets = "training.steps=2", "adapter.blocks=upper=4", f"adapter.type={kind}"
    tensors = safetensors.torch.load_file(run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)))
    starts = {"_".join(key.split("_")[2:5]) for key in tensors}
    assert starts == {"down_blocks_0", "up_blocks_3"}
    ups = [tensor for key, tensor in tensors.items() if key.endswith("lora_up.weight")]
    assert all(bool(up.any()) for up in ups), "every layer has learned"


def test_blocks_outside_the_spec_are_not_in_the_graph(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "adapter.blocks=out3=4")
    setup = prepare(config, plugins(), Console(quiet=True))
    before = {name: tensor.clone() for name, tensor in setup.pipe.unet.state_dict().items()}
    needs_gradient: dict[str, bool] = {}
    for path in ("down_blocks.0", "mid_block", "up_blocks.2", "up_blocks.3"):
        setup.pipe.unet.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: needs_gradient.update(
                {path: (output[0] if isinstance(output, tuple) else output).requires_grad}
            )
        )
    trainer = Trainer(config, setup, plugins())
    record = RunRecord("", "", "", "", "", {}, 1, 0, 1, 1, 0, "")
    with setup.trainable.attached(setup.pipe):
        trainer.train_step(record)
    assert needs_gradient == {"down_blocks.0": False, "mid_block": False, "up_blocks.2": False, "up_blocks.3": True}
    assert all(parameter.grad is None for parameter in setup.pipe.unet.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in setup.pipe.unet.state_dict().items())
    assert {".".join(path.split(".")[:2]) for path in setup.trainable.adapter.layers} == {"up_blocks.3"}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_falls_on_two_images(tiny_pipeline: Path, two_images: Path, tmp_path: Path, prediction: str) -> None:
    """Judged on noise and timesteps fixed before and after, so that chance cannot pass it."""
    sets = "training.steps=12", "adapter.blocks=all=4", "training.lr=2e-2", "training.batch_size=4"
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)
    setup = prepare(config, plugins(), Console(quiet=True))
    setup.process.schedule.register_to_config(prediction_type=prediction)  # type: ignore[attr-defined]
    trainer = Trainer(config, setup, plugins())
    record = RunRecord("", "", "", "", "", {}, 12, 0, 4, 1, 0, "")
    batch = noisy_batch(setup.data.sample(0, 16, 1), setup.process, generator_for(1, "judge"))
    context = setup.texts.batch(batch.captions, torch.device("cpu")).context

    def judged() -> float:
        with torch.no_grad():
            return float(prediction_loss(setup.pipe.unet(batch.noisy, batch.timesteps, context).sample, batch))

    with setup.trainable.attached(setup.pipe):
        before = judged()
        for _ in range(12):
            trainer.train_step(record)
        after = judged()
    assert after < 0.8 * before


def test_the_same_seed_gives_the_same_file_and_another_does_not(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    files = []
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        sets = "training.steps=2", f"training.seed={seed}"
        files.append(safetensors.torch.load_file(run(short_config(tiny_pipeline, two_images, tmp_path / out, *sets))))
    one, same, other = files
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_bfloat16_trains_finite_float32_weights(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=3", "training.precision=bf16"
    tensors = safetensors.torch.load_file(run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_half_precision_on_a_cpu_is_refused(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU computes in fp16")
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.precision=fp16")
    with pytest.raises(BwlabError, match="Choose bf16 or fp32"):
        run(config)


class Listener:
    """A plugin that notes all it hears and adds a loss that pulls the prediction up."""

    def __init__(self) -> None:
        self.started: list[RunRecord] = []
        self.steps: list[StepRecord] = []
        self.checkpoints: list[CheckpointRecord] = []
        self.finished: list[FinishRecord] = []
        self.shapes: set[tuple[int, ...]] = set()

    @bwlab.hookimpl
    def bwlab_run_started(self, run: RunRecord) -> None:
        self.started.append(run)

    @bwlab.hookimpl
    def bwlab_step_finished(self, record: StepRecord) -> None:
        self.steps.append(record)

    @bwlab.hookimpl
    def bwlab_checkpoint_saved(self, record: CheckpointRecord) -> None:
        self.checkpoints.append(record)

    @bwlab.hookimpl
    def bwlab_run_finished(self, record: FinishRecord) -> None:
        self.finished.append(record)

    @bwlab.hookimpl
    def bwlab_extra_losses(self, batch: dict[str, torch.Tensor], prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        self.shapes = {tuple(prediction.shape), tuple(batch["latents"].shape), tuple(batch["noise"].shape)}
        return {"brightness": 7 - prediction.mean()}


def test_hooks_are_called_and_losses_added(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    listener = Listener()
    out = tmp_path / "out"
    sets = "training.steps=3", "checkpoint.every=2", "adapter.blocks=upper=4, mid=2"
    path = run(short_config(tiny_pipeline, two_images, out, *sets), listener)
    (started,) = listener.started
    assert started.block_ranks == {"in0": 4, "mid": 2, "out3": 4}
    assert (started.steps, started.first_step, started.adapter, started.out) == (3, 0, "locon", str(out))
    adapted = safetensors.torch.load_file(path)
    assert started.parameters == sum(t.numel() for key, t in adapted.items() if not key.endswith("alpha"))
    assert [record.step for record in listener.steps] == [1, 2, 3]
    assert [record.step for record in listener.checkpoints] == [2, 3]
    assert all(Path(record.adapter).is_file() and Path(record.path).is_file() for record in listener.checkpoints)
    (finished,) = listener.finished
    assert (finished.step, finished.adapter) == (3, str(path))
    assert finished.loss == pytest.approx(np.mean([record.loss for record in listener.steps]))
    assert listener.shapes == {(2, 4, 8, 8)}
    logged = log_of(out, "step")
    for record, line in zip(listener.steps, logged, strict=True):
        assert 6 < record.extra["brightness"] < 8
        assert record.loss > record.extra["brightness"]
        assert line["extra.brightness"] == record.extra["brightness"]


class Second:
    """A plugin whose loss has a name that `Listener` uses too."""

    @bwlab.hookimpl
    def bwlab_extra_losses(self, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"brightness": prediction.mean()}


def test_two_losses_of_one_name_are_refused(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    config = short_config(tiny_pipeline, two_images, tmp_path / "out", "training.steps=1")
    with pytest.raises(BwlabError, match="two plugins give it"):
        run(config, Listener(), Second())
