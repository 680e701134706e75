"""Files that pages upload: in a folder of the server's own, each as long as a session uses it."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bwlab.adapters.names import RUN_FILE

UNSAFE = re.compile(r"[^\w.()\[\] +-]")
LONGEST_NAME = 120


class Uploads:
    """The folder of uploaded files and of files that are handed out; it is deleted with the server."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bwlab-ui-")
        self._lock = threading.Lock()
        self._count = 0
        self._kept: set[Path] = set()

    def close(self) -> None:
        """Delete everything."""
        self._folder.cleanup()

    def new_folder(self) -> Path:
        """Return a new empty folder."""
        with self._lock:
            self._count += 1
            folder = Path(self._folder.name) / str(self._count)
        folder.mkdir()
        return folder

    @contextmanager
    def receiving(self, name: str) -> Iterator[Path]:
        """Yield the path at which a stranger's file is to be written; it is deleted if the `with` block fails."""
        file = self.new_folder() / (name if name != RUN_FILE else f"uploaded-{name}")
        try:
            yield file
        except BaseException:
            shutil.rmtree(file.parent, ignore_errors=True)
            raise
        with self._lock:
            self._kept.add(file)

    def received(self) -> frozenset[Path]:
        """Return the files that were uploaded and are still there."""
        with self._lock:
            return frozenset(self._kept)

    def sweep(self, used: Collection[Path]) -> None:
        """Delete the received files that no session uses any more."""
        with self._lock:
            unused = self._kept.difference(used)
            self._kept -= unused
        for file in unused:
            shutil.rmtree(file.parent, ignore_errors=True)


def safe_name(name: str) -> str:
    """Return the last part of a stranger's file name with only letters, digits and a few signs.

    >>> safe_name("../../etc/a<b>.safetensors")
    'a_b_.safetensors'
    """
    last = re.split(r"[/\\]", name)[-1]
    return UNSAFE.sub("_", last).lstrip(".")[-LONGEST_NAME:] or "adapter"
