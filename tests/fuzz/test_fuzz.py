"""Whatever a file holds, commands end with an answer or with one line of error: files broken at random.

`make fuzz ARGS="--minutes 30"` breaks more of them. Files that once broke a promise are written down below as what was
wrong with them.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwlab.cli.app import main
from bwlab.formats.read import read_contents
from tests.analysis.kohya import adapter_tensors, kohya
from tests.fuzz.__main__ import Plan, guided, names
from tests.fuzz.checked import Broken, run_checked
from tests.fuzz.mutations import damaged, mutated
from tests.fuzz.raw import RawFile, RawTensor, copied
from tests.fuzz.readers import READERS, corpus
from tests.fuzz.targets import ADAPTER_COMMANDS, Bench

FILES = 1200
PARTS = 4
EACH = FILES // PARTS


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("part", range(PARTS))
def test_files_broken_at_random(part: int, bench: Bench) -> None:
    """Half of them are adapters, each read by a command drawn at random."""
    others = [target for name, target in bench.targets.items() if name not in ("adapter", "training-state")]
    for number in range(part * EACH, (part + 1) * EACH):
        random = Random(number)
        target = bench.targets["adapter"] if number % 2 else others[number // 2 % len(others)]
        content = target.broken(random)
        found = bench.run(target, content, [random.choice(target.commands)])
        assert found == [], f"file {number}: {found}"


@pytest.mark.slow
@pytest.mark.usefixtures("pipelines_are_read")
def test_states_of_a_stopped_training_broken_at_random(bench: Bench) -> None:
    """A run resumes from the whole state, and from a broken one or not; half of the broken have a right checksum."""
    target = bench.targets["training-state"]
    for number in range(15):
        found = bench.run(target, target.broken(Random(number)), target.commands)
        assert found == [], f"file {number}: {found}"
    assert bench.run(target, bench.stopped.state, target.commands, code=0) == []


@pytest.mark.parametrize("name", READERS)
def test_the_saved_corpus_and_damaged_copies_of_it(name: str) -> None:
    """Bytes that once broke a reader, or that reach most of it, and some 20 damaged copies of each."""
    saved = corpus(name)
    assert saved
    for path in saved:
        whole = path.read_bytes()
        READERS[name](whole)
        for number in range(20):
            READERS[name](damaged(whole, Random(number)))


def test_each_reader_has_a_corpus_and_guided_fuzzing_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names() == sorted(READERS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        guided(names(), Plan(0, None, 1.0, None, None, tmp_path))


@settings(max_examples=50)
@given(random=st.randoms(use_true_random=False), name=st.sampled_from(["kohya", "tucker", "lokr", "loha", "peft"]))
def test_a_broken_file_that_hypothesis_draws(random: Random, name: str, bench: Bench) -> None:
    content = mutated(bench.files[name], random)
    assert bench.run(bench.targets["adapter"], content, ["inspect FILE --json"]) == []


PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = kohya(PATH)


def lora(**leaves: tuple[str, list[int]]) -> RawFile:
    """Return a file of one module; a double underscore stands for the dot of a leaf's name."""
    tensors = {
        f"{NAME}.{leaf.replace('__', '.')}": RawTensor(*entry, b"\x01").filled() for leaf, entry in leaves.items()
    }
    return RawFile(tensors)


