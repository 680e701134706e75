"""`measure_conflict` against dense float64, and what its verdict says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bwlab.errors import BwlabError
from bwlab_analysis.measures import Measured
from bwlab_analysis.report.verdict import shares_initialisation, weights_verdict
from bwlab_analysis.weights.conflict import ConflictReport, GroupConflict, measure_conflict
from bwlab_analysis.weights.pair_measures import ANGLE, COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT
from tests.analysis.kohya import SHAPES, adapter_tensors, dense, kohya, of_zeros, write

MEASURES = [COSINE, OUT_OVERLAP, IN_OVERLAP, ANGLE, SIGN_CONFLICT]
IN0 = [path for path in SHAPES if path.startswith("down_blocks.0.")]
MID = [path for path in SHAPES if path.startswith("mid_block.")]
OUT3 = [path for path in SHAPES if path.startswith("up_blocks.3.")]

Tensors = dict[str, np.ndarray]


def compare(folder: Path, a: Tensors, b: Tensors) -> ConflictReport:
    return measure_conflict(write(folder / "a.safetensors", a), write(folder / "b.safetensors", b), MEASURES)


def value(group: GroupConflict, name: str) -> Measured:
    measured = group.measures[name]
    assert measured is not None
    return measured


def check_group(group: GroupConflict, a: Tensors, b: Tensors, paths: list[str]) -> None:
    """Compare a group whose modules both adapters change with the dense formulas."""
    pairs = [(dense(a, path), dense(b, path)) for path in paths]
    flat_a, flat_b = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    norms = np.linalg.norm(flat_a) * np.linalg.norm(flat_b)
    cosine, signs = value(group, "cosine"), value(group, "sign_conflict")
    assert cosine.value == pytest.approx(flat_a @ flat_b / norms, abs=1e-7)
    variances = [np.linalg.norm(x) ** 2 * np.linalg.norm(y) ** 2 / x.size for x, y in pairs]
    assert cosine.random_sd == pytest.approx(math.sqrt(sum(variances)) / norms, rel=1e-9)
    assert signs.value == pytest.approx(np.mean(np.sign(flat_a) != np.sign(flat_b)), abs=1e-12)
    bases = [tuple(np.linalg.svd(x, full_matrices=False) for x in pair) for pair in pairs]
    shared_out = [np.linalg.norm(x[0][:, :3].T @ y[0][:, :3]) ** 2 for x, y in bases]
    shared_in = [np.linalg.norm(x[2][:3] @ y[2][:3].T) ** 2 for x, y in bases]
    expected_out, expected_in = (sum(9 / x.shape[axis] for x, _ in pairs) for axis in (0, 1))
    assert value(group, "out_overlap").value == pytest.approx(sum(shared_out) / expected_out, rel=1e-8)
    assert value(group, "in_overlap").value == pytest.approx(sum(shared_in) / expected_in, rel=1e-8)
    assert value(group, "out_overlap").details["fraction"] == pytest.approx(sum(shared_out) / (3 * len(paths)))
    angles = [np.arccos(np.linalg.norm(x[0][:, :3].T @ y[0][:, :3], 2)) for x, y in bases]
    assert value(group, "smallest_angle").value == pytest.approx(math.degrees(min(angles)), abs=math.degrees(1e-4))


def test_every_group_has_the_dense_numbers(tmp_path: Path) -> None:
    a, b = adapter_tensors(0), adapter_tensors(1, alpha=None)
    report = compare(tmp_path, a, b)
    assert [group.name for group in report.blocks] == ["in0", "mid", "out3"]
    for group, paths in zip(report.blocks, (IN0, MID, OUT3), strict=True):
        check_group(group, a, b, paths)
    check_group(report.total, a, b, list(SHAPES))


def test_energy_shares_are_those_of_whole_adapters(tmp_path: Path) -> None:
    a, b = adapter_tensors(0, [*IN0, *MID]), adapter_tensors(1, [*MID, *OUT3])
    report = compare(tmp_path, a, b)
    energy_a = {path: np.linalg.norm(dense(a, path)) ** 2 for path in [*IN0, *MID]}
    energy_b = {path: np.linalg.norm(dense(b, path)) ** 2 for path in [*MID, *OUT3]}
    in0, mid, out3 = report.blocks
    whole_a, whole_b = sum(energy_a.values()), sum(energy_b.values())
    mid_a, mid_b = (sum(energy[path] for path in MID) for energy in (energy_a, energy_b))
    assert (in0.modules_a, in0.modules_b, in0.shared, in0.disjoint) == (3, 0, 0, True)
    assert (mid.modules_a, mid.modules_b, mid.shared, mid.disjoint) == (2, 2, 2, False)
    assert in0.share_b == 0.0
    assert out3.share_a == 0.0
    assert mid.share_a == pytest.approx(mid_a / whole_a, rel=1e-6)
    assert mid.joint_share == pytest.approx((mid_a + mid_b) / (whole_a + whole_b), rel=1e-6)
    assert report.shared_share_b == pytest.approx(mid_b / whole_b, rel=1e-6)
    assert in0.measures["cosine"] is None
    check_group(report.total, a, b, MID)
    alone = "exactly 0 where no module is changed by both: in0 (a only), out3 (b only)."
    assert alone in weights_verdict(report)[0]


def test_adapters_on_disjoint_blocks_have_a_conflict_of_exactly_0(tmp_path: Path) -> None:
    report = compare(tmp_path, adapter_tensors(0, IN0), adapter_tensors(1, OUT3))
    assert report.total.disjoint
    (line,) = weights_verdict(report)
    assert "the conflict of their weights is exactly 0" in line


def test_random_adapters_are_at_chance(tmp_path: Path) -> None:
    lines = weights_verdict(compare(tmp_path, adapter_tensors(0), adapter_tensors(1)))
    assert len(lines) == 4
    assert "at chance (within 3 standard deviations of a random pair), as between nearly all real" in lines[0]
    assert lines[1] == lines[3] == "Block by block: at chance (all blocks that both change)."
    assert lines[2].endswith("of a random pair). The adapters write into unrelated directions.")


def test_one_seed_for_both_is_called_a_shared_initialisation(tmp_path: Path) -> None:
    a, b = adapter_tensors(0), adapter_tensors(1)
    b |= {key: tensor for key, tensor in a.items() if "lora_down" in key}
    report = compare(tmp_path, a, b)
    assert shares_initialisation(report.total)
    assert value(report.total, "in_overlap").details["fraction"] == pytest.approx(1.0)
    lines = weights_verdict(report)
    assert lines[0].startswith(
        "Shared initialisation: both adapters read from the same input directions (in overlap 1.00, x"
    )
    cosine = value(report.total, "cosine")
    assert cosine.random_sd is not None
    assert cosine.details["random_sd_given_inputs"] > 3 * cosine.random_sd
    assert "at chance" in lines[1]


def test_an_adapter_against_itself_and_against_its_opposite(tmp_path: Path) -> None:
    a = adapter_tensors(0)
    opposite = {key: -tensor if "lora_up" in key else tensor for key, tensor in a.items()}
    for other, cosine, words in ((a, 1.0, "they are the same adapter"), (opposite, -1.0, "together they cancel")):
        report = compare(tmp_path, a, other)
        assert value(report.total, "cosine").value == pytest.approx(cosine, abs=1e-7)
        assert value(report.total, "smallest_angle").value == pytest.approx(0.0, abs=1e-6)
        assert value(report.total, "sign_conflict").value == (1 - cosine) / 2
        assert any(words in line for line in weights_verdict(report))


def test_an_adapter_of_zeros_has_no_direction(tmp_path: Path) -> None:
    report = compare(tmp_path, adapter_tensors(0), of_zeros(adapter_tensors(1)))
    assert set(report.total.measures.values()) == {None}
    assert report.total.share_b is None
    assert weights_verdict(report) == ["Nothing to compare: all deltas of b are 0."]


def test_modules_of_other_shapes_are_refused(tmp_path: Path) -> None:
    shapes = SHAPES | {MID[0]: (5, 7)}
    with pytest.raises(BwlabError, match=r"1 of 7 shared modules differ in shape .*\(79, 83\).*\(5, 7\)"):
        compare(tmp_path, adapter_tensors(0), adapter_tensors(1, shapes=shapes))


def test_other_schemes_and_other_text_widths_are_refused(tmp_path: Path) -> None:
    deep, wide = "mid_block.attentions.0.transformer_blocks.1.attn1.to_q", IN0[1].replace("down_blocks.0", "mid_block")
    sdxl = adapter_tensors(1, [deep], shapes={deep: (7, 11)})
    with pytest.raises(BwlabError, match="different schemes, sd and sdxl"):
        compare(tmp_path, adapter_tensors(0), sdxl)
    other_text = adapter_tensors(1, [wide], shapes={wide: (7, 11)})
    with pytest.raises(BwlabError, match="text embeddings of widths 53 and 11"):
        compare(tmp_path, adapter_tensors(0), other_text)


def test_the_first_nan_is_named(tmp_path: Path) -> None:
    b = adapter_tensors(1)
    b[f"{kohya(MID[0])}.lora_up.weight"][0, 0] = np.nan
    with pytest.raises(BwlabError, match=f"b.safetensors: 1 of the 237 numbers of {kohya(MID[0])}"):
        compare(tmp_path, adapter_tensors(0), b)


LOKR = kohya(MID[0])
ROWS, COLUMNS = 76, 84


def test_zeros_of_a_kronecker_product_have_no_sign(tmp_path: Path) -> None:
    """All entries are positive or exactly 0, which singular vectors bring back as rounding of either sign."""
    rng = np.random.default_rng(0)

    def file(name: str) -> Path:
        low = {"w2_a": rng.uniform(1, 2, (ROWS // 4, 2)), "w2_b": rng.uniform(1, 2, (2, COLUMNS // 4))}
        tensors = {f"{LOKR}.lokr_{leaf}": values for leaf, values in low.items()}
        return write(
            tmp_path / f"{name}.safetensors", {f"{LOKR}.lokr_w1": np.tril(rng.uniform(1, 2, (4, 4))), **tensors}
        )

    signs = value(measure_conflict(file("a"), file("b"), [SIGN_CONFLICT]).total, "sign_conflict")
    assert signs.value == 0
    assert signs.details["entries"] == ROWS * COLUMNS * 10 / 16


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_the_spread_of_kronecker_products_goes_by_the_ranks_of_their_parts(tmp_path: Path, rank: int) -> None:
    """A part that is stored whole and has a lower rank is still a part."""
    rng = np.random.default_rng(rank)

    def file(name: str) -> Path:
        first = rng.standard_normal((4, rank)) @ rng.standard_normal((rank, 4))
        second = rng.standard_normal((ROWS // 4, 1)) @ rng.standard_normal((1, COLUMNS // 4))
        return write(tmp_path / f"{name}.safetensors", {f"{LOKR}.lokr_w1": first, f"{LOKR}.lokr_w2": second})

    scores = []
    for _ in range(60):
        overlap = value(measure_conflict(file("a"), file("b"), [OUT_OVERLAP]).total, "out_overlap")
        assert overlap.random_sd is not None
        scores.append((overlap.value - 1) / overlap.random_sd)
    assert 0.3 < np.var(scores) < 2.5
