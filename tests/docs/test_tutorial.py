"""The tutorial: its commands run in order on the embedded base, and what it shows is what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bwlab.cli.app import main
from tests.docs.commands import BLOCK, commands

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAM = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
# What is written in place of numbers of the page, so that all of it takes seconds: each is found in some command.
FEWER = {
    "--steps 80 --batch-size 8": "--steps 2 --batch-size 2 --set preview.enabled=false",
    "all=16 --steps 120 --batch-size 8": "all=16 --steps 2 --batch-size 2 --set preview.enabled=false",
    "--latents 8 --random 2": "--latents 1 --random 0 --samples 1 --steps 2 --timesteps 401",
    "--cfg 3 --count 4": "--cfg 3 --count 1 --steps 2",
    "--cfg 3 --out images/sheet": "--cfg 3 --steps 2 --out images/sheet",
    "0, 0.5, 1, 1.5": "1",
}
# Commands whose output does not depend on the trained weights: the page's text after them is a part of what is printed.
STABLE = ("bwlab tag", "bwlab data", "bwlab blocks", "bwlab train --data data/ink --out runs/ink-upper")


def shortened(code: str) -> str:
    """Return code of the page with fewer steps and images."""
    for long, short in FEWER.items():
        code = code.replace(long, short)
    return code


def shown() -> dict[str, list[str]]:
    """Return the lines of text that the page shows after a command, by the command; spaces count once."""
    found = re.findall(r"^```sh\n(bwlab [^`]*)\n```\n\n```text\n([^`]*)^```$", TEXT, re.MULTILINE)
    return {code: [" ".join(line.split()) for line in text.splitlines()] for code, text in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the program of the page fills."""
    made = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for source in PROGRAM:
            exec(compile(source, str(PAGE), "exec"), {})
    return made


def test_fewer_numbers_are_those_of_the_page() -> None:
    assert [long for long in FEWER if long not in TEXT] == []


@pytest.mark.slow
def test_the_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("BWLAB_CACHE", str(folder / "cache"))
    printed = {}
    for words in commands(shortened(TEXT)):
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert ended.value.code in (0, None), shlex.join(words)
        printed[shlex.join(words)] = [" ".join(line.split()) for line in "".join(capfd.readouterr()).splitlines()]
    stable = {
        shlex.join(commands(f"```sh\n{code}\n```")[0]): lines
        for code, lines in shown().items()
        if code.startswith(STABLE)
    }
    assert len(stable) == 4
    for command, lines in stable.items():
        assert [line for line in lines if line not in printed[command]] == [], command
    written = (
        "runs/fox/adapter.safetensors",
        "report/report.html",
        "images/sheet/xy-0000.png",
        "fox-ink.safetensors",
    )
    assert [name for name in written if not (folder / name).is_file()] == []
    assert sorted(path.parent.name for path in folder.glob("images/*/grid-0000.png")) == ["advised", "plain"]


def test_every_block_of_code_is_run() -> None:
    assert len(PROGRAM) == 1
    assert len(commands(TEXT)) > 12
    assert {words[0] for words in commands(TEXT)} == {"bwlab"}
    assert len(BLOCK.findall(TEXT)) == TEXT.count("```sh")
