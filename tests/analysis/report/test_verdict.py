"""What the verdict reads into multiples of chance, given measures that are set by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bwlab_analysis.measures import Measured
from bwlab_analysis.report.verdict import weights_verdict
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict, measure_conflict
from bwlab_analysis.weights.pair_measures import COSINE, OUT_OVERLAP
from tests.analysis.kohya import adapter_tensors, write


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ConflictReport:
    folder = tmp_path_factory.mktemp("verdict")
    a, b = (write(folder / f"{seed}.safetensors", adapter_tensors(seed)) for seed in (0, 1))
    return measure_conflict(a, b, [COSINE, OUT_OVERLAP])


def with_overlap(group: GroupConflict, multiple: float, chance: float = 0.01) -> GroupConflict:
    details = {"fraction": multiple * chance, "chance": chance}
    return replace(group, measures={**group.measures, "out_overlap": Measured(multiple, 1.0, 0.05, details)})


@pytest.mark.parametrize(
    ("multiple", "words"),
    [
        (0.2, "below chance. The adapters write into directions that keep clear of each other"),
        (1.1, "at chance (within 3 standard deviations of a random pair)"),
        (2.4, "beyond chance, but not above the overlap of unrelated real adapters (median x2.4)"),
        (
            2.54,
            "between the overlap of unrelated real adapters (median x2.4) and the overlap of two runs on similar "
            "images (x4.7)",
        ),
        (7.0, "between the overlap of two runs on similar images (x4.7) and the overlap of one subject twice (x32)"),
        (40.0, "as high as the overlap of one subject twice (x32), or higher"),
    ],
)
def test_an_overlap_is_set_among_those_of_real_adapters(report: ConflictReport, multiple: float, words: str) -> None:
    told = weights_verdict(replace(report, total=with_overlap(report.total, multiple)))
    assert any(line.startswith("Out overlap") and words in line for line in told)


def test_different_modules_of_a_block_are_no_adapter_alone(report: ConflictReport) -> None:
    apart = replace(report.blocks[0], modules_a=2, modules_b=1, shared=0)
    (told,) = (line for line in weights_verdict(replace(report, blocks=(apart,))) if "exactly 0" in line)
    assert told.endswith("where no module is changed by both: in0 (different modules).")


def test_large_ranks_are_not_compared_with_small_ones(report: ConflictReport) -> None:
    told = weights_verdict(replace(report, total=with_overlap(report.total, 2.0, chance=0.4)))
    assert any(
        "x2.5 at most: beyond chance. The adapters write into some of the same directions" in line for line in told
    )


def test_each_block_has_its_verdict(report: ConflictReport) -> None:
    multiples = (1.0, 3.0, 5.0)
    blocks = tuple(with_overlap(group, multiple) for group, multiple in zip(report.blocks, multiples, strict=True))
    assert weights_verdict(replace(report, blocks=blocks))[-1] == (
        "Block by block: at chance (in0); above unrelated adapters, x2.4 (mid); "
        "above two runs on similar images, x4.7 (out3)."
    )


def test_one_adapter_twice_is_called_so(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", adapter_tensors(0))
    assert weights_verdict(measure_conflict(file, file, [COSINE, OUT_OVERLAP])) == [
        "a (a) and a (b) make the same changes up to a factor: they are the same adapter."
    ]


def test_one_adapter_and_a_part_of_it_are_called_so(tmp_path: Path) -> None:
    whole = adapter_tensors(0)
    part = {key: values for key, values in whole.items() if "mid_block" in key}
    files = write(tmp_path / "a.safetensors", whole), write(tmp_path / "b.safetensors", part)
    told = weights_verdict(measure_conflict(*files, [COSINE, OUT_OVERLAP]))
    assert told[-1].startswith("In the modules that both change, a and b make the same changes")
    assert "in0 (a only)" in told[0]


def test_a_file_and_its_negation_cancel(tmp_path: Path) -> None:
    a = adapter_tensors(0)
    opposite = {key: -tensor if "lora_up" in key else tensor for key, tensor in a.items()}
    files = write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", opposite)
    assert weights_verdict(measure_conflict(*files, [COSINE, OUT_OVERLAP])) == [
        "a and b make the same changes with opposite signs: together they cancel out."
    ]


def test_an_overlap_that_cannot_vary_says_nothing(report: ConflictReport) -> None:
    whole = Measured(1.0 + 1e-12, 1.0, 0.0, {"fraction": 1.0, "chance": 1.0})
    total = replace(report.total, measures={**report.total.measures, "out_overlap": whole})
    blocks = tuple(replace(group, measures=total.measures) for group in report.blocks)
    told = weights_verdict(replace(report, total=total, blocks=blocks))
    assert (
        "one adapter writes into every direction, so no other value is possible. It does not show a conflict."
        in told[-2]
    )
    assert told[-1] == (
        "Block by block: one adapter writes into every direction, so no other value is possible (all blocks that both "
        "change)."
    )
