"""Files of torch as bytes: whole ones, and pickles of any operations in the zip archive that torch writes."""

from __future__ import annotations

import contextlib
import io
import pickletools
import zipfile
from collections.abc import Mapping
from random import Random
from typing import Any

import torch

from tests.analysis.kohya import adapter_tensors
from tests.fuzz.mutations import damaged

NEW = b"\x80\x02"
CALLS = (b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n")
PIECES = (
    *CALLS, b"(", b")", b"]", b"}", b"0", b"1", b"2", b".", b"R", b"b", b"s", b"u", b"a", b"e", b"t", b"l", b"d", b"Q",
    b"\x81", b"\x85", b"\x86", b"\x87", b"h\0", b"q\0", b"r\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"K\0", b"K\1",
    b"J\xff\xff\xff\xff", b"\x8a\x09\0\0\0\0\0\0\0\0\x7f", b"N", b"\x88", b"X\1\0\0\0a", b"X\xff\xff\xff\x7f",
    b"X\0\0\0\0", b"G\x7f\xf8\0\0\0\0\0\0", b"X\3\0\0\0\xed\xa0\x80", b"\x95\0\0\0\0\0\0\0\0", b"I10\n", b"V\\ud800\n",
    b"\x94",
)  # fmt: skip


def zipped(pickle: bytes, storages: Mapping[str, bytes] = {}, packed: int = zipfile.ZIP_STORED) -> bytes:
    """Return the zip archive of a pickle and the numbers of storages by key."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
        for key, numbers in storages.items():
            archive.writestr(f"archive/data/{key}", numbers)
    return file.getvalue()


def saved(value: object, **how: Any) -> bytes:
    """Return the file in which torch saves a value."""
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def whole_files() -> list[bytes]:
    """Return small whole files of both of torch's forms: an adapter, embeddings, and containers in containers."""
    adapter = {key: torch.from_numpy(value) for key, value in adapter_tensors(0).items()}
    embedding = {"string_to_param": {"*": torch.ones(2, 768).T.contiguous().T}, "name": "fox", "step": 5}
    wrapped = {"state_dict": {key: torch.nn.Parameter(value) for key, value in adapter.items()}, "epoch": 3}
    files = [saved(value) for value in (adapter, embedding, wrapped)]
    return [*files, *(saved(value, _use_new_zipfile_serialization=False) for value in (adapter, embedding))]


def _starts(pickle: bytes) -> list[int]:
    """Return where the operations of a pickle start, up to the first one that is broken."""
    starts = [0]
    with contextlib.suppress(ValueError):
        starts += [start or 0 for _, _, start in pickletools.genops(pickle)]
    return starts


def mutated_pickle(content: bytes, random: Random) -> bytes:
    """Return a file of torch with some operations of its pickle changed, or with damaged bytes."""
    if not zipfile.is_zipfile(io.BytesIO(content)) or random.random() < 0.2:
        return damaged(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickle = records["data.pkl"]
    for _ in range(random.randint(1, 3)):
        at, end = sorted(random.choice(_starts(pickle)) for _ in range(2))
        piece = random.choice(PIECES) * random.choice((1, 1, 1, 2, 1000))
        pickle = pickle[:at] + piece + pickle[end if random.random() < 0.2 else random.choice((at, at + 1)) :]
    storages = {name.removeprefix("data/"): numbers for name, numbers in records.items() if name.startswith("data/")}
    for key in random.sample(sorted(storages), min(len(storages), random.choice((0, 0, 1)))):
        storages[key] = storages[key][: random.randint(0, len(storages[key]))]
    return zipped(pickle, storages, random.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)))
