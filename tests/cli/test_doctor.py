"""`bwlab doctor`: what it finds, and its exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bwlab
from bwlab.cli.app import main
from bwlab.cli.doctor import Finding, examine
from bwlab.plugins.manager import build_manager


def doctor(*arguments: str) -> int:
    """Return the exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BWLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_installation_that_works(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    parts = [line.split()[1] for line in lines]
    assert parts[:2] == ["bwlab:", "Python:"]
    assert {"torch:", "device:", "cache:", "plugins:", "base", "self-test:"} <= set(parts)
    assert lines[-1].startswith("ok       self-test: trained, saved, loaded and generated in ")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"], "it leaves nothing"


def test_a_cache_that_cannot_be_written_is_broken(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_cache.write_text("a file")
    assert doctor("--quick", "--json") == 1
    found = {entry["part"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["cache"]["state"] == "broken"
    assert "BWLAB_CACHE" in found["cache"]["fix"]
    assert found["torch"]["state"] == "ok"
    assert "self-test" not in found


def test_a_torch_that_cannot_be_imported_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor("--quick", "--json") == 1
    found = {entry["part"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["device"]["state"] == "broken"
    assert found["device"]["found"].startswith("ModuleNotFoundError: import of torch halted")
    assert {"cache", "plugins"} <= found.keys(), "the rest is examined too"


def test_a_gpu_that_only_emulates_bfloat16_trains_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Tesla T4", total_memory=16_000_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    found = [one for one in examine(build_manager(installed=False), self_test=False) if one.part == "device"]
    assert found == [Finding("device", "Tesla T4, 16 GB; trains in float16")]


class Broken:
    """A plugin that raises."""

    @bwlab.hookimpl
    def bwlab_register_adapters(self) -> list[object]:
        raise ValueError("no such thing")


def test_a_plugin_that_fails_is_named() -> None:
    broken = [one for one in examine(build_manager([Broken()]), self_test=False) if one.state == "broken"]
    assert [one.found for one in broken] == ["of (given by the caller): ValueError: no such thing"]
    assert broken[0].part.startswith("plugin ")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bwlab.cli.app.versions", lambda: iter(["bwlab 0.1.0", "torch is not installed"]))
    found = list(examine(build_manager(installed=False), self_test=False))
    assert found[:2] == [
        Finding("bwlab", "0.1.0"),
        Finding("torch", "is not installed", "broken", "Install it: pip install torch"),
    ]


def test_a_self_test_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr("bwlab.training.train", fails)
    last = list(examine(build_manager()))[-1]
    assert (last.part, last.state, last.found) == ("self-test", "broken", "RuntimeError: out of order")
