"""The jobs of a study: the settings of each kind, a key that settings and needs decide, and the stored result."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from bwlab.fusion.types import SUM
from bwlab_analysis.study import GENERATE, JOB_KINDS, MEASURE, MERGE, RECOMMEND, SCORE, TRAIN
from bwlab_analysis.study.stored import RESULT, fault, read_result

if TYPE_CHECKING:
    from bwlab.merging.ziplora import ZipLoraSettings

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class SubjectFingerprint:
    """An identity or a style in the settings of jobs.

    Attributes:
        kind: `"identity"` or `"style"`.
        name: its name in the plan, and in the benchmark.
        words: the words for it in prompts.
        folder: the folder of its captioned images; None if they are the benchmark's.
        files: a hash of the folder's files; None without a folder.

    """

    kind: str
    name: str
    words: str
    folder: str | None = None
    files: str | None = None


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training.

    Attributes:
        base: the base model, as `bwlab train` takes it.
        learns: the subjects whose images it is trained on.
        training: settings by dotted key, as `bwlab train --set` takes them.
        seed: seed of the training.

    """

    kind: ClassVar[str] = TRAIN
    base: str
    learns: tuple[SubjectFingerprint, ...]
    training: Mapping[str, Json]
    seed: int


@dataclass(frozen=True)
class MergeSettings:
    """Settings of a merge of adapters into one file by TIES or DARE.

    Attributes:
        base: the base model.
        method: name of the method, as `bwlab merge --method` takes it.
        scales: a scale for each adapter: a number or a block spec.
        density: share of the numbers that the method keeps; None for its default.
        rank: rank of the merged file.

    """

    kind: ClassVar[str] = MERGE
    base: str
    method: str
    scales: tuple[str, ...]
    density: float | None
    rank: int | None


@dataclass(frozen=True)
class ZipMergeSettings:
    """Settings of a merge of two adapters into one file by ZipLoRA.

    Attributes:
        base: the base model.
        learned: the subject that each adapter was trained on.
        optimisation: how the column weights are learned.

    """

    kind: ClassVar[str] = MERGE
    base: str
    learned: tuple[SubjectFingerprint, ...]
    optimisation: ZipLoraSettings


@dataclass(frozen=True)
class GenerateSettings:
    """Settings of the images of a composition.

    Attributes:
        base: the base model.
        scales: a scale for each adapter: a number or a block spec.
        prompts: the prompts; each is sampled with each seed.
        seeds: number of images of a prompt, from seed 0 on.
        steps, cfg: steps and guidance of DPM++ 2M Karras.
        fusion: how the adapters act together.

    """

    kind: ClassVar[str] = GENERATE
    base: str
    scales: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: int
    steps: int
    cfg: float
    fusion: str = SUM


@dataclass(frozen=True)
class JudgeSettings:
    """The reference images of scores, and the weights of the scorer.

    Attributes:
        scorer: a hash of the scorer's weights; scores by other weights are separate jobs.
        identity, style: the subjects whose images are the references.

    """

    scorer: str
    identity: SubjectFingerprint
    style: SubjectFingerprint


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of the scores of images.

    Attributes:
        judge: references and scorer of the scores.
        prompts: the prompts of the images; each has equally many images.
        control: name of the control that is scored; None for the images of the job that it needs.

    """

    kind: ClassVar[str] = SCORE
    judge: JudgeSettings
    prompts: tuple[str, ...]
    control: str | None = None


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measures of a pair of adapters, as `bwlab analyze conflict` takes them.

    Attributes:
        base: the base model.
        scales: scale of the identity's adapter and of the style's: a number or a block spec.
        identity, style: the subjects that the adapters were trained on.
        prompts: prompts for which images are generated to measure on, too.
        latents: number of latents of each source.
        timesteps: timesteps with commas between.
        draws: number of pairs of random adapters.
        seed: seed for noise and for the random adapters.
        blame: whether blocks are blamed.

    """

    kind: ClassVar[str] = MEASURE
    base: str
    scales: tuple[str, str]
    identity: SubjectFingerprint
    style: SubjectFingerprint
    prompts: tuple[str, ...]
    latents: int
    timesteps: str
    draws: int
    seed: int
    blame: bool


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of a search for block scales, as `bwlab analyze recommend` does it.

    Attributes:
        base: the base model.
        judge: references and scorer of the compositions that are tried.
        prompts: the prompts of the search and of its proof.
        seeds: number of images of a prompt in the proof, from seed 0 on.
        steps, cfg: steps of the proof, and guidance of DPM++ 2M Karras.
        budget: maximum number of images of the search.

    """

    kind: ClassVar[str] = RECOMMEND
    base: str
    judge: JudgeSettings
    prompts: tuple[str, ...]
    seeds: int
    steps: int
    cfg: float
    budget: int


JobSettings: TypeAlias = (
    TrainSettings
    | MergeSettings
    | ZipMergeSettings
    | GenerateSettings
    | ScoreSettings
    | MeasureSettings
    | RecommendSettings
)


@dataclass(frozen=True, eq=False)
class Job:
    """A training, merge, generation, measurement, score or recommendation.

    Two jobs with equal settings and needs are the same job: they share one key, one folder and one result.

    Attributes:
        name: name in messages; it does not affect the result.
        settings: all that determines the result beside the needs.
        needs: jobs whose results it uses, by their role.

    """

    name: str
    settings: JobSettings
    needs: Mapping[str, Job] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """One of `JOB_KINDS`."""
        return self.settings.kind

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits of a hash of kind, settings and needs."""
        needs = {role: job.key for role, job in self.needs.items()}
        # The key leaves out a plain sum, so that studies from before fusions existed can be continued.
        settings = {name: value for name, value in asdict(self.settings).items() if (name, value) != ("fusion", SUM)}
        text = json.dumps([self.kind, settings, needs], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folder(self, out: Path) -> Path:
        """Return the folder of the job's files within a study's folder."""
        return out / "jobs" / self.kind / f"{slug(self.name)}-{self.key}"

    def done(self, out: Path) -> bool:
        """Return whether the result is there and can be used."""
        return (self.folder(out) / RESULT).is_file() and self.fault(out) is None

    def fault(self, out: Path) -> str | None:
        """Return why the stored result cannot be used, so that the job is not done; None if it can, or there is none.

        The file that it names is checked, too: see `bwlab_analysis.study.stored`.
        """
        return fault(self.kind, self.folder(out))

    def result(self, out: Path) -> dict[str, Json]:
        """Return the stored result; FileNotFoundError if there is none, BwlabError if it is damaged."""
        return read_result(self.folder(out))


def slug(name: str) -> str:
    """Return a name for files.

    >>> slug("id-all + style-all, fox x ink")
    'id-all-style-all-fox-x-ink'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:80]


def with_needs(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs and all their needs, each key once, needs before the jobs that need them, kinds in order."""
    by_key: dict[str, Job] = {}
    for asked in jobs:
        for job in _needs_and_itself(asked):
            by_key.setdefault(job.key, job)
    return sorted(by_key.values(), key=lambda job: JOB_KINDS.index(job.kind))


def _needs_and_itself(job: Job) -> Iterator[Job]:
    for need in job.needs.values():
        yield from _needs_and_itself(need)
    yield job


def seed_of(text: str) -> int:
    """Return the seed of a training, 0..2^32 - 1, that its name decides on every machine alike."""
    return zlib.crc32(text.encode())
