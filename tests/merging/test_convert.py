"""Converting: blocks, ranks, dtypes, metadata, and what cannot be converted."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bwlab.errors import BwlabError
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file, write_tensors
from bwlab.formats.tensors import in_dtype
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from tests.formats.lycoris_made import CASES, Case, write_case
from tests.merging.made import IN0, IN1, MID, OUT3, PATHS, SHAPES, TE, adapter, deltas, lora, relative, written

RANKS = {IN0: 3, OUT3: 5, MID: 2, IN1: 7, TE: 4}


def test_forms_hold_the_same_deltas(tmp_path: Path, manager: PluginManager) -> None:
    source = written(tmp_path / "a.safetensors", [lora(path, rank, 1.0 + rank / 2, 3) for path, rank in RANKS.items()])
    before, last = deltas(source), source
    for form in ("diffusers", "ldm", "kohya"):
        out = tmp_path / f"{form}.safetensors"
        outcome = convert(Conversion(last, Target(out, form)), manager)
        assert (outcome.files, outcome.modules, outcome.fits) == ((out,), 5, ())
        assert read_contents(out).dialect == form
        after = deltas(out)
        assert list(before) == sorted(after, key=list(before).index)
        assert all(relative(after[path], before[path]) < 1e-6 for path in before)
        last = out


def test_one_alpha_in_a_file(tmp_path: Path, manager: PluginManager) -> None:
    source = written(tmp_path / "a.safetensors", [lora(IN0, 3, 2.0, 0), lora(MID, 5, None, 0), lora(TE, 2, 2.0, 0)])
    convert(Conversion(source, Target(tmp_path / "b.safetensors")), manager)
    file = open_adapter_file(tmp_path / "b.safetensors")
    alphas = {float(file.read(key)) for key in file.entries if key.endswith(".alpha")}
    assert alphas == {2.0}
    assert file.metadata["ss_network_alpha"] == "2"
    assert file.metadata["ss_network_dim"] == "Dynamic"
    assert json.loads(file.metadata["bwlab.ranks"]) == {"te": [2], "in0": [3], "mid": [5]}


def test_blocks_are_dropped_and_scaled(tmp_path: Path, manager: PluginManager) -> None:
    source, out = adapter(tmp_path, "a", RANKS), tmp_path / "b.safetensors"
    outcome = convert(Conversion(source, Target(out), blocks="upper=0.3, mid=-2, te=0"), manager)
    assert outcome.notes == ("left out: 1 module of 5 in blocks with the scale 0",)
    before, after = deltas(source), deltas(out)
    factors = {IN0: 0.3, OUT3: 0.3, MID: -2.0, IN1: 1.0}
    assert set(after) == set(factors)
    assert all(relative(after[path], factor * before[path]) < 1e-6 for path, factor in factors.items())


def test_a_rank_is_lowered_to_the_best_there_is(tmp_path: Path, manager: PluginManager) -> None:
    source, out = adapter(tmp_path, "a", RANKS), tmp_path / "b.safetensors"
    outcome = convert(Conversion(source, Target(out), rank=3, blocks="mid=0.5"), manager)
    before, after, ranks = deltas(source), deltas(out), {fit.path: fit for fit in outcome.fits}
    assert {path: one.rank() for path, one in read_contents(out).modules.items()} == {
        path: min(rank, 3) for path, rank in RANKS.items()
    }
    for path, delta in before.items():
        wanted = delta * (0.5 if path == MID else 1.0)
        values = np.linalg.svd(wanted, compute_uv=False)
        lost = float(np.sum(values[3:] ** 2))
        assert np.sum((after[path] - wanted) ** 2) == pytest.approx(lost, rel=1e-5, abs=1e-9)
        assert ranks[path].lost == pytest.approx(lost, abs=1e-9)
        assert ranks[path].energy == pytest.approx(float(np.sum(values**2)))
        assert ranks[path].before == RANKS[path]


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_numbers_are_written_in_a_dtype(tmp_path: Path, manager: PluginManager, dtype: str, stored: str) -> None:
    source, out = adapter(tmp_path, "a", RANKS), tmp_path / "b.safetensors"
    convert(Conversion(source, Target(out, dtype=dtype), blocks="mid=0.3"), manager)
    entries = open_adapter_file(out).entries
    assert {entry.dtype for key, entry in entries.items() if not key.endswith(".alpha")} == {stored}
    assert {entry.dtype for key, entry in entries.items() if key.endswith(".alpha")} == {"F32"}
    before, after = deltas(source), deltas(out)
    assert relative(after[IN1], before[IN1]) < {"fp16": 1e-3, "bf16": 8e-3, "fp32": 1e-6}[dtype]


def test_metadata_is_kept_and_what_was_done_is_added(tmp_path: Path, manager: PluginManager) -> None:
    metadata = {"ss_tag_frequency": "{}", "bwlab.config": "x = 1", "sshs_model_hash": "old", "modelspec.title": "t"}
    source = written(tmp_path / "a.safetensors", [lora(IN0, 3, 2.0, 0)], metadata)
    convert(Conversion(source, Target(tmp_path / "b.safetensors"), rank=2), manager)
    convert(Conversion(tmp_path / "b.safetensors", Target(tmp_path / "c.safetensors", "diffusers")), manager)
    found = open_adapter_file(tmp_path / "c.safetensors").metadata
    assert {key: found.get(key) for key in metadata} == {**metadata, "sshs_model_hash": None}
    assert [(step["from"], step["to"], step.get("rank")) for step in json.loads(found["bwlab.history"])] == [
        ("a.safetensors", "kohya", 2),
        ("b.safetensors", "diffusers", None),
    ]
    assert json.loads(found["lora_adapter_metadata"])["unet.r"] == 2


def test_keys_that_nobody_understands_stop_it(tmp_path: Path, manager: PluginManager) -> None:
    strange = ["strange.a", "strange.b"]
    tensors = {key: in_dtype(np.ones(2), "F32") for key in strange}
    source = adapter(tmp_path, "a", RANKS)
    file = open_adapter_file(source)
    write_tensors(source, {**{key: file.tensor(key) for key in file.entries}, **tensors}, {})
    target = Target(tmp_path / "b.safetensors")
    with pytest.raises(
        BwlabError, match=r"2 keys that no reader understands, first strange\.a\. Leave them out with --drop"
    ):
        convert(Conversion(source, target), manager)
    outcome = convert(Conversion(source, target, drop_unknown=True), manager)
    assert outcome.notes == ("left out: 2 keys that no reader understands, first strange.a",)
    assert set(deltas(target.path)) == set(PATHS)


class Hostile:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    tmp_path: Path, manager: PluginManager, suffix: str, by_torch: bool
) -> None:
    planted, source = tmp_path / "planted", tmp_path / f"evil{suffix}"
    content = {"lora_unet_conv_in.lora_up.weight": torch.ones(2, 2), "x": Hostile(planted)}
    if by_torch:
        torch.save(content, source)
    else:
        source.write_bytes(pickle.dumps(Hostile(planted)))
    with pytest.raises(BwlabError, match="could run code, so it was not loaded"):
        convert(Conversion(source, Target(tmp_path / "out.safetensors")), manager)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]
    if by_torch:
        torch.load(source, weights_only=False)
    else:
        pickle.loads(source.read_bytes())
    assert planted.exists()  # It is hostile indeed.


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(Path("a.pt")), r"kohya is a \.safetensors file\. Give a path that ends in \.safetensors"),
        (Target(Path("a.safetensors"), "peft"), "peft is a folder"),
        (
            Target(Path("b.safetensors"), "kohia"),
            r"no such form\. Did you mean kohya\? Known: kohya, ldm, diffusers, peft",
        ),
        (Target(Path("b.safetensors"), dtype="fp61"), r"--dtype fp61: no such dtype\. Did you mean fp16\? Known: fp32"),
        (Target(Path("taken.safetensors")), "the path exists. Choose another path, or give --overwrite"),
        (Target(Path("no/b.safetensors")), r"there is no folder .*no\. Make it"),
    ],
)
def test_a_wrong_target_is_one_line(tmp_path: Path, manager: PluginManager, target: Target, message: str) -> None:
    source = adapter(tmp_path, "a", {IN0: 2})
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    there = Target(tmp_path / target.path, target.form, target.dtype)
    with pytest.raises(BwlabError, match=message):
        convert(Conversion(source, there), manager)
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "taken.safetensors"}


@pytest.mark.parametrize("rank", [0, -1, 5000])
def test_a_senseless_rank(tmp_path: Path, manager: PluginManager, rank: int) -> None:
    source = adapter(tmp_path, "a", {IN0: 2})
    with pytest.raises(BwlabError, match=f"--rank {rank}: out of range. Give 1 to 4096"):
        convert(Conversion(source, Target(tmp_path / "b.safetensors"), rank=rank), manager)


def test_blocks_that_leave_nothing(tmp_path: Path, manager: PluginManager) -> None:
    source = adapter(tmp_path, "a", {IN0: 2})
    with pytest.raises(BwlabError, match=r"every module \(1\) is in a block with the scale 0"):
        convert(Conversion(source, Target(tmp_path / "b.safetensors"), blocks="in0=0"), manager)


def test_nan_is_refused(tmp_path: Path, manager: PluginManager) -> None:
    bad = lora(IN0, 2, 2.0, 0)
    leaves = {**bad.leaves, "lora_up.weight": in_dtype(np.full((11, 2), np.float32(1.0)), "F32")}
    source = written(tmp_path / "a.safetensors", [ModuleWeights(IN0, "lora", leaves, 2.0)])
    data = source.read_bytes()
    source.write_bytes(data[:-4] + np.array(np.nan, "<f4").tobytes())
    with pytest.raises(BwlabError, match="NaN or infinite"):
        convert(Conversion(source, Target(tmp_path / "b.safetensors")), manager)


LOW_RANK = ("lora", "tucker")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_algorithm_of_lycoris(tmp_path: Path, manager: PluginManager, case: Case) -> None:
    source, out = write_case(case, tmp_path), tmp_path / "out.safetensors"
    convert(Conversion(source, Target(out)), manager)
    before, after = read_contents(source), read_contents(out)
    assert {path: one.algorithm for path, one in after.modules.items()} == dict.fromkeys(before.modules, case.algorithm)
    for path, module in before.modules.items():
        assert set(after.modules[path].leaves) == set(module.leaves)
    if case.algorithm in LOW_RANK:
        convert(Conversion(source, Target(tmp_path / "d.safetensors", "diffusers")), manager)
        assert all(
            relative(delta, deltas(before)[path]) < 1e-6 for path, delta in deltas(tmp_path / "d.safetensors").items()
        )
        return
    with pytest.raises(
        BwlabError, match=f"{len(before.modules)} of its {len(before.modules)} modules? cannot be expressed"
    ):
        convert(Conversion(source, Target(tmp_path / "d.safetensors", "diffusers")), manager)


def test_the_way_out_is_named(tmp_path: Path, manager: PluginManager) -> None:
    ways = {
        "loha": r"\(3 x loha\).*Approximate it by LoRA with --rank N, or write it as kohya or ldm",
        "diag-oft": r"Approximate it by LoRA with --rank N and --base BASE, or",
        "norm": "Write it as kohya or ldm, which hold norms and biases too",
    }
    for case in CASES:
        if case.name in ways:
            with pytest.raises(BwlabError, match=ways[case.name]):
                convert(
                    Conversion(write_case(case, tmp_path), Target(tmp_path / "d.safetensors", "diffusers")), manager
                )


def test_loha_becomes_lora_by_rank(tmp_path: Path, manager: PluginManager) -> None:
    case = next(case for case in CASES if case.name == "loha")
    source, out = write_case(case, tmp_path), tmp_path / "d.safetensors"
    with pytest.raises(BwlabError, match="linear in some models and a convolution in others"):
        convert(Conversion(source, Target(out, "diffusers"), rank=9), manager)
    convert(Conversion(source, Target(out, "diffusers"), rank=9, blocks="in1=0"), manager)
    before, after = deltas(source), deltas(out)
    assert len(after) == 2
    assert all(relative(delta, before[path]) < 1e-6 for path, delta in after.items())
    shapes = {path: module.shape for path, module in read_contents(out).modules.items()}
    assert shapes["up_blocks.1.resnets.0.conv1"] == (13, 5, 3, 3)


def test_an_algorithm_that_needs_the_base_says_so(tmp_path: Path, manager: PluginManager) -> None:
    case = next(case for case in CASES if case.name == "dora")
    with pytest.raises(BwlabError, match="in proportion to itself, and no base model was given"):
        convert(Conversion(write_case(case, tmp_path), Target(tmp_path / "d.safetensors"), rank=2), manager)


def test_zero_deltas_are_left_out_when_resized(tmp_path: Path, manager: PluginManager) -> None:
    nothing = lora(MID, 2, 2.0, 0)
    zero = in_dtype(np.zeros(nothing.leaves["lora_up.weight"].shape, np.float32), "F32")
    dead = ModuleWeights(MID, "lora", {**nothing.leaves, "lora_up.weight": zero}, 2.0)
    source = written(tmp_path / "a.safetensors", [lora(IN0, 3, 2.0, 0), dead])
    outcome = convert(Conversion(source, Target(tmp_path / "b.safetensors"), rank=2), manager)
    assert set(deltas(tmp_path / "b.safetensors")) == {IN0}
    assert [fit.after for fit in outcome.fits] == [2, 0]
    assert SHAPES[MID] == (17, 19, 1, 1)
