"""Names, keys, metadata and tags from strangers are shown and never act on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bwlab.cli.app import main
from bwlab.text import CONTROLS
from tests.analysis.kohya import adapter_tensors

POISON = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2028bwlab: error: forged"
FILE_POISON = POISON.replace("\u2028", "\nbwlab: error: forged\n").replace("/", "")

Printed = Callable[..., tuple[str, str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Return a function that runs a command and returns what it prints, which has no control character."""

    def act(*arguments: object) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert CONTROLS.findall(shown.out + shown.err) == []
        assert "Traceback" not in shown.err
        return shown.out, shown.err

    return act


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return an adapter file with control characters in its name, its metadata and an unknown key."""
    folder = tmp_path / FILE_POISON
    folder.mkdir()
    metadata = {
        "ss_output_name": POISON,
        "ss_sd_model_name": POISON,
        "ss_network_args": json.dumps({POISON: POISON}),
        "ss_tag_frequency": json.dumps({POISON: {POISON: 3}}),
        "modelspec.title": POISON,
        "bwlab.adapter_type": POISON,
        POISON: POISON,
    }
    tensors = {**adapter_tensors(0), f"{POISON}.weight": np.ones(3, np.float32)}
    save_file(tensors, folder / f"{FILE_POISON}.safetensors", metadata)
    return folder / f"{FILE_POISON}.safetensors"


@pytest.mark.parametrize(
    "command",
    [
        "inspect FILE",
        "analyze norms FILE",
        "analyze conflict FILE FILE",
        "analyze conflict FILE FILE --details",
        "convert FILE OUT",
        "convert FILE OUT --drop-unknown",
        "merge FILE FILE --out OUT",
        "analyze norms OUT",
        "generate --base emoji --prompt fox --adapter FILE --out OUT",
    ],
)
def test_an_adapter(command: str, hostile: Path, tmp_path: Path, printed: Printed) -> None:
    names = {"FILE": hostile, "OUT": tmp_path / f"{FILE_POISON}out.safetensors"}
    out, err = printed(*(names.get(word, word) for word in command.split()))
    assert all(line.startswith("bwlab: ") for line in err.splitlines())
    assert [line for line in (out + err).splitlines() if line.startswith("bwlab: error: forged")] == []
    assert r"\x1b" in out + err


@pytest.mark.parametrize("command", ["data check DATA", "train --data DATA --base emoji --out OUT --steps 1 --set KEY"])
def test_data(command: str, tmp_path: Path, printed: Printed) -> None:
    data = tmp_path / FILE_POISON
    data.mkdir()
    for name in ("x", POISON.replace("/", "")):
        Image.new("RGB", (64, 64)).save(data / f"{name}.png")
        (data / f"{name}.txt").write_text(f"{POISON}, tag")
    names = {"DATA": data, "OUT": tmp_path / f"{FILE_POISON}out", "KEY": f"{POISON}=1"}
    out, err = printed(*(names.get(word, word) for word in command.split()))
    assert [line for line in (out + err).splitlines() if line.startswith("bwlab: error: forged")] == []
    assert r"\x1b" in out + err
