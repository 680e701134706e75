"""Text encoders leave memory while a run trains, and everything that it writes stays the same."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from bwlab.base.conditioning import UnloadedTextEncoder, unload_text_encoders
from bwlab.base.load import load_base
from bwlab.base.models import text_encoders
from bwlab.plugins.events import RunRecord, StepRecord
from bwlab.training import prepare
from bwlab.training.trainer import Trainer
from tests.families.commands import PROMPT, pixels, run
from tests.families.pipelines import LATE_BLOCKS

BLOCKS = LATE_BLOCKS | {"sdxl": "out0"}


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list that gets how many numbers the text encoders have in each step of training."""
    found: list[int] = []
    step = Trainer.train_step

    def watched(self: Trainer, run: RunRecord) -> StepRecord:
        found.append(
            sum(weight.numel() for encoder in text_encoders(self.setup.pipe) for weight in encoder.parameters())
        )
        return step(self, run)

    monkeypatch.setattr(Trainer, "train_step", watched)
    return found


def trained(
    base: Path, data: Path, out: Path, blocks: str, *options: object
) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
    """Return the tensors of an adapter and the previews of its run."""
    given = "--steps", 2, "--batch-size", 2, "--lr", 0.05, "--set", "preview.steps=2", "--set", "preview.every=1"
    prompts = "--set", f'preview.prompts=["{PROMPT}", "blue, {PROMPT}"]', "--set", "preview.negative=blue"
    run("train", "--base", base, "--data", data, "--out", out, "--blocks", blocks, *given, *prompts, *options)
    images = []
    for file in sorted((out / "previews").glob("*.png")):
        with Image.open(file) as image:
            images.append(pixels(image))
    return safetensors.torch.load_file(out / "adapter.safetensors"), images


@pytest.fixture(params=["sd3", "qwen-image", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of each family that is tried here."""
    name: str = request.param
    return name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_are_gone_while_steps_run_with_the_same_results(
    base: Path,
    family: str,
    precision: str,
    numbers: list[int],
    two_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = f"{BLOCKS[family]}=2", "--precision", precision
    tensors, previews = trained(base, two_images, tmp_path / "gone", *options)
    assert numbers == [0, 0]
    monkeypatch.setattr(prepare, "unload_text_encoders", lambda pipe: None)
    monkeypatch.setattr(prepare, "encoded_previews", lambda config, pipe, prompts: None)
    kept, kept_previews = trained(base, two_images, tmp_path / "kept", *options)
    assert numbers[2:] == [numbers[2]] * 2
    assert numbers[2] > 0
    assert tensors.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[key]) for key, tensor in tensors.items())
    assert len(previews) == len(kept_previews) == 4
    assert all(np.array_equal(one, other) for one, other in zip(previews, kept_previews, strict=True))


@pytest.mark.parametrize("family", ["sd3"])
def test_they_stay_where_they_are_trained_or_captions_vary(
    base: Path, family: str, numbers: list[int], two_images: Path, tmp_path: Path
) -> None:
    trained(base, two_images, tmp_path / "text", f"{BLOCKS[family]}=2, te=2")
    assert min(numbers) > 0
    numbers.clear()
    for file in two_images.glob("*.txt"):
        file.write_text(", ".join(f"tag {number}" for number in range(12)))
    trained(base, two_images, tmp_path / "many", f"{BLOCKS[family]}=2", "--set", "data.shuffle_caption=true")
    assert min(numbers) > 0


@pytest.mark.parametrize("family", ["z-image"])
def test_nothing_holds_what_was_unloaded(base: Path) -> None:
    pipe = load_base(base)
    dtype = pipe.text_encoder.dtype
    encoder = weakref.ref(pipe.text_encoder)
    unload_text_encoders(pipe)
    gc.collect()
    assert encoder() is None
    assert isinstance(pipe.text_encoder, UnloadedTextEncoder)
    assert pipe.text_encoder.dtype == dtype
    with pytest.raises(RuntimeError, match="left memory"):
        pipe.text_encoder()
