"""Every option of `bwlab analyze`, `study` and `demo`, seen in what they print and write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bwlab_analysis import demo
from tests.analysis.study.finished import TINY
from tests.options import made
from tests.options.effects import (
    Effect,
    all_of,
    both_work,
    json_differs,
    needed,
    prints_json,
    refused,
    says,
)
from tests.options.rows import Done, Row, Runner, Table


def world(folder: Path, tiny: Path) -> dict[str, object]:
    """Return adapters for the embedded base, images of an identity and of styles, and prompts."""
    files = made.adapters(folder, "emoji", fox="mid=2, out3=2", ink="mid=2, in0=2", third="mid=1")
    plan = TINY.read_text().replace("steps = 2", "steps = 2")
    return {
        **files,
        "identity": made.images(folder / "identity", ("fox",), "noto"),
        "other_identity": made.images(folder / "other-identity", ("cow",), "noto"),
        "style": made.images(folder / "style", ("rat", "tiger"), "ink"),
        "other_style": made.images(folder / "other-style", ("rat", "tiger"), "flat"),
        "prompts": made.text_file(folder / "prompts.txt", "ink, fox, white background"),
        "more_prompts": made.text_file(folder / "more.txt", "ink, fox, blue background", "flat, fox, red background"),
        "plan": TINY,
        "other_clip": folder,
    }


def same_but(select: str) -> Effect:
    """Return the effect that the JSON differs at a dotted path."""
    from tests.options.effects import value_at

    return json_differs(lambda document: value_at(document, select))


def report_written(without: Done, with_option: Done) -> None:
    both_work(without, with_option)
    assert with_option.names() == ["page/report.html"]
    assert without.names() == []
    assert "<html" in with_option.file("page/report.html").read_text()


BASE = "--base emoji --timesteps 601 --latents 2 --random 0"
NORMS = Table(
    "analyze norms",
    "{fox}",
    [
        Row("<file>", "{ink}", says("ink.safetensors", "fox.safetensors"), common="", instead="{fox}"),
        Row("--base", "--base emoji", says("of the weights")),
        Row("--json", "--json", prints_json(lambda document: document["blocks"])),
        Row("--cells", "--cells", says("out3.0")),
        Row("--modules", "--modules", says("mid_block.")),
        Row("--report", "--report page", report_written),
    ],
)
CONFLICT = Table(
    "analyze conflict",
    "{fox} {ink}",
    [
        Row("<files>", "{third}", says("third")),
        Row("--base", BASE, says("prediction")),
    ],
)
