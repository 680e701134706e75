"""One piece of a study's work, known by all that decides its result."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TypeAlias

from bwlab_analysis.study.plan import Subject

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
RESULT = "result.json"
TRAIN, MERGE, PAINT, SCORE, MEASURE, RECOMMEND = "train", "merge", "paint", "score", "measure", "recommend"
KINDS = (TRAIN, MERGE, PAINT, MEASURE, SCORE, RECOMMEND)
"""In the order in which a runner takes them."""


@dataclass(frozen=True, eq=False)
class Job:
    """A training, merge, painting, score, measurement or recommendation.

    Two jobs with equal settings and needs are one: they have one key, one folder and one result.

    Attributes:
        kind: one of `KINDS`.
        name: what people call it; decides nothing.
        settings: all that decides the result beside the needs.
        needs: jobs whose results it works with, by the part they play.

    """

    kind: str
    name: str
    settings: Mapping[str, Json]
    needs: Mapping[str, Job] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits of a hash of kind, settings and needs."""
        needs = {role: job.key for role, job in self.needs.items()}
        text = json.dumps([self.kind, self.settings, needs], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, out: Path) -> Path:
        """Return where the job keeps its files in a study's folder."""
        return out / "jobs" / self.kind / f"{slug(self.name)}-{self.key}"

    def done(self, out: Path) -> bool:
        """Return whether the result is there."""
        return (self.folder(out) / RESULT).is_file()

    def result(self, out: Path) -> dict[str, Json]:
        """Return what the job found; FileNotFoundError if it is not done."""
        found: dict[str, Json] = json.loads((self.folder(out) / RESULT).read_text(encoding="utf-8"))
        return found


def slug(name: str) -> str:
    """Return a name for files.

    >>> slug("id-all + style-all, fox x ink")
    'id-all-style-all-fox-x-ink'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:80]


def with_needs(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs and all that they need, each key once, needs before what needs them, kinds in order."""
    found: dict[str, Job] = {}
    for job in jobs:
        for one in _and_needs(job):
            found.setdefault(one.key, one)
    return sorted(found.values(), key=lambda job: KINDS.index(job.kind))


def _and_needs(job: Job) -> Iterator[Job]:
    for need in job.needs.values():
        yield from _and_needs(need)
    yield job


def subject_fingerprint(subject: Subject) -> dict[str, Json]:
    """Return a subject as JSON, with a hash of its folder's files, since these decide what is learned."""
    return {"name": subject.name, "words": subject.words, "folder": subject.folder, "files": _files(subject.folder)}


def forget_files() -> None:
    """Read folders anew from now on: the next study's may have changed."""
    _files.cache_clear()


@cache
def _files(folder: str | None) -> str | None:
    if folder is None:
        return None
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def seed_of(text: str) -> int:
    """Return a seed of a training, 0..2^32 - 1, that its name decides on every machine alike."""
    return zlib.crc32(text.encode())
