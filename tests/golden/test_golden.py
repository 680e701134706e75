"""The commands give what they gave of a golden set of files; `python -m tests.golden` makes both again."""

from __future__ import annotations

import json

import pytest

from tests.golden import files
from tests.golden.results import RESULTS, changes, measured


def test_the_files_are_those_that_the_script_makes() -> None:
    kept = {path.name: path.read_bytes() for path in files.FOLDER.iterdir()}
    assert kept == files.contents()
    assert max(map(len, kept.values())) < 10_000


def test_commands_give_the_kept_results() -> None:
    assert list(changes(json.loads(RESULTS.read_text()), measured(files.FOLDER))) == []


def test_a_changed_number_is_named() -> None:
    kept = json.loads(RESULTS.read_text())
    changed = json.loads(RESULTS.read_text())
    total = changed["conflict kohya-lora kohya-lora-other"]["total"]
    total["cosine"]["value"] += 1e-5
    del changed["merge by sum"]
    total["out_overlap"]["value"] *= 1 + 1e-9
    lines = list(changes(kept, changed))
    assert [line.partition(" ->")[0].rpartition(": ")[0] for line in lines[:1]] == [
        "conflict kohya-lora kohya-lora-other: total: cosine: value"
    ]
    assert lines[1:] == ["merge by sum: gone"]


@pytest.mark.parametrize(("one", "other"), [([1], [1, 2]), (1.0, "1"), (None, 0.0), ({"a": 1}, [1])])
def test_other_documents_differ(one: object, other: object) -> None:
    assert len(list(changes({"x": one}, {"x": other}))) == 1
