"""No package that bwlab uses sends usage data, and nothing asks the network unless it is asked to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bwlab.telemetry import REFUSALS, refuse_telemetry

# A CI system is told apart by these packages, and spared; a test that ran there alone would prove nothing.
SPARED = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "HF_HUB_OFFLINE")

# Runs bwlab's commands, one after another, in a Python in which every look-up of a host and every connection is an
# error that is written down. Sockets of the file system, by which processes of one machine talk, are none.
GUARDED = """
import sys

seen = []

def guard(event, arguments):
    local = event == "socket.connect" and isinstance(arguments[1], (str, bytes))
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto") and not local:
        seen.append(str(arguments[1] if event == "socket.connect" else arguments[0]))
        raise OSError("the network is guarded")

sys.addaudithook(guard)

from bwlab.cli.app import main

for line in sys.stdin.read().splitlines():
    seen.clear()
    code = 0
    try:
        main(line.split("\\t"))
    except SystemExit as end:
        code = end.code or 0
    print("ENDED", line.split("\\t")[0], code, *seen)

from diffusers.utils.hub_utils import http_user_agent

print("AGENT", http_user_agent())
"""


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what refuses telemetry or the network."""
    left_out = {*SPARED, *REFUSALS}
    return {name: value for name, value in os.environ.items() if name not in left_out} | more


def run_python(code: str, text: str = "", **environment: str) -> str:
    """Return the standard output of Python code run in a process of its own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=clean_environment(**environment))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    refuse_telemetry()
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    "before", ["import bwlab; ", "from bwlab_analysis import measures; import bwlab_lora.plugin; "]
)
def test_onnxruntime_makes_no_identifier_of_the_machine(before: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    run_python(before + "import onnxruntime", **folders)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_only_a_name_on_the_hub_asks_the_network_and_says_nothing_of_the_machine(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (64, 64), (90, 100, 150)).save(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "0.txt").write_text("flat, fox, white background")
    trained, out = str(tmp_path / "run" / "adapter.safetensors"), str(tmp_path / "images")
    base = ["--base", str(tiny_pipeline)]
    train = ["train", *base, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--blocks", "out3=2"]
    generate = ["generate", "--prompt", "flat, fox", "--steps", "1", "--out", out]
    lines = [
        [*train, "--steps", "1", "--batch-size", "1", "--set", "preview.enabled=false"],
        [*generate, *base, "--adapter", trained],
        ["inspect", trained],
        ["convert", trained, str(tmp_path / "converted.safetensors"), "--to", "diffusers"],
        ["analyze", "conflict", trained, trained],
        [*generate, "--base", "nobody/nothing"],
    ]
    printed = run_python(GUARDED, "\n".join(map("\t".join, lines)), HOME=str(tmp_path))
    *silent, asking = [line.split()[1:] for line in printed.splitlines() if line.startswith("ENDED ")]
    assert silent == [[line[0], "0"] for line in lines[:-1]]
    assert asking[:2] == ["generate", "2"]
    assert set(asking[2:]) == {"huggingface.co"}
    assert printed.rpartition("AGENT ")[2].rstrip().endswith("telemetry/off")


def test_weights_and_biases_reports_no_errors() -> None:
    pytest.importorskip("wandb")
    ask = "from wandb.env import error_reporting_enabled as enabled; print(enabled())"
    assert run_python(ask).strip() == "True"
    assert run_python(f"import bwlab; {ask}").strip() == "False"
