"""Whole runs on data of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors
from PIL import Image

from bwlab.errors import BwlabError
from bwlab.training.run_folder import ExistingRun
from tests.dataset.small_data import WriteData
from tests.training.runs import run, same_tensors, short_config


@pytest.fixture
def folder(write_data: WriteData) -> Path:
    """Return a folder of images of three shapes."""
    folder = write_data({"a.png": "ink, fox, sits", "3_owl/b.png": "ink, owl", "c.png": "ink, cat, red"})
    for name, size in (("3_owl/b.png", (90, 40)), ("c.png", (40, 90))):
        with Image.open(folder / name) as image:
            image.resize(size).save(folder / name)
    return folder


def everything(tmp_path: Path, *more: str) -> tuple[str, ...]:
    return (
        "data.buckets=true",
        "data.bucket_step=8",
        "data.flip=true",
        "data.random_crop=true",
        "data.shuffle_caption=true",
        "data.keep_tokens=1",
        "data.caption_dropout=0.1",
        "data.tag_dropout=0.1",
        f"regularisation.folder={tmp_path / 'class'}",
        "regularisation.generate=2",
        "regularisation.prompt=an animal",
        "regularisation.steps=1",
        "regularisation.weight=0.5",
        *more,
    )


def test_a_stopped_run_on_everything_goes_on_bit_for_bit(tiny_pipeline: Path, folder: Path, tmp_path: Path) -> None:
    def config(out: str, steps: int) -> Path:
        sets = everything(tmp_path, f"training.steps={steps}", "adapter.blocks=mid=2")
        existing = ExistingRun.RESUME if (tmp_path / out).exists() else ExistingRun.REFUSE
        return run(short_config(tiny_pipeline, folder, tmp_path / out, *sets), existing=existing)

    whole = config("whole", 6)
    config("parts", 3)
    assert same_tensors(config("parts", 6), whole)
    with safetensors.safe_open(whole, "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("5", "5")
    assert metadata["ss_num_batches_per_epoch"] == "5"
    assert json.loads(metadata["ss_tag_frequency"])["3_owl"] == {"ink": 1, "owl": 1}
    assert "animal" not in metadata["ss_tag_frequency"]


def test_a_run_on_a_dataset_file(tiny_pipeline: Path, folder: Path, tmp_path: Path) -> None:
    text = f"[[datasets]]\nflip_aug = true\n[[datasets.subsets]]\nimage_dir = '{folder}'\nnum_repeats = 2\n"
    (tmp_path / "set.toml").write_text(text)
    sets = f"data.dataset={tmp_path / 'set.toml'}", "data.folder=", "training.steps=1", "adapter.blocks=mid=2"
    path = run(short_config(tiny_pipeline, folder, tmp_path / "out", *sets))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["ss_num_train_images"] == "4"


def test_other_data_are_no_resumption(tiny_pipeline: Path, folder: Path, tmp_path: Path) -> None:
    sets = "training.steps=1", "adapter.blocks=mid=2"
    run(short_config(tiny_pipeline, folder, tmp_path / "out", *sets))
    shutil.rmtree(folder / "3_owl")
    with pytest.raises(BwlabError, match="the data"):
        run(short_config(tiny_pipeline, folder, tmp_path / "out", *sets), existing=ExistingRun.RESUME)


def test_missing_settings_are_an_error_before_a_base_is_loaded(folder: Path, tmp_path: Path) -> None:
    config = short_config(tmp_path / "no base", folder, tmp_path / "out", "regularisation.generate=2")
    with pytest.raises(BwlabError, match=r"no regularisation\.folder is given"):
        run(config)
    (tmp_path / "set.toml").write_text("[[datasets]]\nresolutoin = 512\n")
    config = short_config(
        tmp_path / "no base", folder, tmp_path / "out", f"data.dataset={tmp_path / 'set.toml'}", "data.folder="
    )
    with pytest.raises(BwlabError, match="Did you mean resolution"):
        run(config)
