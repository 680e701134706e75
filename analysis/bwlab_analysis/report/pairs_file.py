"""The file that holds all pairs of many adapters, one JSON object in each line, and that a later command continues.

The first line says what is measured. A pair is known by the paths of its files and the checksums of their contents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bwlab.errors import BwlabError
from bwlab.files import try_lock, write_pieces_atomically
from bwlab.text import parse_json
from bwlab_analysis.measures import SCHEMA_VERSION, ConflictMeasure, Json
from bwlab_analysis.report.documents import conflict_document
from bwlab_analysis.weights.all_pairs import Pair
from bwlab_analysis.weights.conflict import ConflictReport

SCHEMA = "bwlab.analyze.pairs"
NOT_OF_A_PAIR = ("schema", "schema_version", "measures", "name_a", "name_b")
"""Entries of a pair's document that are equal for all pairs, or depend on the other files of the command."""


class PairsFile:
    """The file of all pairs, open and locked for a `with` block.

    Attributes:
        path: the path.
        known: the pairs of these adapters that it holds.
        dropped: number of its lines that were removed, as they are damaged or an adapter has changed since.

    """

    def __init__(self, path: Path, files: Sequence[Path], measures: Sequence[ConflictMeasure], cells: bool) -> None:
        """Take the path, the adapters, the measures, and whether lines hold cells too."""
        self.path = path
        self.known: set[Pair] = set()
        self.dropped = 0
        self._cells = cells
        self._files = [str(file) for file in files]
        self._numbers = {file: number for number, file in enumerate(self._files)}
        self._checksums = [_checksum(file) for file in files]
        summaries = {measure.name: measure.summary for measure in measures}
        self._head: dict[str, Json] = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "measures": dict(summaries),
            "cells": cells,
        }
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Open the file, which is made if there is none, and find the pairs that it holds.

        Raises:
            BwlabError: it cannot be written, another command writes to it, or it holds something else.

        """
        self._file = self._locked()
        try:
            if self._file.seek(0, os.SEEK_END) == 0:
                self._append(self._head)
            self._require_head()
            for _ in self._lines():
                pass
            if self.dropped:
                write_pieces_atomically(self.path, chain((_line(self._head),), self._lines()))
                self._file.close()
                self._file = self._locked()
        except BwlabError:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, pair: Pair, outcome: ConflictReport | BwlabError) -> None:
        """Append a line with a pair's conflict, or with the reason why the two cannot be compared."""
        a, b = pair
        files: dict[str, Json] = {"a": self._files[a], "b": self._files[b]}
        sums: dict[str, Json] = {"sha256_a": self._checksums[a], "sha256_b": self._checksums[b]}
        if isinstance(outcome, BwlabError):
            self._append(files | sums | {"error": str(outcome)})
        else:
            left_out = (*NOT_OF_A_PAIR, *(() if self._cells else ("cells",)))
            document = conflict_document(outcome)
            self._append(files | sums | {name: value for name, value in document.items() if name not in left_out})

    def pairs(self) -> Iterator[tuple[Pair, dict[str, Any]]]:
        """Yield every pair of these adapters with its line."""
        for text in self._lines():
            line = json.loads(text)
            if line["a"] in self._numbers and line["b"] in self._numbers:
                yield (self._numbers[line["a"]], self._numbers[line["b"]]), line

    def _locked(self) -> IO[bytes]:
        asked, fix = f"--out {self.path}", "Choose another file"
        try:
            file = self.path.open("a+b")
        except OSError as error:
            raise BwlabError(asked, f"it cannot be written ({error.strerror or error})", fix) from error
        if not try_lock(file):
            file.close()
            raise BwlabError(asked, "another command is writing to it", f"Wait for it. {fix}")
        return file

    def _require_head(self) -> None:
        with self.path.open("rb") as file:
            try:
                head = parse_json(file.readline())
            except ValueError:
                head = None
        if not isinstance(head, dict) or head.get("schema") != SCHEMA:
            raise BwlabError(f"--out {self.path}", "it holds no pairs of adapters", "Choose another file")
        if head != self._head:
            found = "its pairs were measured with other measures, or without cells, or by another version"
            raise BwlabError(f"--out {self.path}", found, "Give the same options, or choose another file")

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of pairs that are whole and of these contents, and count the others."""
        self.dropped = 0
        with self.path.open("rb") as file:
            file.readline()
            for text in file:
                if text.endswith(b"\n") and self._holds(text):
                    yield text
                else:
                    self.dropped += 1

    def _holds(self, text: bytes) -> bool:
        """Return whether a line holds a pair whose files have not changed; a pair of these adapters is known then."""
        try:
            line = parse_json(text)
            ends = [(self._numbers.get(line[name]), line[f"sha256_{name}"]) for name in "ab"]
        except (ValueError, TypeError, KeyError):
            return False
        if any(number is not None and self._checksums[number] != checksum for number, checksum in ends):
            return False
        a, b = (number for number, _ in ends)
        if a is not None and b is not None:
            self.known.add((min(a, b), max(a, b)))
        return True

    def _append(self, line: Mapping[str, Json]) -> None:
        assert self._file is not None
        try:
            self._file.write(_line(line))
            self._file.flush()
        except OSError as error:
            found = f"{error.strerror or error}; the pairs before it are kept"
            raise BwlabError(f"--out {self.path}", found, "Free some space, and run the command again") from error


def _line(document: Mapping[str, Json]) -> bytes:
    return f"{json.dumps(document, allow_nan=False)}\n".encode()


def _checksum(file: Path) -> str:
    """Return the SHA-256 (hex) of a file; an empty text if it cannot be read, which is reported with its pairs."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""
