"""Studies: plans of trainings, compositions, scores and measures, run job by job and resumed where they stopped."""

from __future__ import annotations

TRAIN, MERGE, GENERATE, MEASURE = "train", "merge", "generate", "measure"
SCORE, RECOMMEND = "score", "recommend"
JOB_KINDS = (TRAIN, MERGE, GENERATE, MEASURE, SCORE, RECOMMEND)
"""Kinds of jobs, in the order in which a runner takes them."""
