"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bwlab import files as atomic
from bwlab.errors import BwlabError
from bwlab.files import write_atomically


def full_disk(path: Path, pieces: Iterable[bytes]) -> None:
    """Write half, then finds the disk full."""
    data = b"".join(pieces)
    path.write_bytes(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("sync")
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "x.bin", b"one")
    assert events == ["sync", "rename", "sync"]


def test_a_full_disk_leaves_the_earlier_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    write_atomically(path, b"before")
    monkeypatch.setattr(atomic, "_write_and_sync", full_disk)
    with pytest.raises(BwlabError, match="No space left on device; the earlier file is untouched"):
        write_atomically(path, b"after, and longer")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_write_and_sync", full_disk)
    with pytest.raises(BwlabError, match=r"No space left on device\. Free"):
        write_atomically(tmp_path / "x.bin", b"after")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        full_disk_path, pieces = args
        full_disk_path.write_bytes(b"".join(pieces)[:2])
        raise KeyboardInterrupt

    path = tmp_path / "x.bin"
    write_atomically(path, b"before")
    monkeypatch.setattr(atomic, "_write_and_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="No such file or directory"):
        write_atomically(tmp_path / "none" / "x.bin", b"one")
