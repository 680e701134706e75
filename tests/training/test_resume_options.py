"""Interrupted runs equal uninterrupted ones, byte for byte, whatever is switched on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.training.run_folder import ExistingRun
from tests.training.runs import files_in, run, short_config
from tests.training.test_resume import KillAt, Killed

OPTIONS = {
    "adamw, warm-up and cosine, accumulation": (
        "training.schedule=cosine_restarts",
        "training.warmup=1",
        "training.cycles=2",
        "training.accumulation=2",
        "training.min_snr_gamma=5",
        "training.noise_offset=0.1",
        "training.block_lr=upper=1e-3, mid=0",
        "data.shuffle_caption=true",
        "data.caption_dropout=0.3",
        "data.flip=true",
    ),
    "adafactor, EMA": ("training.optimizer=adafactor", "training.ema=0.9", "adapter.type=lora"),
    "prodigy, text encoder": ("training.optimizer=prodigy", "adapter.blocks=mid=2, te=2", "training.schedule=linear"),
    "prodigy, linear warm-up": ("training.optimizer=prodigy", "training.schedule=linear", "training.warmup=2"),
    "words and EMA": ("tokens.words=<fox>", "tokens.vectors=2", "training.ema=0.99"),
    "words alone, adafactor": ("tokens.words=<fox>", "tokens.alone=true", "training.optimizer=adafactor"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_killed_run_ends_with_the_same_files(
    tiny_pipeline: Path,
    two_words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    sets = "training.steps=4", "checkpoint.every=2", *options
    for name, stop in (("straight", None), ("killed", 3)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)  # the settings, which the files hold, name the same folder
        config = short_config(tiny_pipeline, two_words, Path("out"), *sets)
        if stop is not None:
            with pytest.raises(Killed):
                run(config, KillAt(stop))
            run(config, existing=ExistingRun.RESUME)
        else:
            run(config)
    names = [name for name in files_in(tmp_path / "straight") if name != "out/log.jsonl"]
    assert names == [name for name in files_in(tmp_path / "killed") if name != "out/log.jsonl"]
    for name in names:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("straight", "killed"))
        assert one == other, name


def test_settings_that_change_the_result_must_last(tiny_pipeline: Path, two_words: Path, tmp_path: Path) -> None:
    run(short_config(tiny_pipeline, two_words, tmp_path / "out", "training.steps=2"))
    for change in (
        "training.optimizer=adafactor",
        "training.ema=0.9",
        "training.min_snr_gamma=5",
        "tokens.words=<fox>",
    ):
        longer = short_config(tiny_pipeline, two_words, tmp_path / "out", "training.steps=4", change)
        with pytest.raises(BwlabError, match=rf"--resume: {change.partition('=')[0]} is "):
            run(longer, existing=ExistingRun.RESUME)


def test_a_schedule_that_depends_on_the_number_of_steps_must_last(
    tiny_pipeline: Path, two_words: Path, tmp_path: Path
) -> None:
    config, longer = (
        short_config(tiny_pipeline, two_words, tmp_path / "out", "training.schedule=linear", f"training.steps={steps}")
        for steps in (2, 9)
    )
    run(config)
    with pytest.raises(BwlabError, match=r"--resume: training\.steps is "):
        run(longer, existing=ExistingRun.RESUME)
