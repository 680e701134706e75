"""The contract of file formats finds readers and writers that break it, clause by clause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from bwlab.formats.contents import AdapterContents, ParsedKey, assemble
from bwlab.formats.dialects import READERS, WRITERS
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.safetensors import AdapterFile, write_tensors
from bwlab.formats.tensors import LazyTensor
from bwlab.formats.types import FormatReader, FormatWriter
from bwlab.testing import FormatContract, run_format_contract
from bwlab.testing.formats import FORMAT_CLAUSES

NAMES = sorted({*(reader.name for reader in READERS), *(writer.name for writer in WRITERS)})
READ_BACK, ORDER = "what is written is read back", "the order of keys does not matter"


def built_in(name: str) -> tuple[FormatReader | None, FormatWriter | None]:
    readers = (reader for reader in READERS if reader.name == name)
    writers = (writer for writer in WRITERS if writer.name == name)
    return next(readers, None), next(writers, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_format_fulfils_each_clause(name: str) -> None:
    assert [(clause, error) for clause, error in run_format_contract(*built_in(name)) if error] == []


def test_what_is_left_out_is_named() -> None:
    clauses = [clause for clause, _ in run_format_contract(*built_in("lycoris"))]
    assert f"{READ_BACK} (left out: no writer has this name)" in clauses
    assert f"{ORDER} (left out: no writer has this name, and no example file is given)" in clauses
    clauses = [clause for clause, _ in run_format_contract(*built_in("peft"))]
    assert "a failed write leaves what was there (left out: it writes a folder)" in clauses
    clauses = [clause for clause, _ in run_format_contract(*built_in("comfyui"))]
    assert "own files are recognised (left out: no reader has this name)" in clauses
    assert not [clause for clause, _ in run_format_contract(READER, WRITER) if "left out" in clause]


def recognises(keys: Any, metadata: Mapping[str, str]) -> bool:
    return any("|" in key for key in keys)


def read(file: AdapterFile) -> AdapterContents:
    parsed = [ParsedKey(key, key.split("|")[0], key.split("|")[1]) for key in file.entries if "|" in key]
    return assemble(file, "own", parsed, unknown=[key for key in file.entries if "|" not in key])


def tensors_of(contents: AdapterContents) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for module in contents.modules.values():
        alpha = {} if module.alpha is None else {"alpha": LazyTensor.of(np.array(module.alpha, np.float32))}
        tensors |= {f"{module.path}|{leaf}": tensor for leaf, tensor in {**module.leaves, **alpha}.items()}
    return tensors


def write(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    write_tensors(path, tensors_of(contents), contents.metadata, dtype)


READER = FormatReader("own", "own", recognises, read)
WRITER = FormatWriter("own", "own", lambda module: True, write)


class TestSound(FormatContract):
    reader = READER
    writer = WRITER


def test_the_kit_has_a_test_for_each_clause() -> None:
    tests = {name.removeprefix("test_") for name in vars(FormatContract) if name.startswith("test_")}
    assert tests == {clause.__name__ for clause in FORMAT_CLAUSES}


def without_alpha(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    modules = {name: replace(one, alpha=None) for name, one in contents.modules.items()}
    write(replace(contents, modules=modules), path, dtype)


def without_metadata(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    write(replace(contents, metadata={}), path, dtype)


def without_the_last(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    write(replace(contents, modules=dict(list(contents.modules.items())[:-1])), path, dtype)


def in_its_own_dtype(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    write(contents, path, None)


def with_the_time(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    write(replace(contents, metadata={**contents.metadata, "file": path.name}), path, dtype)


def in_place(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    path.write_bytes(b"")
    write(contents, path, dtype)


def beside_it(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    (path.parent / "unfinished").write_bytes(b"")
    write(contents, path, dtype)
    (path.parent / "unfinished").unlink()


def what_can_be_read(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    tensors = {}
    for key, tensor in tensors_of(contents).items():
        try:
            tensor.read()
        except RuntimeError:
            continue
        tensors[key] = tensor
    write_tensors(path, tensors, contents.metadata, dtype)


def by_first_key(file: AdapterFile) -> AdapterContents:
    """Take the module of the first key for the only one."""
    first = next(iter(file.entries)).split("|")[0]
    parsed = [ParsedKey(key, first, key.split("|")[1]) for key in file.entries if key.startswith(f"{first}|")]
    return assemble(file, "own", parsed)


def losing_strange_keys(file: AdapterFile) -> AdapterContents:
    return replace(read(file), unknown=())


def marking(file: AdapterFile) -> AdapterContents:
    contents = read(file)
    file.path.write_bytes(file.path.read_bytes() + b" ")
    return contents


@pytest.mark.parametrize(
    ("reader", "writer", "clauses"),
    [
        ({}, {}, set()),
        ({"name": "Own Format"}, {}, {"names can be typed"}),
        ({}, {"summary": "two\nlines"}, {"names can be typed"}),
        ({}, {"write": without_alpha}, {READ_BACK}),
        ({}, {"write": without_metadata}, {READ_BACK}),
        ({}, {"write": without_the_last}, {READ_BACK, "a failed write leaves what was there"}),
        ({}, {"expresses": lambda module: False}, None),
        ({"recognises": lambda keys, metadata: False}, {}, {"own files are recognised", READ_BACK}),
        ({"recognises": lambda keys, metadata: "|" in next(iter(keys), "")}, {}, set()),
        ({"recognises": lambda keys, metadata: list(keys) == sorted(keys)}, {}, None),
        ({"recognises": lambda keys, metadata: True}, {}, {"files of others are not claimed"}),
        ({"recognises": lambda keys, metadata: bool(metadata)}, {}, {"files of others are not claimed"}),
        ({"read": by_first_key}, {}, {READ_BACK, ORDER, "keys that are not understood are listed"}),
        ({"read": losing_strange_keys}, {}, {"keys that are not understood are listed"}),
        ({"read": marking}, {}, {"reading leaves the file"}),
        ({}, {"write": in_its_own_dtype}, {"the dtype is that asked for"}),
        ({}, {"write": with_the_time}, {"writing twice gives the same bytes"}),
        ({}, {"write": in_place}, {"a failed write leaves what was there"}),
        ({}, {"write": beside_it}, {"a failed write leaves what was there"}),
        ({}, {"write": what_can_be_read}, {"a failed write leaves what was there"}),
    ],
)
def test_a_broken_format_is_found(reader: dict[str, Any], writer: dict[str, Any], clauses: set[str] | None) -> None:
    """None stands for: at least the clause on reading or recognising."""
    found = {name for name, error in run_format_contract(replace(READER, **reader), replace(WRITER, **writer)) if error}
    if clauses is None:
        assert found & {READ_BACK, "own files are recognised"}
    else:
        assert found == clauses


def test_a_reader_alone_is_checked_on_an_example(tmp_path: Path) -> None:
    numbers = np.ones((3, 5), np.float32)
    file = tmp_path / "example.safetensors"
    safetensors.numpy.save_file({"mid_block.resnets.0.time_emb_proj|diff": numbers}, file)
    assert [error for _, error in run_format_contract(READER, None, file) if error] == []
    broken = replace(READER, read=losing_strange_keys)
    found = [clause for clause, error in run_format_contract(broken, None, file) if error]
    assert found == ["keys that are not understood are listed"]


def test_a_module_that_cannot_be_expressed_is_not_written() -> None:
    def lora_alone(contents: AdapterContents, path: Path, dtype: str | None) -> None:
        assert all(module.is_lora for module in contents.modules.values())
        write(contents, path, dtype)

    def is_lora(module: ModuleWeights) -> bool:
        return module.is_lora

    honest = replace(WRITER, write=lora_alone, expresses=is_lora)
    assert [error for _, error in run_format_contract(READER, honest) if error] == []
    found = {
        clause for clause, error in run_format_contract(READER, replace(honest, expresses=lambda _: True)) if error
    }
    assert READ_BACK in found
