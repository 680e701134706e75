"""Jobs with few settings, for tests that run none of them."""

from __future__ import annotations

from collections.abc import Mapping

from bwlab_analysis.study import GENERATE, MEASURE, MERGE, RECOMMEND, SCORE, TRAIN
from bwlab_analysis.study.jobs import (
    GenerateSettings,
    Job,
    JobSettings,
    Json,
    JudgeSettings,
    MeasureSettings,
    MergeSettings,
    RecommendSettings,
    ScoreSettings,
    SubjectFingerprint,
    TrainSettings,
)

FOX, OWL = (SubjectFingerprint("identity", name, name) for name in ("fox", "owl"))
INK = SubjectFingerprint("style", "ink", "ink")
JUDGE = JudgeSettings("scorer", FOX, INK)


def training(name: str, training: Mapping[str, Json] | None = None, needs: Mapping[str, Job] | None = None) -> Job:
    """Return a training; the settings tell it from others."""
    return Job(name, TrainSettings("emoji", (FOX,), training or {}, 0), needs or {})


def generation(name: str, needs: Mapping[str, Job] | None = None, cfg: float = 3.0) -> Job:
    """Return a job that generates images with the adapters that it needs."""
    scales = ("1",) * len(needs or {})
    return Job(name, GenerateSettings("emoji", scales, ("ink, fox",), 2, 3, cfg), needs or {})


def scoring(name: str, images: Job | None = None) -> Job:
    """Return a job that scores images, or the first control."""
    control = None if images else "true image"
    return Job(name, ScoreSettings(JUDGE, ("ink, fox",), control), {"images": images} if images else {})


def settings_of(kind: str, number: int) -> JobSettings:
    """Return settings of a kind of job that a number tells from others."""
    base = f"base {number}"
    settings: dict[str, JobSettings] = {
        TRAIN: TrainSettings(base, (FOX,), {}, 0),
        MERGE: MergeSettings(base, "ties", ("1", "1"), None, None),
        GENERATE: GenerateSettings(base, (), ("ink, fox",), 2, 3, 3.0),
        MEASURE: MeasureSettings(base, ("1", "1"), FOX, INK, ("ink, fox",), 1, "501", 0, 0, False),
        SCORE: ScoreSettings(JUDGE, (f"ink, fox {number}",)),
        RECOMMEND: RecommendSettings(base, JUDGE, ("ink, fox",), 2, 3, 3.0, 1),
    }
    return settings[kind]
