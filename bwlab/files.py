"""Write a file completely or not at all, and tell whether it has changed since."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "sha256"
"""Key of a checksum in the metadata of a safetensors file."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system when a disk, or a user's share of it, is full."""
LOCK_NAME = ".lock"
UNFINISHED_NAME = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder; a name that is longer than names can be has none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether this is a file; a name that is longer than names can be is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder, which is flushed to disk and then renamed.

    If anything fails, an earlier file at `path` stays intact, and no temporary file is left.

    Raises:
        BwlabError: the disk is full, or the folder is missing or not writable.

    """
    write_pieces_atomically(path, (data,))


def write_pieces_atomically(path: str | Path, pieces: Iterable[bytes]) -> None:
    """Write data as `write_atomically` does, in pieces, so that it is never in memory as a whole.

    Raises:
        BwlabError: as `write_atomically`. Errors raised while making a piece pass through, and nothing is written.

    """
    path = Path(path)
    try:
        with _temporary(path) as (temporary, file):
            _write_and_sync(file, pieces)
            _let_go(file)
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        found = f"{error.strerror or error}" + ("; the earlier file is untouched" if path.exists() else "")
        fix = _fix_of(error)
        if error.errno == errno.ENOENT:
            found, fix = f"there is no folder {path.parent}", "Make it"
        raise BwlabError(f"saving {path}", found, f"{fix} or choose another folder") from error


def _fix_of(error: OSError) -> str:
    return "Free some space" if error.errno in NO_ROOM else "Make the folder writable"


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield the path of a new file beside `path` and the file, locked; it is deleted unless it is renamed.

    The lock, which ends with the process, tells `remove_unfinished` that the file is still being written.
    """
    for last in (False, False, False, True):  # a file system without locks never gives one
        temporary = _temporary_path(path)
        file = temporary.open("xb")
        if (try_lock(file) and _is_at(file, temporary)) or last:
            break
        file.close()  # another process took it for unfinished before it was locked
        temporary.unlink(missing_ok=True)
    try:
        with file:
            yield temporary, file
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; after the `with` block its files are flushed to disk and it is renamed to it.

    If anything fails, it is deleted. Of folders of that name, only an empty one is replaced.

    Raises:
        OSError: the disk is full, or the folder cannot be made or renamed.

    """
    with _temporary_folder(path) as temporary:
        yield temporary
        for inner in temporary.rglob("*"):
            _sync(inner)
        if path.is_dir():
            path.rmdir()
        temporary.replace(path)
    _sync(path.parent)


@contextmanager
def files_together(folder: Path, obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a new folder in `folder`, which is made; after the `with` block its files move to their places in `folder`.

    Files that are in these places already are replaced, and all others stay. If anything fails in the block, `folder`
    is as it was before.

    Args:
        folder: the folder.
        obsolete: files to delete at last, if they are there, by their paths in `folder`; emptied subfolders go too.

    Raises:
        BwlabError: the disk is full, or the folder cannot be made or is not writable.

    """
    existed = folder.is_dir()
    make_folder(folder)
    try:
        with _temporary_folder(folder / "new") as temporary:
            yield temporary
            _move_files(temporary, folder)
        for file in (folder / name for name in obsolete):
            if file.is_file():
                file.unlink()
                with contextlib.suppress(OSError):  # it holds other files
                    file.parent.rmdir()
    except OSError as error:
        found = error.strerror or str(error)
        raise BwlabError(f"saving {folder}", found, f"{_fix_of(error)} or choose another folder") from error
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _move_files(source: Path, folder: Path) -> None:
    """Move the files of a folder and its subfolders to the same places in another folder."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        _sync(place.parent)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, locked as in `_temporary`; it is deleted unless it is renamed."""
    temporary = _temporary_path(path)
    temporary.mkdir()
    try:
        with _lock_on_folder(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _lock_on_folder(path: Path) -> Iterator[bool]:
    """Lock a folder inside the block and yield whether that worked; always true on systems without such locks."""
    if os.name != "posix":
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Delete the files and folders that killed processes left unfinished in a folder, if there are any.

    Those that another process is writing now stay, and so do all that have other names.

    Args:
        folder: the folder.
        name: the name that they were to have; None: any name.

    """
    for path in folder.glob(".*.tmp"):
        own = UNFINISHED_NAME.fullmatch(path.name)
        if own and name in (None, own[1]):
            with contextlib.suppress(OSError):  # another process has just finished or removed it
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    if path.is_dir():
        with _lock_on_folder(path) as free:
            if free:
                shutil.rmtree(path)
        return
    with path.open("r+b") as file:
        if try_lock(file):
            _let_go(file)
            path.unlink()


def _write_and_sync(file: IO[bytes], pieces: Iterable[bytes]) -> None:
    file.writelines(pieces)
    file.flush()
    os.fsync(file.fileno())


def _let_go(file: IO[bytes]) -> None:
    """Close a file on systems where an open one can be neither renamed nor deleted, and so needs no lock."""
    if os.name != "posix":
        file.close()


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return a SHA-256 (hex) of a text and of named tensors on the CPU: their names, shapes, dtypes and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder, whose renamings then survive a power cut, to disk, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, asked: str | None = None) -> None:
    """Make a folder and its parents.

    Args:
        path: the folder, which may exist already.
        asked: what the user asked for, for the error message; by default the name of the folder.

    Raises:
        BwlabError: the folder cannot be made, or a file is in the way.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "a file of that name is in the way" if path.is_file() else error.strerror or str(error)
        raise BwlabError(asked or f"folder {path}", found, "Choose another folder") from error


def cache_folder() -> Path:
    """Return the folder for downloads and caches: the folder that `BWLAB_CACHE` names, or `~/.cache/bwlab`."""
    chosen = os.environ.get("BWLAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "bwlab"


class FolderLock:
    """A lock on a folder, held for a `with` block and released with the process, however it ends.

    The operating system holds the lock, not the file: the lock file of a killed process locks nothing.

    Args:
        folder: the folder; made if it does not exist.
        what: what writes there, for messages.

    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder, self._path, self._what = folder, folder / LOCK_NAME, what
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock; BwlabError naming the process that holds it."""
        make_folder(self._folder)
        while self._file is None:
            file = self._open()
            if not try_lock(file):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                reason = f"another {self._what} (process {holder}) is writing there"
                raise BwlabError(f"--out {self._folder}", reason, "Wait for it, or choose another folder")
            if _is_at(file, self._path):
                self._file = file
            else:  # another process deleted the file between opening and locking
                file.close()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def _open(self) -> IO[str]:
        try:
            return self._path.open("a+", encoding="utf-8")
        except OSError as error:
            reason = f"nothing can be written there ({error.strerror or error})"
            fix = "Make the folder writable or choose another"
            raise BwlabError(f"--out {self._folder}", reason, fix) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if _is_at(self._file, self._path):  # else the folder was removed, and may be another's now
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def _is_at(file: IO[str] | IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def try_lock(file: IO[str] | IO[bytes] | int) -> bool:
    """Lock an open file, or a descriptor, and return whether that worked; always true on systems without such locks."""
    try:
        import fcntl
    except ImportError:  # Windows, where two processes that write into one folder are not detected
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
