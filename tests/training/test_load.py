"""A longer run: memory, open files and threads stay what they were."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.load import MEMORY_GROWTH, SLOWER, Sample, Watch, config_of, growth, watched

STEADY = [Sample(step, 900.0, 11, 7, 0.02) for step in range(1, 41)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which Linux has")
def test_a_run_of_a_hundred_steps_grows_in_nothing(tiny_pipeline: Path, tmp_path: Path) -> None:
    """With checkpoints and previews, which are made and removed many times; time is for `make load` to measure."""
    watch = Watch(every=5, minutes=30)
    watched(config_of(tmp_path, 120, 5, f"base={tiny_pipeline}", "adapter.blocks=mid=2"), watch)
    assert [sample.step for sample in watch.samples] == list(range(5, 121, 5))
    assert [line for line in growth(watch.samples) if "times as long" not in line] == []


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (replace(STEADY[0], memory=901 + MEMORY_GROWTH), "9.0 MB of memory"),
        (replace(STEADY[0], handles=12), "handles: 1 more"),
        (replace(STEADY[0], threads=9), "threads: 2 more"),
        (replace(STEADY[0], seconds=0.02 * 1.05 * SLOWER), "steps took 1.16 times as long"),
    ],
)
def test_what_grows_is_named(late: Sample, words: str) -> None:
    assert growth(STEADY) == []
    assert growth([*STEADY[:30], *[late] * 10]) == [words]


def test_a_run_is_stopped_in_time(tiny_pipeline: Path, tmp_path: Path) -> None:
    watch = Watch(every=1, minutes=0)
    watched(config_of(tmp_path, 1000, 100, f"base={tiny_pipeline}", "adapter.blocks=mid=2"), watch)
    assert watch.stopped
    assert len(watch.samples) < 10
