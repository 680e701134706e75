"""One run at a time in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bwlab.errors import BwlabError
from bwlab.formats.folders import make_folder

NAME = ".lock"


class RunLock:
    """A lock on a run's folder, held in a ``with`` block and gone with the process, however it ends.

    The operating system holds it, not the file: what a killed run leaves behind locks nothing.

    Args:
        folder: of the run; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / NAME
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock; BwlabError naming the process that holds it."""
        make_folder(self._folder)
        while self._file is None:
            file = self._path.open("a+", encoding="utf-8")
            if not try_lock(file):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                found = f"another run (process {holder}) is writing there"
                raise BwlabError(f"--out {self._folder}", found, "Wait for it, or choose another folder")
            if self._is_at_path(file):
                self._file = file
            else:  # its holder deleted it between our opening and our locking it
                file.close()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _is_at_path(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


def try_lock(file: IO[str]) -> bool:
    """Return whether this process now holds the lock of an open file; always so where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows, where two runs in one folder are not told apart
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
