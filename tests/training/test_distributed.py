"""Runs of two processes, as a launcher starts them, on the CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

import bwlab
from bwlab.cli.app import exit_on_error, main
from bwlab.errors import BwlabError
from bwlab.plugins.manager import build_manager
from bwlab.terminal import echo
from bwlab.training import ExistingRun, train
from bwlab.training.device import new_accelerator
from bwlab.training.distributed import Processes, leave_processes
from bwlab.training.settings import read_config
from tests.families.pipelines import save_tiny_sd3
from tests.forked import PROCESSES, ending
from tests.training.runs import files_in, run

SECONDS = 240


class Acts:
    """A plugin that, in one process after one step, does what is asked."""

    def __init__(self, rank: str, act: Callable[[], None]) -> None:
        self._rank, self._act, self._calls = rank, act, 0

    @bwlab.hookimpl
    def bwlab_extra_losses(self, prediction: object) -> dict[str, torch.Tensor]:
        """Act, at the second call in the process of the rank."""
        self._calls += 1
        if self._calls == 2 and os.environ["RANK"] == self._rank:
            self._act()
        return {}


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise BwlabError("the plugin", "it is broken", "Mend it")


def train_acting(act: Callable[[], None], settings: list[str]) -> None:
    """Train with a plugin that acts in the second process, and end as the command line does."""

    def call() -> None:
        train(read_config(sets=settings), build_manager([Acts("1", act)]), Console(stderr=True), ExistingRun.REFUSE)

    exit_on_error(call, lambda: False)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def pair(said: Path, work: Callable[..., None], *arguments: object) -> list[tuple[int | None, str]]:
    """Do work in two processes of one run; return the exit code and the messages of each.

    The processes are forked from one that has imported what a training needs. `said` is a folder for the messages.
    """
    port = str(free_port())
    files = [said / f"{rank}.txt" for rank in range(2)]
    processes = [
        PROCESSES.Process(target=as_rank, args=(rank, port, file, work, *arguments)) for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    return [ending(process, file, SECONDS) for process, file in zip(processes, files, strict=True)]


def as_rank(rank: int, port: str, said: Path, work: Callable[..., None], *arguments: object) -> None:
    """Do work in this process as the one of a rank, with its messages in a file."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    sys.stdout = sys.stderr = said.open("w", encoding="utf-8")
    work(*arguments)


def sets(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        f"base={base}",
        f"data.folder={data}",
        f"out={out}",
        "adapter.blocks=mid=2, out3=1, te=2",
        "training.steps=3",
        "training.accumulation=2",
        "training.min_snr_gamma=5",
        "preview.steps=1",
        "training.device=cpu",
        *more,
    ]


def steps_of(out: Path) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch_size(
    tiny_pipeline: Path, two_images: Path, tmp_path: Path
) -> None:
    two = sets(tiny_pipeline, two_images, tmp_path / "two", "training.batch_size=2")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    plain = [
        "--mixed_precision=no",
        "--dynamo_backend=no",
        f"--main_process_port={free_port()}",
        "-m",
        "bwlab",
        "train",
    ]
    said = subprocess.run(
        [sys.executable, *launch, *plain, *(word for setting in two for word in ("--set", setting))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert said.stdout == f"{tmp_path / 'two' / 'adapter.safetensors'}\n", "one process tells of it"
    run(read_config(sets=sets(tiny_pipeline, two_images, tmp_path / "one", "training.batch_size=4")))
    assert_equal_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_two_processes_equal_one_on_a_transformer(two_images: Path, tmp_path: Path) -> None:
    base = save_tiny_sd3(tmp_path / "base")
    given = [f"base={base}", f"data.folder={two_images}", "adapter.blocks=joint0.text=1, joint2-3=2"]
    given += ["training.steps=3", "preview.enabled=false", "training.device=cpu"]
    two = [*given, f"out={tmp_path / 'two'}", "training.batch_size=2"]
    arguments = [word for setting in two for word in ("--set", setting)]
    assert [code for code, _ in pair(tmp_path, main, ["train", *arguments])] == [0, 0]
    run(read_config(sets=[*given, f"out={tmp_path / 'one'}", "training.batch_size=4"]))
    assert_equal_runs(tmp_path / "two", tmp_path / "one")


def assert_equal_runs(two: Path, one: Path) -> None:
    """Assert that two runs of three steps wrote the same files, weights and losses."""
    assert files_in(two) == files_in(one)
    tensors = [safetensors.torch.load_file(folder / "adapter.safetensors") for folder in (two, one)]
    assert tensors[0].keys() == tensors[1].keys()
    for key, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][key], rtol=0, atol=1e-5)
    logs = steps_of(two), steps_of(one)
    assert [line["step"] for line in logs[0]] == [1, 2, 3]
    for key in ("loss", "grad_norm", "lr"):
        assert [line[key] for line in logs[0]] == pytest.approx([line[key] for line in logs[1]], rel=1e-4)


def say_longest_wait() -> None:
    """Print for how many seconds this process waits for the other one."""
    processes = Processes(new_accelerator("fp32", "cpu"))
    group = torch.distributed.group.WORLD
    assert group is not None
    echo(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())
    processes.any(False)  # both are connected before one ends
    leave_processes()


def test_processes_wait_for_what_takes_the_first_one_hours(tmp_path: Path) -> None:
    assert pair(tmp_path, say_longest_wait) == [(0, "86400.0\n")] * 2


def test_an_error_in_one_process_ends_both(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    settings = sets(tiny_pipeline, two_images, tmp_path / "out", "training.batch_size=1")
    (other, failed) = ended = pair(tmp_path, train_acting, fail, settings)
    assert [code for code, _ in ended] == [2, 2]
    assert "the plugin: it is broken" in failed[1]
    assert "another process of the run has failed" in other[1]


def test_ctrl_c_in_one_process_saves_and_ends_both(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    settings = sets(tiny_pipeline, two_images, tmp_path / "out", "training.batch_size=1", "training.accumulation=1")
    ended = pair(tmp_path, train_acting, interrupt, settings)
    assert [code for code, _ in ended] == [130, 130]
    assert "checkpoints/step-000002.state.safetensors" in files_in(tmp_path / "out")
