"""`bwlab analyze` as a whole: its output at 100 columns, its JSON, its errors, and how light it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.conftest import Outcome
from tests.analysis.kohya import SHAPES, adapter_tensors, kohya, write

Run = Callable[..., Outcome]

NORMS = """
Weights by block and by kind of module
                                                                      top-1 share
 block   modules   rank   delta norm    energy   effective rank   (flat spectrum)
 ────────────────────────────────────────────────────────────────────────────────
 in0           3      3        145.5    49.0 %         2.9 of 3       51 % (33 %)
 mid           2      3        148.5    51.0 %         3.0 of 3       46 % (33 %)
 all           5      3        207.9   100.0 %         2.9 of 3       48 % (33 %)
                                                                      top-1 share
 kind    modules   rank   delta norm    energy   effective rank   (flat spectrum)
 ────────────────────────────────────────────────────────────────────────────────
 attn1         1      3        74.82    12.9 %         2.9 of 3       45 % (33 %)
 attn2         1      3        70.11    11.4 %         3.0 of 3       40 % (33 %)
 proj          1      3          102    24.1 %         3.0 of 3       48 % (33 %)
 conv          1      3        103.3    24.7 %         2.9 of 3       60 % (33 %)
 time          1      3        107.9    26.9 %         3.0 of 3       44 % (33 %)
 all           5      3        207.9   100.0 %         2.9 of 3       48 % (33 %)
Summary
a.safetensors: 5 modules, block scheme sd
Blocks without a module: te, in1, in2, in3, out0, out1, out2, out3, rest.
"""

CONFLICT = """
Answer
Weights cannot show whether a and b conflict. Add --base and the training images (--data a=DIR
--data b=DIR) to measure it.
The conflict of the weights is exactly 0 where no module is changed by both: in0 (a only), out3 (b
only).
Cosine 0.0066 (random pair: 0 +- 0.0081): at chance (within 3 standard deviations of a random pair),
as between nearly all real adapters. It does not show a conflict.
Out overlap x1.09 of chance (random pair: x1 +- 0.24), x16.7 at most: at chance (within 3 standard
deviations of a random pair). The adapters write into unrelated directions.
Weights by block
                       cosine         out overlap          in overlap
 block          (random pair)       (random pair)       (random pair)
 ────────────────────────────────────────────────────────────────────
 in0                exactly 0                   -                   -
 mid     0.0066 (0 +- 0.0081)   x1.09 (1 +- 0.24)   x0.85 (1 +- 0.25)
 out3               exactly 0                   -                   -
 all     0.0066 (0 +- 0.0081)   x1.09 (1 +- 0.24)   x0.85 (1 +- 0.25)
More with --details, and all in --report DIR and --json.
"""


def lines(text: str) -> list[str]:
    """Lines without the blanks that pad tables, and without blank lines."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters, of which one leaves `in0` and the other `out3` alone."""
    a = adapter_tensors(0, [path for path in SHAPES if not path.startswith("up_blocks.3.")])
    b = adapter_tensors(1, [path for path in SHAPES if not path.startswith("down_blocks.0.")], rank=5)
    return write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)


def test_norms_prints_this(bwlab: Run, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair[0].parent)
    outcome = bwlab("analyze", "norms", "a.safetensors")
    assert outcome.code == 0
    assert lines(outcome.out) == lines(NORMS)


def test_conflict_prints_this(bwlab: Run, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair[0].parent)
    outcome = bwlab("analyze", "conflict", "a.safetensors", "b.safetensors")
    assert outcome.code == 0
    assert lines(outcome.out) == lines(CONFLICT)


def test_pairs_without_shared_modules_conflict_by_exactly_0(bwlab: Run, pair: tuple[Path, Path]) -> None:
    alone = adapter_tensors(2, [path for path in SHAPES if path.startswith("up_blocks.3.")])
    third = write(pair[0].with_name("c.safetensors"), alone)
    rows = {line[:5].strip(): line.split() for line in lines(bwlab("analyze", "conflict", *pair, third).out)}
    assert rows["a, c"] == ["a,", "c", "0", "exactly", "0", "-", "-"]
    assert "exactly" not in rows["b, c"]


def test_tables_fit_100_columns(bwlab: Run, pair: tuple[Path, Path]) -> None:
    for arguments in (("norms", pair[1], "--cells"), ("conflict", *pair, "--cells", "--signs")):
        outcome = bwlab("analyze", *arguments)
        tables = [line for line in lines(outcome.out) if str(pair[0].parent) not in line]
        assert max(map(len, tables)) <= 100
        assert "…" not in outcome.out
        assert "cell" in outcome.out


