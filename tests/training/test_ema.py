"""The moving average, and runs that save it."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from bwlab.training.state import AVERAGE, TRAINABLE, load_state
from bwlab.training.trainer import MovingAverage
from tests.training.runs import run, same_bytes, short_config


def test_the_average_follows_its_formula() -> None:
    values = torch.randn(50, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tensor = values[0].clone()
    average = MovingAverage([tensor], 0.7)
    expected = values[0].clone()
    for step, value in enumerate(values[1:], 1):
        tensor.copy_(value)
        average.update(step)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.values[0], expected)


def test_in_place_gives_back_every_bit() -> None:
    tensor = torch.tensor([-0.0, 1e-40, 3.0])
    average = MovingAverage([tensor], 0.5)
    tensor.add_(1.0)
    before = tensor.clone()
    with average.in_place():
        assert torch.equal(tensor, torch.tensor([-0.0, 1e-40, 3.0]))
    assert same_bytes(tensor, before)


def test_a_run_saves_the_average_and_keeps_both(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=4", "adapter.blocks=mid=2"
    plain = run(short_config(tiny_pipeline, two_images, tmp_path / "plain", *sets))
    averaged = run(short_config(tiny_pipeline, two_images, tmp_path / "averaged", *sets, "training.ema=0.9"))
    saved = load_state(tmp_path / "averaged" / "checkpoints" / "step-000004.state.safetensors")
    without = load_state(tmp_path / "plain" / "checkpoints" / "step-000004.state.safetensors")
    learned, averages = saved.part(TRAINABLE), saved.part(AVERAGE)
    assert all(same_bytes(tensor, learned[key]) for key, tensor in without.part(TRAINABLE).items())
    assert any(not torch.equal(averages[str(i)], tensor) for i, tensor in enumerate(learned.values()))
    file, last = safetensors.torch.load_file(averaged), safetensors.torch.load_file(plain)
    ups = [key for key in file if key.endswith("lora_up.weight")]
    norms = [float(tensors[key].norm()) for tensors in (file, last) for key in ups[:1]]
    assert 0 < norms[0] < norms[1], "up starts at 0, so its average lies behind it"
    shapes = [tuple(tensor.shape) for tensor in averages.values()]
    assert sorted(shapes) == sorted(tuple(tensor.shape) for tensor in learned.values())
