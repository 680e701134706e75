"""Files of prompts that kohya's trainer draws samples from."""

from __future__ import annotations

import re
from pathlib import Path

from bwlab.config.sources import read_tables
from bwlab.errors import BwlabError, first_line
from bwlab.foreign.translator import as_number, as_whole
from bwlab.text import parse_json

OPTION = re.compile(r"\s--([a-z]+)\s+(.*?)(?=\s--[a-z]+\s|$)")
NAMES = {"n": "negative_prompt", "s": "sample_steps", "l": "scale", "d": "seed", "w": "width", "h": "height"}
KEYS = {
    "negative_prompt": "preview.negative",
    "sample_steps": "preview.steps",
    "scale": "preview.cfg",
    "seed": "preview.seed",
    "width": "preview.width",
    "height": "preview.height",
}


def read_prompts(path: Path, asked: str) -> tuple[list[str], dict[str, object]]:
    """Return the prompts of a file, and the settings of previews that its first prompt gives.

    Args:
        path: a text file with a prompt and its options in each line, or a TOML or JSON file.
        asked: the option that names the file, for messages.

    Raises:
        BwlabError: the file cannot be read, or holds no prompt.

    """
    try:
        entries = _entries(path, asked)
        first = {KEYS[name]: _value(name, entries[0][name]) for name in KEYS if entries and name in entries[0]}
    except (OSError, ValueError) as error:
        raise BwlabError(
            asked, f"its prompts cannot be read ({first_line(error)})", "Give --set preview.prompts"
        ) from None
    prompts = [str(entry["prompt"]) for entry in entries if entry.get("prompt")]
    if not prompts:
        raise BwlabError(asked, "the file holds no prompt", "Write a prompt into each line")
    return prompts, first


def _entries(path: Path, asked: str) -> list[dict[str, object]]:
    if path.suffix == ".toml":
        table = read_tables(path, asked, "file of prompts").get("prompt", {})
        common = {key: value for key, value in table.items() if key != "subset"}
        return [{**common, **entry} for entry in table.get("subset", [common])]
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        return [dict(entry) for entry in parse_json(text)]
    return [_of_line(line.strip()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _of_line(line: str) -> dict[str, object]:
    """Return the prompt of a line with its options.

    >>> _of_line("a fox --n blurry --s 28")
    {'prompt': 'a fox', 'negative_prompt': 'blurry', 'sample_steps': '28'}
    """
    options = {NAMES[name]: value.strip() for name, value in OPTION.findall(line) if name in NAMES}
    return {"prompt": re.split(r"\s--[a-z]+\s", line, maxsplit=1)[0].strip(), **options}


def _value(name: str, value: object) -> object:
    if name == "negative_prompt":
        return str(value)
    return as_number(value) if name == "scale" else as_whole(value)
