"""The commands of the how-to pages, the tutorial and the README are commands that bwlab takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bwlab.base.names import base_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.training.settings import read_config
from docs.generate import own_manager
from tests.docs.commands import commands, found, mentioned, parsed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "how-to"
PAGES = [*sorted(FOLDER.glob("*.md")), ROOT / "docs" / "tutorial.md", ROOT / "README.md"]
COMMANDS = [
    (page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8")) if words[0] == "bwlab"
]
MENTIONED = [(page.name, words) for page in PAGES[:-1] for words in mentioned(page.read_text(encoding="utf-8"))]
TRAININGS = [(page, words) for page, words in COMMANDS if words[1] == "train"]
# The architecture of each base that a page names.
BASES = {
    "FLUX.1-dev": "flux",
    "./Lumina-Image-2.0": "lumina2",
    "flux": "flux",
    "sd_xl_base_1.0.safetensors": "sdxl",
    "sdxl": "sdxl",
    "v1-5-pruned-emaonly.safetensors": "sd14",
}


def named(entries: list[tuple[str, list[str]]]) -> list[str]:
    """Return names of cases: the page, and the beginning of the command."""
    return [f"{page}: {shlex.join(words)[:60]}" for page, words in entries]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=named(COMMANDS))
def test_a_command_is_parsed(page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some folders that options name are made when they are parsed
    assert parsed(words) is not None, page


@pytest.mark.parametrize(("page", "words"), MENTIONED, ids=named(MENTIONED))
def test_a_command_in_a_sentence_has_its_options(page: str, words: list[str]) -> None:
    command, rest = found(words)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, page


@pytest.mark.parametrize(("page", "words"), TRAININGS, ids=named(TRAININGS))
def test_settings_and_blocks_of_a_training_are_right(page: str, words: list[str]) -> None:
    values = parsed(words)
    assert read_config(sets=values["settings"] or []), page
    scheme = scheme_for(base_unet(BASES.get(values["base"], values["base"])).config, own_manager().block_schemes())
    assert parse_spec(values["blocks"], scheme, kind="rank").values, page


def test_there_are_commands_on_every_page() -> None:
    assert {page for page, _ in COMMANDS} == {page.name for page in PAGES} - {"index.md"}


def test_every_page_opens_with_what_the_reader_can_do() -> None:
    pages = [page for page in FOLDER.glob("*.md") if page.name != "index.md"]
    assert len(pages) == 10
    opens = re.compile(r"# .+\n\n(With|On) (these|this) ")
    assert [page.name for page in pages if not opens.match(page.read_text(encoding="utf-8"))] == []


def test_every_page_is_in_the_table() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in FOLDER.glob("*.md") if page.name != "index.md" and f"]({page.name})" not in index
    ] == []