def test_json_has_the_numbers_of_the_table(bwlab: Run, pair: tuple[Path, Path]) -> None:
    table = bwlab("analyze", "norms", pair[1]).out
    document = json.loads(bwlab("analyze", "norms", pair[1], "--json").out)
    assert (document["schema"], document["schema_version"]) == ("bwlab.analyze.norms", 2)
    for group in (*document["blocks"], *document["kinds"], document["total"]):
        row = next(line for line in lines(table) if line.split()[0] == group["name"])
        shown = [float(number) for number in re.findall(r"(?<![a-z])\d+(?:\.\d+)?", row.replace(group["name"], "", 1))]
        rank, top = group["effective_rank"], group["top1_share"]
        told = [group["modules"], group["rank_min"], group["norm"], 100 * group["energy_share"]]
        told += [rank["value"], rank["of_rank"], 100 * top["value"], 100 * top["flat"]]
        np.testing.assert_allclose(shown, told, atol=0.5, rtol=1e-3)


def test_json_of_a_conflict_has_scales_and_verdict(bwlab: Run, pair: tuple[Path, Path]) -> None:
    document = json.loads(bwlab("analyze", "conflict", *pair, "--json", "--signs").out)
    assert (document["schema"], document["schema_version"]) == ("bwlab.analyze.conflict", 2)
    assert [block["disjoint"] for block in document["blocks"]] == [True, False, True]
    cosine = document["total"]["cosine"]
    table = bwlab("analyze", "conflict", *pair, "--details").out
    assert f"{cosine['value']:.4f} (0 +- {cosine['random_sd']:.4f})" in table
    assert f"x{document['total']['out_overlap']['value']:.2f} (1 +- " in table
    assert document["total"]["sign_conflict"]["random"] == 0.5
    # Sentences by block repeat where cosine and out overlap read alike; all others are said once.
    text = " ".join(table.split())
    assert [text.count(line) for line in document["verdict"]] == [
        document["verdict"].count(line) for line in document["verdict"]
    ]
    assert document["shared_initialisation"] is False


def break_nan(folder: Path) -> Path:
    tensors = adapter_tensors(0)
    tensors[f"{kohya(next(iter(SHAPES)))}.lora_up.weight"][0, 0] = np.nan
    return write(folder / "bad.safetensors", tensors)


def break_large(folder: Path, factor: float = 1e100) -> Path:
    tensors = adapter_tensors(0)
    grown = {key: np.asarray(factor * values.astype(np.float64)) for key, values in tensors.items() if values.ndim}
    return write(folder / "bad.safetensors", tensors | grown)


def break_larger(folder: Path) -> Path:
    return break_large(folder, 1e200)


def break_empty(folder: Path) -> Path:
    (folder / "bad.safetensors").touch()
    return folder / "bad.safetensors"


def break_algorithm(folder: Path) -> Path:
    tensors = {f"{kohya(path)}.lokr_w1": np.ones((2, 3), dtype=np.float32) for path in SHAPES}
    return write(folder / "bad.safetensors", tensors)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (break_nan, "NaN"),
        (lambda folder: break_large(folder, 1e35), "is far too large"),
        (break_large, "are too large"),
        (break_larger, "are too large"),
        (break_empty, "empty"),
        (break_algorithm, "it has neither lokr_w2 nor lokr_w2_a"),
        (lambda folder: folder / "no", "No such"),
    ],
)
def test_bad_files_cost_one_line_and_exit_code_2(
    bwlab: Run, tmp_path: Path, broken: Callable[[Path], Path], words: str
) -> None:
    file = broken(tmp_path)
    good = write(tmp_path / "good.safetensors", adapter_tensors(0))
    for arguments in (("norms", file), ("conflict", good, file), ("conflict", file, good, "--json")):
        outcome = bwlab("analyze", *arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.startswith("bwlab: error: ")
        assert outcome.err.count("\n") == 1
        assert words in outcome.err


def test_what_is_left_out_is_said(bwlab: Run, tmp_path: Path) -> None:
    foreign = {f"{kohya('mid_block.attentions.0.proj_out')}.oft_blocks": np.ones((2, 3, 3), dtype=np.float32)}
    file = write(tmp_path / "a.safetensors", adapter_tensors(0) | foreign)
    said = "Not in these numbers, from a.safetensors: oft, whose deltas need the base model's weights: mid_block."
    assert said in " ".join(bwlab("analyze", "norms", file).out.split())
    assert said in " ".join(bwlab("analyze", "conflict", file, file).out.split())


LIGHT = """
import sys
from bwlab.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {"torch", "diffusers", "transformers", "skimage", "open_clip", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


def run_alone(*arguments: object) -> str:
    """Run the command line in a process of its own, which fails if it imports anything heavy; return its output."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", LIGHT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_command_imports_torch(pair: tuple[Path, Path]) -> None:
    assert "effective rank" in run_alone("analyze", "norms", pair[0])
    assert "cosine" in run_alone("analyze", "conflict", *pair)
    assert '"sign_conflict"' in run_alone("analyze", "conflict", *pair, "--signs", "--json")
