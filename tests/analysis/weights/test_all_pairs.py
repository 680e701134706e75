"""All pairs of many adapters: the numbers of single pairs, in bounded memory."""

from __future__ import annotations

import weakref
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bwlab.errors import BwlabError
from bwlab.formats.types import Formats
from bwlab_analysis.weights import all_pairs
from bwlab_analysis.weights.adapter_weights import AdapterWeights, open_weights
from bwlab_analysis.weights.all_pairs import AllPairs
from bwlab_analysis.weights.conflict import ConflictReport, measure_conflict
from bwlab_analysis.weights.pair_measures import ANGLE, COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT
from tests.analysis.kohya import SHAPES, adapter_tensors, write

MEASURES = [COSINE, OUT_OVERLAP, IN_OVERLAP, ANGLE, SIGN_CONFLICT]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return adapters of several ranks and blocks, the fourth of them damaged."""
    paths = list(SHAPES)
    drawn = [adapter_tensors(seed, paths[seed % 3 :], rank) for seed, rank in enumerate((2, 3, 17, 5, 19, 67))]
    written = [write(tmp_path / f"{number}.safetensors", tensors) for number, tensors in enumerate(drawn)]
    written[3].write_bytes(written[3].read_bytes()[:-9])
    return written


@pytest.mark.parametrize("size", [1, 300_000, 1 << 30])
def test_all_pairs_have_the_numbers_of_single_pairs(
    files: list[Path], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_pairs, "GROUP_BYTES", size)
    pairs = AllPairs(files, MEASURES)
    outcomes = dict(pairs.reports())
    assert sorted(outcomes) == [(a, b) for a in range(6) for b in range(a + 1, 6) if 3 not in (a, b)]
    assert list(pairs.unreadable) == [files[3]]
    assert "cut short" in str(pairs.unreadable[files[3]])
    for (a, b), report in outcomes.items():
        assert isinstance(report, ConflictReport)
        alone = measure_conflict(files[a], files[b], MEASURES)
        for found, expected in zip((*report.blocks, report.total), (*alone.blocks, alone.total), strict=True):
            assert (found.name, found.shared) == (expected.name, expected.shared)
            for name, measured in expected.measures.items():
                other = found.measures[name]
                assert (other is None) == (measured is None)
                if other is not None and measured is not None:
                    assert other.value == pytest.approx(measured.value, rel=1e-9, abs=1e-9)
                    assert other.random == pytest.approx(measured.random, rel=1e-9, abs=1e-9)


def test_known_pairs_are_left_out_and_their_files_are_not_read(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def opened(path: Path, formats: Formats | None) -> AdapterWeights:
        read.append(path)
        return open_weights(path, formats)

    monkeypatch.setattr(all_pairs, "open_weights", opened)
    known = set(combinations(range(6), 2)) - {(1, 4)}
    assert [pair for pair, _ in AllPairs(files, [COSINE]).reports(known)] == [(1, 4)]
    assert read == [files[1], files[4]]


def test_few_adapters_are_in_memory(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one is in memory, the adapter beside it, and one more while the next is read."""
    living: list[weakref.ref[AdapterWeights]] = []
    most = 0
    in_memory = AdapterWeights.in_memory

    def counted(weights: AdapterWeights) -> AdapterWeights:
        nonlocal most
        held = in_memory(weights)
        living.append(weakref.ref(held))
        most = max(most, sum(reference() is not None for reference in living))
        return held

    monkeypatch.setattr(AdapterWeights, "in_memory", counted)
    monkeypatch.setattr(all_pairs, "GROUP_BYTES", 1)
    assert len(list(AllPairs(files, [COSINE]).reports())) == 10
    assert most == 3


def test_adapters_of_other_models_are_not_compared(files: list[Path], tmp_path: Path) -> None:
    first = next(iter(SHAPES))
    wider = write(tmp_path / "wider.safetensors", adapter_tensors(0, [first], shapes={first: (61, 71)}))
    ((_, outcome),) = AllPairs([files[0], wider], [COSINE]).reports()
    assert isinstance(outcome, BwlabError)
    assert "shared modules differ in shape" in str(outcome)


def test_a_delta_that_is_too_large_makes_a_file_unreadable(files: list[Path], tmp_path: Path) -> None:
    tensors = adapter_tensors(0)
    large = {key: np.asarray(1e35 * values.astype(np.float64)) for key, values in tensors.items() if values.ndim}
    pairs = AllPairs([files[0], write(tmp_path / "large.safetensors", tensors | large), files[1]], [COSINE])
    assert [pair for pair, _ in pairs.reports()] == [(0, 2)]
    assert "is far too large" in str(pairs.unreadable[tmp_path / "large.safetensors"])
