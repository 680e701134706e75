"""Pickles are read without torch: what torch saved, and hostile ones in the time and memory of their size."""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bwlab.errors import BwlabError
from bwlab.formats.pickles import open_pickle
from tests.fuzz.checked import run_checked
from tests.fuzz.pickled import NEW, zipped

SHARED = torch.arange(24.0)
VALUES: dict[str, Callable[[], Any]] = {
    "a state dict": lambda: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(),
    "dtypes": lambda: {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (*(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
                      *(torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool))
    },
    "views": lambda: [
        SHARED.reshape(4, 6).T, SHARED[5:9], SHARED[::3], SHARED.reshape(2, 3, 4).permute(2, 0, 1), SHARED[3],
        torch.zeros(0, 3), torch.zeros(3, 0).T, torch.ones(1, 5).T, SHARED.bfloat16().reshape(4, 6).T,
    ],
    "parameters and more": lambda: {
        "state_dict": collections.OrderedDict(a=torch.nn.Parameter(torch.ones(2)), b={"c": [torch.ones(3), (4, 5)]}),
        "name": "fox", "epoch": 3, "rate": 1e-4, "none": None, "dtype": torch.float16, "shape": torch.ones(2, 3).shape,
        "device": torch.device("cpu"), "bytes": b"abc", "set": {1, 2}, "ints": {0: torch.ones(1)}, "large": 2**40,
    },
}  # fmt: skip


def tensors_of(value: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {prefix: value.detach()}
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for key, inner in entries:
        found |= tensors_of(inner, prefix if key == "state_dict" else f"{prefix}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("name", VALUES)
def test_tensors_are_those_that_torch_saved(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    value = VALUES[name]()
    torch.save(value, tmp_path / "a.pt", **how)
    wanted = tensors_of(value)
    file = open_pickle(tmp_path / "a.pt")
    assert file.entries.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert file.entries[key].shape == tuple(tensor.shape)
        read = file.read(key)
        whole = tensor if read.dtype == getattr(np, str(tensor.dtype).removeprefix("torch."), None) else tensor.float()
        np.testing.assert_array_equal(read, whole.numpy())
    with file.kept_open():
        np.testing.assert_array_equal(file.read(key), read)


def test_texts_are_metadata(tmp_path: Path) -> None:
    torch.save(VALUES["parameters and more"](), tmp_path / "a.pt")
    assert open_pickle(tmp_path / "a.pt").metadata == {"name": "fox"}


def test_numbers_that_are_to_be_negated_are_refused(tmp_path: Path) -> None:
    torch.save([torch.view_as_complex(torch.ones(3, 2)).conj().imag], tmp_path / "a.pt")
    with pytest.raises(BwlabError, match="it is broken"):
        open_pickle(tmp_path / "a.pt")


def tensor(shape: bytes, strides: bytes, size: bytes = b"K\1", offset: bytes = b"K\0") -> bytes:
    """Return the operations that make a tensor of the storage 0."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + size + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89}tR"


def called(function: bytes, argument: bytes) -> bytes:
    return b"c" + function + argument + b"\x85R."


def laughing(levels: int) -> bytes:
    """Return lists that hold the one before ten times."""
    pairs = ((bytes([level]), bytes([level + 1])) for level in range(levels))
    return b"]q\0" + b"".join(b"](" + (b"h" + before) * 10 + b"eq" + own for before, own in pairs) + b"."


def with_directory(size: int) -> bytes:
    """Return an archive with a directory of this size."""
    return b"PK\3\4" + b"\0" * size + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0, 0, size, 4, 0)


MANY = b"(" + b"K\1" * 100_000 + b"t"
GIGA = b"J\0\0\0\x7f"
LONG = b"\x8a\x08" + struct.pack("<q", 2**62)
ONE = b"K\1\x85"
DAMAGED_SIZE = struct.pack("<I", 2_400_000_000)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bytearray of 2 GB": (lambda: zipped(NEW + called(b"builtins\nbytearray\n", GIGA)), "no tensors"),
    "a storage of 8 GB": (lambda: zipped(NEW + called(b"torch\nFloatStorage\n", GIGA)), "could run code"),
    "a new storage of 8 GB": (
        lambda: zipped(NEW + b"ctorch\nFloatStorage\n" + GIGA + b"\x85\x81."), "could run code"
    ),
    "a tensor of 8 GB in 4 bytes": (
        lambda: zipped(NEW + tensor(GIGA + b"\x85", ONE) + b".", {"0": b"\0" * 4}), "4 bytes are stored"
    ),
    "a storage of 8 GB in 4 bytes": (
        lambda: zipped(NEW + tensor(GIGA + b"\x85", ONE, GIGA) + b".", {"0": b"\0" * 4}), "4 bytes are stored"
    ),
    "a tensor of 8 GB of one number": (
        lambda: zipped(NEW + tensor(GIGA + b"\x85", b"K\0\x85") + b".", {"0": b"\0" * 4}), "4 bytes are stored"
    ),
    "a tensor beyond its storage": (
        lambda: zipped(NEW + tensor(ONE, ONE, b"K\1", LONG) + b".", {"0": b"\0" * 4}), "4 bytes are stored"
    ),
    "a tensor of 2**62 x 2**62": (
        lambda: zipped(NEW + tensor(LONG + LONG + b"\x86", LONG + LONG + b"\x86") + b".", {"0": b"\0" * 4}),
        "4 bytes are stored",
    ),
    "10,000 tensors of one storage": (
        lambda: zipped(NEW + b"](" + tensor(b"M\x88\x13\x85", ONE, b"M\x88\x13") + b"q\0" + b"h\0" * 9999 + b"e.",
                       {"0": b"\0" * 20_000}), "bytes together",
    ),
    "lists that hold each other": (lambda: zipped(NEW + laughing(40)), "too often"),
    "a list that holds itself": (lambda: zipped(NEW + b"]q\0h\0a."), "too often"),
    "100,000 nested lists": (lambda: zipped(NEW + b"]" * 100_000 + b"a" * 99_999 + b"."), "too often"),
    "a key of 100,000 nested tuples": (
        lambda: zipped(NEW + b"})" + b"\x85" * 100_000 + b"Ns."), "it is broken"
    ),
    "one million lists": (lambda: zipped(NEW + b"]" * 1_000_000 + b"."), "it is broken"),
    "the memo at 2**31": (lambda: zipped(NEW + b"Nr\xff\xff\xff\x7f."), "no tensors"),
    "a text of 2 GB": (lambda: zipped(NEW + b"X\xff\xff\xff\x7f."), "it is broken"),
    "a number of a million digits": (lambda: zipped(NEW + b"L" + b"9" * 1_000_000 + b"L\n."), "it is broken"),
    "a shape of 100,000 sizes": (
        lambda: zipped(NEW + tensor(MANY, MANY) + b".", {"0": b"\0" * 4}),
        "it is broken",
    ),
    "a long name many times": (
        lambda: zipped(NEW + b"X\x40\x42\x0f\0" + b"a" * 1_000_000 + b"q\0" + b"h\0h\0\x93" * 50_000 + b"."),
        "could run code",
    ),
    "a zip bomb": (
        lambda: zipped(NEW + tensor(ONE, ONE) + b".", {"0": b"\0" * 20_000_000}, zipfile.ZIP_DEFLATED),
        "compressed record",
    ),
    "a pickle of 2.4 GB that is not there": (
        lambda: patched(zipped(NEW + b"]."), b"archive/data.pkl"), "it has 2,400,000,000 bytes"
    ),
    "a storage of 2.4 GB that is not there": (
        lambda: patched(zipped(NEW + tensor(GIGA + b"\x85", ONE, GIGA) + b".", {"0": b"\0" * 4}), b"archive/data/0"),
        "bytes are stored",
    ),
    "a directory of 5 MB": (lambda: with_directory(5_000_000), "bytes beside the tensors"),
    "a function of Python": (lambda: zipped(NEW + called(b"os\nsystem\n", b"X\4\0\0\0true")), "needs os.system"),
    "a function that is only named": (lambda: zipped(NEW + b"cos\nsystem\n."), "needs os.system"),
    "pickles of Python": (lambda: pickle.dumps({"a": 1}), "it is broken"),
    "tensors of one key": (
        lambda: zipped(NEW + b"}(" + b"X\1\0\0\0" + b"0" + tensor(ONE, ONE) + b"K\0" + tensor(ONE, ONE) + b"u.",
                       {"0": b"\0" * 4}), "two values have the key 0",
    ),
}  # fmt: skip


def patched(content: bytes, name: bytes) -> bytes:
    """Return an archive whose directory says that the record of this name has 2.4 GB."""
    record = content.rindex(name) - 46
    return content[: record + 20] + DAMAGED_SIZE * 2 + content[record + 28 :]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_end_with_one_line(name: str, tmp_path: Path) -> None:
    make, found = HOSTILE[name]
    content, path = make(), tmp_path / "a.pt"
    path.write_bytes(content)
    assert run_checked(["convert", path, tmp_path / "out.safetensors", "--to", "kohya"], tmp_path, len(content)) == 2
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BwlabError, match=found):
        open_pickle(path)
