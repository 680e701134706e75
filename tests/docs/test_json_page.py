"""docs/json.md has a section for each JSON document, with the keys that the code writes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from bwlab.blocks.block_map import Counts, MapRow
from bwlab.blocks.notations.lists import Translation
from bwlab.cli import blocks, data, doctor, plugins
from bwlab.dataset import survey
from bwlab.inspection import report
from bwlab_analysis.activations.pair import Cost
from bwlab_analysis.measures import BlockBlame, MeasureError
from bwlab_analysis.report import all_pairs, documents, pairs_file

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
SECTIONS = dict(zip(*[iter(re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)[1:])] * 2, strict=True))
COMMON = SECTIONS["Parts that several documents have"]
NO_SCHEMA = "Lists without a schema"
SURVEY = (survey.Survey, survey.FolderCount, survey.BucketCount, survey.Problem, survey.NearDuplicate)
# What writes each document: functions whose dict displays hold its keys, and records that are written whole.
WRITERS: dict[str, tuple[Callable[..., object] | type, ...]] = {
    "bwlab.inspect": (report.document, report._file, report._block),
    "bwlab.data.check": (data.document, *SURVEY),
    "bwlab.analyze.norms": (documents.norms_document, documents._norms),
    "bwlab.analyze.conflict": (
        documents.conflict_document,
        documents._conflict,
        documents.base_conflict_document,
        documents.measured_document,
        documents.interaction_document,
        documents.loss_document,
        Cost,
        BlockBlame,
    ),
    "bwlab.analyze.conflicts": (documents.conflicts_document,),
    "bwlab.analyze.pairs": (pairs_file.PairsFile.__init__, pairs_file.PairsFile.add),
    "bwlab.analyze.pairs.summary": (all_pairs.pairs_document,),
    "bwlab.analyze.activations": (documents.activations_document,),
    "bwlab.analyze.fidelity": (documents.fidelity_document, documents.fidelity_settings, documents._scores),
    "bwlab.analyze.recommend": (
        documents.recommend_document,
        documents.fidelity_settings,
        documents._notations,
        documents._shares,
    ),
    NO_SCHEMA: (blocks._as_dict, MapRow, Counts, Translation, plugins.as_dict, doctor.Finding),
    "Parts that several documents have": (documents._measured, documents._loss, documents._left_out, MeasureError),
}
# Names within the code that no document has: `counts` of a row is replaced by its fields.
INTERNAL = {"counts"}


def keys(writer: Callable[..., object] | type) -> Iterator[str]:
    """Yield the keys that a function writes, or the fields of a record."""
    if isinstance(writer, type):
        yield from (field.name for field in dataclasses.fields(writer))
        return
    for node in ast.walk(ast.parse(dedent(inspect.getsource(writer)))):
        if isinstance(node, ast.Dict):
            yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def schemas() -> set[str]:
    """Return the names of all documents in the code of the core and of the analysis."""
    sources = [
        path.read_text(encoding="utf-8") for folder in ("bwlab", "analysis") for path in (ROOT / folder).rglob("*.py")
    ]
    named = re.compile(r'(?:"schema": |^SCHEMA = )"(bwlab\.[\w.]+)"', re.MULTILINE)
    found = {name for source in sources for name in named.findall(source)}
    return found | {f"{pairs_file.SCHEMA}.summary"}


def test_every_document_has_a_section_and_each_section_is_of_a_document() -> None:
    assert len(schemas()) == 10
    assert {name for name in SECTIONS if name.startswith("bwlab.")} == schemas()
    assert set(WRITERS) == {*schemas(), NO_SCHEMA, "Parts that several documents have"} == set(SECTIONS)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_section_has_every_key(name: str) -> None:
    written = {key for writer in WRITERS[name] for key in keys(writer)} - INTERNAL
    assert written, "no key was found in the code"
    assert sorted(key for key in written if f"`{key}`" not in SECTIONS[name] + (TEXT.split("\n## ")[0] + COMMON)) == []


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_document_is_in_the_table_of_commands(name: str) -> None:
    assert f"[`{name}`](#{name.replace('.', '')})" in TEXT.split("\n## ")[0]
