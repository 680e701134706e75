"""`bwlab convert`, `merge` and `extract` as users see them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from safetensors.numpy import save_file

import bwlab
from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab.formats.dialects.kohya import kohya_tensors
from bwlab.formats.keys import kohya_name_of
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file, write_tensors
from bwlab.formats.tensors import LazyTensor, in_dtype
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from tests.merging.made import IN0, IN1, MID, TE, adapter, deltas, lora, relative, written


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line; blanks at the ends of lines are dropped."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), "\n".join(line.rstrip() for line in out.splitlines()), err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    return tmp_path


def with_embedding(source: Path, token: str) -> NDArray[np.float32]:
    """Add the embedding of a token to an adapter file as trainers store it, and return its numbers."""
    values = np.random.default_rng(7).standard_normal((2, 768)).astype(np.float32)
    file = open_adapter_file(source)
    tensors = {key: LazyTensor.of(file.read(key), key) for key in file.entries}
    write_tensors(source, {**tensors, f"bundle_emb.{token}.string_to_param.*": LazyTensor.of(values)}, {})
    return values


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a", ["convert", "a.safetensors", "a.safetensors"]),
        ("a-s1", ["convert", "a-s1.safetensors", "a.safetensors"]),
        ("a", ["merge", "a.safetensors", "other.safetensors", "--out", "a.safetensors"]),
    ],
)
def test_embeddings_of_a_file_that_is_written_over_are_kept(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, command: list[str]
) -> None:
    source = adapter(here, name, {IN0: 2, TE: 4})
    adapter(here, "other", {IN0: 2})
    before, values = deltas(source), with_embedding(source, "<s1>")
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert np.array_equal(safetensors.numpy.load_file(here / "a-s1.safetensors")["<s1>"], values)
    assert relative(deltas(here / "a.safetensors")[TE], before[TE]) < 1e-6


def contents_of_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_peft_is_replaced_as_a_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(here, "a", {IN0: 2, TE: 4})
    convert_to = ("--to", "peft", "--overwrite")
    assert run(capsys, "convert", "a.safetensors", "out", *convert_to)[0] == 0
    (here / "out" / "mine.txt").write_text("mine")
    before = contents_of_folder(here / "out")
    assert len(before) == 5
    # A number that becomes infinite in the last file stops all of them.
    broken = lora(TE, 4, 2.0, 1)
    up = in_dtype(broken.leaves["lora_up.weight"].numbers() * 1e9, "F32")
    written(
        here / "b.safetensors",
        [lora(IN0, 2, 2.0, 1), ModuleWeights(TE, "lora", {**broken.leaves, "lora_up.weight": up}, 2.0)],
    )
    for folder in ("out", "new"):
        code, _, err = run(capsys, "convert", "b.safetensors", folder, *convert_to, "--dtype", "fp16")
        assert (code, "does not fit" in err) == (2, True)
    assert contents_of_folder(here / "out") == before
    assert not (here / "new").exists()
    assert run(capsys, "convert", "a.safetensors", "out", *convert_to, "--blocks", "te=0")[0] == 0
    assert contents_of_folder(here / "out").keys() == {name for name in before if not name.startswith("text_encoder")}
    assert not (here / "out" / "text_encoder").exists()


def test_convert_tells_what_it_wrote(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = adapter(here, "a", {IN0: 2, MID: 3})
    assert run(capsys, "convert", "a.safetensors", "b.safetensors", "--to", "diffusers", "--dtype", "fp16") == (
        0,
        "b.safetensors: 2 modules",
        "",
    )
    assert read_contents(here / "b.safetensors").dialect == "diffusers"
    assert relative(deltas(here / "b.safetensors")[MID], deltas(source)[MID]) < 1e-3
    code, out, err = run(capsys, "convert", "a.safetensors", "b.safetensors")
    assert (code, out) == (2, "")
    assert err == ("bwlab: error: writing b.safetensors: the path exists. Choose another path, or give --overwrite\n")
    assert run(capsys, "convert", "a.safetensors", "b.safetensors", "--overwrite")[0] == 0


def test_energies_are_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eye = np.eye(7, dtype=np.float32)
    values = np.array([4, 3, 2, 1, 1], np.float32)
    up = np.concatenate([np.diag(values), np.zeros((6, 5), np.float32)])
    one = ModuleWeights(IN0, "lora", leaves(up, eye[:5]), 5.0)
    two = ModuleWeights(TE, "lora", leaves(9 * np.eye(31, 3, dtype=np.float32), np.eye(3, 37, dtype=np.float32)), 3.0)
    none = ModuleWeights(
        MID, "lora", leaves(np.zeros((17, 2, 1, 1), np.float32), np.ones((2, 19, 1, 1), np.float32)), 2.0
    )
    written(here / "a.safetensors", [one, two, none])
    code, out, err = run(capsys, "convert", "a.safetensors", "b.safetensors", "--rank", "3", "--blocks", "te=0.5")
    assert (code, err) == (0, "")
    assert out == (
        "\n"
        " block  modules  rank before  rank  energy kept  relative error\n"
        " ───────────────────────────────────────────────────────────────\n"
        " te           1            3     3      100.00%        0.00e+00\n"
        " in0          1            5     3       93.55%        2.54e-01\n"
        " mid          1            2     0      100.00%        0.00e+00\n"
        "\n"
        " all          3          2-5   0-3       97.82%        1.48e-01\n"
        "\n"
        "b.safetensors: 2 modules\n"
        "left out: 1 module whose delta is zero"
    )


def leaves(up: NDArray[np.float32], down: NDArray[np.float32]) -> dict[str, LazyTensor]:
    return {"lora_up.weight": in_dtype(up, "F32"), "lora_down.weight": in_dtype(down, "F32")}


def test_merge_and_choose(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(here, "a", {IN0: 2, MID: 3}, 1)
    adapter(here, "b", {MID: 2, IN1: 2}, 2)
    sum_ = ("merge", "a.safetensors", "b.safetensors", "--out", "c.safetensors")
    assert run(capsys, *sum_, "--scale", "0.5", "--scale", "mid=2") == (0, "c.safetensors: 3 modules", "")
    a, b = deltas(here / "a.safetensors"), deltas(here / "b.safetensors")
    assert relative(deltas(here / "c.safetensors")[MID], 0.5 * a[MID] + 2 * b[MID]) < 1e-6
    assert run(capsys, *sum_, "--overwrite", "--choose", "mid=B, *=A")[1] == "c.safetensors: 2 modules"
    assert set(deltas(here / "c.safetensors")) == {IN0, MID}
    code, out, _ = run(capsys, *sum_, "--overwrite", "--method", "ties", "--rank", "3")
    assert (code, out.splitlines()[1]) == (0, " block  modules  rank before  rank  energy kept  relative error")
    for more, message in (
        (
            ("--rank", "3", "--into", "emoji"),
            "--rank with --into: a base model is written, which holds every delta exactly.",
        ),
        (("--to", "peft", "--into", "emoji"), "--to with --into: a base model is written"),
        (("--method", "ties"), "is dense. Give the rank of the result (--rank N)"),
    ):
        code, out, err = run(capsys, *sum_, "--overwrite", *more)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_merge_into_and_extract(
    here: Path, capsys: pytest.CaptureFixture[str], tiny_pipeline: Path, manager: PluginManager
) -> None:
    path = "mid_block.resnets.0.conv1"
    weight = read_shape(tiny_pipeline / "unet", path)
    generator = np.random.default_rng(0)
    up, down = (
        generator.standard_normal(shape).astype(np.float32) for shape in ((weight[0], 2, 1, 1), (2, *weight[1:]))
    )
    written(here / "a.safetensors", [ModuleWeights(path, "lora", leaves(up, down), 2.0)])
    base = str(tiny_pipeline)
    assert run(capsys, "merge", "a.safetensors", "--into", base, "--out", "tuned") == (0, "tuned: 1 module", "")
    code, out, err = run(capsys, "extract", "tuned", base, "--rank", "2", "--out", "x.safetensors")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["x.safetensors: 1 module", "in all 100.00% of the squared change is captured"]
    assert relative(deltas(here / "x.safetensors")[path], deltas(here / "a.safetensors")[path]) < 1e-3


def read_shape(folder: Path, path: str) -> tuple[int, ...]:
    file = next(iter(folder.glob("*.safetensors")))
    return tuple(safetensors.numpy.load_file(file)[f"{path}.weight"].shape)


def test_embeddings_lie_beside(here: Path, manager: PluginManager) -> None:
    source = adapter(here, "a", {IN0: 2})
    file = read_contents(source)
    tensors = {f"lora_unet_{IN0.replace('.', '_')}.{leaf}": one for leaf, one in file.modules[IN0].leaves.items()}
    word, other = (in_dtype(np.full((2, 5), number, np.float32), "F32") for number in (1.0, 2.0))
    tensors |= {
        "bundle_emb.<fox>.string_to_param.*": word,
        "bundle_emb.ink.clip_l": word,
        "bundle_emb.ink.clip_g": other,
    }
    write_tensors(source, tensors, {})
    outcome = convert(Conversion(source, Target(here / "b.safetensors", "diffusers")), manager)
    assert [path.name for path in outcome.files] == ["b.safetensors", "b-fox.safetensors", "b-ink.safetensors"]
    assert set(read_contents(here / "b-fox.safetensors").embeddings) == {"<fox>"}
    both = read_contents(here / "b-ink.safetensors").embeddings
    assert {name: float(tensor.read().max()) for name, tensor in both.items()} == {"ink": 1.0, "te2:ink": 2.0}
    convert(Conversion(here / "b-ink.safetensors", Target(here / "c.safetensors")), manager)
    assert sorted(path.name for path in here.glob("c*")) == ["c-ink.safetensors"]
    (here / "c-ink.safetensors").write_bytes(b"mine")
    with pytest.raises(BwlabError, match="the path exists"):
        convert(Conversion(here / "b-ink.safetensors", Target(here / "c.safetensors")), manager)


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_a_conversion_takes_the_memory_of_a_tensor(tmp_path: Path, manager: PluginManager, form: str) -> None:
    names = [
        f"down_blocks.{level}.attentions.{pair}.transformer_blocks.0.attn1.to_q"
        for level in range(3)
        for pair in range(2)
    ]
    numbers = np.random.default_rng(0).standard_normal((64, 5000)).astype(np.float32)
    modules = [ModuleWeights(path, "lora", leaves(numbers.T, numbers), 64.0) for path in names]
    source = written(tmp_path / "a.safetensors", modules)
    size = source.stat().st_size
    tracemalloc.start()
    convert(Conversion(source, Target(tmp_path / "b.safetensors", form)), manager)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 15_000_000
    assert peak < 0.4 * size


def saved(path: Path, seed: int, dtype: str, metadata: dict[str, str] | None = None) -> Path:
    """Write an adapter of the middle block in a dtype."""
    modules = lora(MID, 3, 3.0, seed)
    write_tensors(path, kohya_tensors([modules], kohya_name_of), metadata or {}, dtype)
    return path


@pytest.mark.parametrize(
    ("dtypes", "options", "wanted"),
    [
        (("F16", "F16"), (), "F16"),
        (("BF16", "BF16"), (), "BF16"),
        (("F16", "F32"), (), "F32"),
        (("F16", "F16"), ("--dtype", "fp32"), "F32"),
        (("F32",), ("--rank", "2"), "F32"),
        (("F16",), ("--rank", "2"), "F16"),
        (("F16", "F16"), ("--method", "ties", "--rank", "3"), "F16"),
    ],
)
def test_a_merge_has_the_dtype_of_its_adapters(
    here: Path, capsys: pytest.CaptureFixture[str], dtypes: tuple[str, ...], options: tuple[str, ...], wanted: str
) -> None:
    files = [saved(here / f"{index}.safetensors", index, dtype) for index, dtype in enumerate(dtypes)]
    code, _, error = run(capsys, "merge", *map(str, files), "--out", "m.safetensors", *options)
    assert (code, error) == (0, "")
    entries = open_adapter_file(here / "m.safetensors").entries
    assert {entry.dtype for key, entry in entries.items() if not key.endswith("alpha")} == {wanted}


def test_a_model_keeps_its_dtype_when_adapters_are_folded_in(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    values = {f"{name}.lora_down.weight": np.ones((2, 64)), f"{name}.lora_up.weight": np.ones((64, 2))}
    save_file({key: value.astype(np.float32) for key, value in values.items()}, here / "a.safetensors")
    weights = Path(bwlab.__file__).parent / "data" / "emoji_base" / "unet" / "diffusion_pytorch_model.safetensors"
    for options, size in (((), 1.0), (("--dtype", "fp32"), 2.0)):
        out = here / f"out{len(options)}"
        assert run(capsys, "merge", "a.safetensors", "--into", "emoji", "--out", str(out), *options)[0] == 0
        written = out / "unet" / "diffusion_pytorch_model.safetensors"
        assert written.stat().st_size / weights.stat().st_size == pytest.approx(size, rel=0.05)


def test_a_merge_knows_its_parents(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def metadata(word: str, **more: str) -> dict[str, str]:
        tags = {"10_" + word: {word: 20, "1girl": 18}, "5_both": {"hat": 3}}
        known = {"ss_base_model_version": "sd_v1", "ss_output_name": word, "ss_tag_frequency": json.dumps(tags)}
        return known | {"modelspec.title": word, "modelspec.trigger_phrase": f"{word} style"} | more

    saved(here / "a.safetensors", 1, "F32", metadata("fox", sshs_model_hash="0" * 64))
    saved(here / "b.safetensors", 2, "F32", metadata("ink"))
    saved(here / "c.safetensors", 3, "F32", {"ss_tag_frequency": "no JSON"})
    assert run(capsys, "merge", *["a.safetensors", "b.safetensors", "--out", "m.safetensors"])[0] == 0
    found = open_adapter_file(here / "m.safetensors").metadata
    assert json.loads(found["ss_tag_frequency"]) == {
        "10_fox": {"fox": 20, "1girl": 18},
        "10_ink": {"ink": 20, "1girl": 18},
        "5_both": {"hat": 6},
    }
    assert found["modelspec.trigger_phrase"] == "fox style, ink style"
    assert found["modelspec.title"] == "fox + ink"
    assert found["ss_base_model_version"] == "sd_v1"
    assert [parent["ss_output_name"] for parent in json.loads(found["bwlab.parents"])] == ["fox", "ink"]
    assert "sshs_model_hash" not in found
    assert run(capsys, "merge", *["a.safetensors", "c.safetensors", "--out", "n.safetensors"])[0] == 0
    assert "10_fox" in open_adapter_file(here / "n.safetensors").metadata["ss_tag_frequency"]
