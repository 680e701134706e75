"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pytest

from bwlab import files as atomic
from bwlab.errors import BwlabError
from bwlab.files import new_folder, remove_unfinished, try_lock, write_atomically


def full_disk(file: IO[bytes], pieces: Iterable[bytes]) -> None:
    """Write half, then finds the disk full."""
    data = b"".join(pieces)
    file.write(data[: len(data) // 2])
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
    def interrupted(file: IO[bytes], pieces: Iterable[bytes]) -> None:
        file.write(b"".join(pieces)[:2])
        raise KeyboardInterrupt

    path = tmp_path / "x.bin"
    write_atomically(path, b"before")
    monkeypatch.setattr(atomic, "_write_and_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"there is no folder .*none\. Make it"):
        write_atomically(tmp_path / "none" / "x.bin", b"one")


HELD = """
import sys
from bwlab.files import write_pieces_atomically

def pieces():
    yield b"half"
    print("writing", flush=True)
    yield sys.stdin.buffer.read()

write_pieces_atomically(sys.argv[1], pieces())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
def test_only_what_killed_processes_left_unfinished_is_removed(tmp_path: Path) -> None:
    mine = [".mine.tmp", f".mine.{'0a' * 16}.tmpx", f"mine.{'0a' * 16}.tmp"]
    for name in mine:
        (tmp_path / name).write_bytes(b"keep me")
    alive, killed = (
        subprocess.Popen(
            [sys.executable, "-c", HELD, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("alive", "killed")
    )
    for process in (alive, killed):
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
    killed.kill()
    killed.communicate()
    assert [path.name.partition(".")[0] for path in sorted(tmp_path.glob(".[ak]*"))] == ["", ""]
    remove_unfinished(tmp_path)
    (left,) = tmp_path.glob(".[ak]*")
    assert left.name.startswith(".alive.")
    alive.communicate(b", and whole")
    assert alive.returncode == 0
    assert (tmp_path / "alive").read_bytes() == b"half, and whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["alive", *mine])


HELD_FOLDER = """
import sys
from pathlib import Path
from bwlab.files import new_folder

with new_folder(Path(sys.argv[1])) as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "x").write_text("whole")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
def test_only_folders_of_a_name_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "alive").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HELD_FOLDER, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("alive", "killed", "other")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
    for process in processes[1:]:
        process.kill()
        process.communicate()
    remove_unfinished(tmp_path, "alive")
    remove_unfinished(tmp_path, "killed")
    assert sorted(path.name.rpartition(".")[0][:6] for path in tmp_path.glob(".*")) == [".alive", ".other"]
    processes[0].communicate(b"")
    assert (tmp_path / "alive" / "inner" / "x").read_text() == "whole"
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "alive"]


def test_a_folder_whose_writing_fails_is_deleted_and_another_stays(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")

    def write(fault: type[BaseException] | None) -> None:
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("new")
            if fault:
                raise fault

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt)
    with pytest.raises(OSError, match="not empty"):
        write(None)
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine"]


def test_a_file_taken_for_unfinished_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def removed_first(file: IO[bytes]) -> bool:
        names.append(file.name)
        if len(names) == 1:
            Path(file.name).unlink()
        return try_lock(file)

    monkeypatch.setattr(atomic, "try_lock", removed_first)
    write_atomically(tmp_path / "x.bin", b"one")
    assert len(names) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert (tmp_path / "x.bin").read_bytes() == b"one"


def test_a_file_is_written_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "try_lock", lambda file: False)
    write_atomically(tmp_path / "x.bin", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