FOUND: dict[str, tuple[Callable[[], RawFile], str]] = {
    "69 dimensions": (
        lambda: lora(lora_down__weight=("F32", [3, 67, *[1] * 67]), lora_up__weight=("F32", [61, 3])),
        "dimensions",
    ),
    "an up of integers": (
        lambda: lora(lora_down__weight=("F32", [3, 67]), lora_up__weight=("I64", [61, 3]), alpha=("F32", [])),
        "",
    ),
    "a down beyond float32": (
        lambda: lora(lora_down__weight=("F64", [3, 67]), lora_up__weight=("F64", [61, 3])),
        "",
    ),
    "an alpha that divided by the rank is 0": (
        lambda: RawFile(lora(lokr_w1_a=("F32", [3, 2]), lokr_w1_b=("F32", [2, 5]), lokr_w2=("F32", [7, 11])).tensors
                        | {f"{NAME}.alpha": RawTensor("F64", [], struct.pack("<d", 5e-324))}),
        "",
    ),
    "an alpha beyond float32": (
        lambda: RawFile(lora(lora_down__weight=("F32", [3, 67]), lora_up__weight=("F32", [61, 3])).tensors
                        | {f"{NAME}.alpha": RawTensor("F64", [], struct.pack("<d", 1e200))}),
        "",
    ),
    "LoKr with a w1 of four dimensions": (
        lambda: lora(lokr_w1=("F32", [3, 5, 1, 1]), lokr_w2=("F32", [7, 11])),
        "do not make a lokr",
    ),
    "LoKr with a whole w2 and a factor of it": (
        lambda: lora(lokr_w1=("F32", [3, 5]), lokr_w2=("F32", [7, 11]), lokr_w2_b=("F32", [])),
        "both lokr_w2 and lokr_w2_b",
    ),
    "300,000 x 300,000": (
        lambda: lora(lora_down__weight=("F16", [1, 300_000]), lora_up__weight=("F16", [300_000, 1])),
        "no layer of a known model",
    ),
    "LoKr 700 x 700 twice": (
        lambda: lora(lokr_w1=("U8", [700, 700]), lokr_w2=("U8", [700, 700])),
        "no layer of a known model",
    ),
    "LoHa 20,000 x 20,000": (
        lambda: lora(
            **{f"hada_w{which}_{side}": ("F16", shape) for which in "12" for side, shape in
               (("a", [20_000, 1]), ("b", [1, 20_000]))}
        ),
        "no layer of a known model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ADAPTER_COMMANDS)
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str, command: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    make, _ = FOUND[name]
    assert bench.run(bench.targets["adapter"], make().to_bytes(), [command]) == []


@pytest.mark.parametrize("name", [name for name, (_, found) in FOUND.items() if found])
def test_what_is_refused_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, found = FOUND[name]
    (tmp_path / "a.safetensors").write_bytes(make().to_bytes())
    with pytest.raises(SystemExit) as end:
        main(["analyze", "norms", str(tmp_path / "a.safetensors")])
    assert end.value.code == 2
    assert found in capsys.readouterr().err


def printed(text: str) -> Callable[[Path], None]:
    def act(_folder: Path) -> None:
        sys.stdout.write(text)

    return act


def raising(_folder: Path) -> None:
    raise ValueError("a defect")


def writing(folder: Path) -> None:
    (folder.parent / "outside").write_text("x")


def running(_folder: Path) -> None:
    os.system("true")


def filling(_folder: Path) -> None:
    assert b"\1" * 400_000_000


@pytest.mark.parametrize("name", ["diffusers", "peft"])
@pytest.mark.parametrize("command", ADAPTER_COMMANDS)
def test_a_down_of_no_dimensions(name: str, command: str, bench: Bench) -> None:
    file = copied(bench.files[name])
    down = next(key for key in file.tensors if "lora_A" in key)
    file.tensors[down] = RawTensor("F32", [], b"\1").filled()
    assert bench.run(bench.targets["adapter"], file.to_bytes(), [command]) == []


@pytest.mark.parametrize(
    ("act", "broken"),
    [
        (raising, "ValueError"),
        (writing, "writes"),
        (running, "os.system"),
        (filling, "memory"),
        (printed("\x1b[2J"), "control character"),
        (printed("norm nan"), "as a number"),
    ],
)
def test_the_fuzzer_sees_a_broken_promise(
    act: Callable[[Path], None], broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()

    def faulty(_words: list[str]) -> None:
        act(tmp_path / "in")
        raise SystemExit(0)

    monkeypatch.setattr("bwlab.cli.app.main", faulty)
    with pytest.raises(Broken, match=broken):
        run_checked(["analyze", "norms", "x"], tmp_path / "in", 100)


def test_the_seeds_are_whole(bench: Bench) -> None:
    """Every file that the fuzzer starts from is read without an error, or the fuzzer would see errors alone."""
    names = {"kohya", "half", "ldm", "diffusers", "peft", "lora", "tucker", "loha", "lokr", "dora", "glora", "full"}
    assert names <= set(bench.files)
    assert len(bench.files) > 25
    assert adapter_tensors(0).keys() == bench.files["kohya"].tensors.keys()
    for path in sorted(bench.seeds.glob("*.safetensors")):
        assert read_contents(path).dialect
