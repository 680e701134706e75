"""Training on another layer of the text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from bwlab.errors import BwlabError
from bwlab.training.prepare import prepare
from bwlab.training.run_folder import ExistingRun
from tests.training.runs import plugins, run, same_tensors, short_config
from tests.training.test_train_command import arguments, call, one_line

SKIP = "training.clip_skip=2"


def context(base: Path, data: Path, out: Path, *sets: str) -> torch.Tensor:
    """Return the embedding that a run trains on."""
    setup = prepare(short_config(base, data, out, *sets), plugins(), Console(quiet=True))
    with torch.no_grad(), setup.trainable.attached(setup.pipe):
        return setup.texts.batch(["ink, fox"], torch.device("cpu")).context.detach()


def test_cached_and_new_embeddings_are_of_the_layer(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    """The cache is shared, so each of the runs would get the other's entry if its key lacked the layer."""
    one = context(tiny_pipeline, two_images, tmp_path)
    two = context(tiny_pipeline, two_images, tmp_path, SKIP)
    assert not torch.allclose(one, two)
    assert torch.equal(context(tiny_pipeline, two_images, tmp_path), one)
    # With an untrained text encoder, embeddings of the moment equal those of the cache.
    torch.testing.assert_close(context(tiny_pipeline, two_images, tmp_path, SKIP, "adapter.blocks=te=1, mid=1"), two)


def test_the_layer_is_trained_and_recorded(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=2", "adapter.blocks=mid=2"
    plain = run(short_config(tiny_pipeline, two_images, tmp_path / "plain", *sets))
    other = tmp_path / "other"
    assert call(arguments(tiny_pipeline, two_images, other, "--set", SKIP, "--blocks", "mid=2", "--steps", "2")) == 0
    assert not same_tensors(plain, other / "adapter.safetensors")
    for path, skip in ((plain, "1"), (other / "adapter.safetensors", "2")):
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["ss_clip_skip"] == skip


def test_previews_read_the_layer(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    previews = "preview.enabled=true", "preview.steps=1", "training.steps=1", "training.lr=1e-9"
    for name, more in (("plain", ()), ("other", (SKIP,))):
        run(short_config(tiny_pipeline, two_images, tmp_path / name, "adapter.blocks=mid=1", *previews, *more))
    images = [(tmp_path / name / "previews" / "step-000001-0.png").read_bytes() for name in ("plain", "other")]
    assert images[0] != images[1]


def test_a_skipped_layer_is_not_trained(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=2", "adapter.blocks=te=2", SKIP, "training.weight_decay=0"
    with safe_open(run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets)), framework="pt") as file:
        changed = dict.fromkeys(("layers_0", "layers_1"), False)
        for key in file.keys():  # noqa: SIM118 - not a mapping
            if key.endswith("lora_up.weight"):
                layer = next(name for name in changed if name in key)
                changed[layer] |= bool(file.get_tensor(key).any())
    assert changed == {"layers_0": True, "layers_1": False}


def test_a_layer_that_is_not_there(
    tiny_pipeline: Path, tiny_xl_pipeline: Path, two_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(arguments(tiny_pipeline, two_images, out, "--set", "training.clip_skip=3")) == 2
    assert "clip skip 3: the text encoder has 2 layers. Give 1 to 2" in one_line(capsys)
    assert call(arguments(tiny_xl_pipeline, two_images, out, "--set", SKIP)) == 2
    assert "SDXL always reads the last but one layer" in one_line(capsys)
    assert call(arguments(tiny_pipeline, two_images, out, "--set", "training.clip_skip=13")) == 2
    assert "at most 12" in one_line(capsys)
    assert not out.exists()


def test_a_run_is_not_resumed_with_another_layer(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    sets = "training.steps=1", "adapter.blocks=mid=1"
    run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets))
    with pytest.raises(BwlabError, match=r"training\.clip_skip is 2, but was 1"):
        run(short_config(tiny_pipeline, two_images, tmp_path / "out", *sets, SKIP), existing=ExistingRun.RESUME)
