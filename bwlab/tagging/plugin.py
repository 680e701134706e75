"""Registers the built-in taggers; light to import."""

from __future__ import annotations

from collections.abc import Mapping

from bwlab.hookspecs import hookimpl
from bwlab.registry import Describe, Tagger

CLIP_OPTIONS = ("model", "pretrained", "vocabulary", "threshold", "template")
WD14_OPTIONS = ("model", "tags", "threshold", "character_threshold", "rating")


def load_clip(options: Mapping[str, str]) -> Describe:
    """The open_clip tagger (imports torch and open_clip)."""
    from bwlab.tagging.open_clip_tagger import load

    return load(options)


def load_wd14(options: Mapping[str, str]) -> Describe:
    """The ONNX tagger (imports onnxruntime)."""
    from bwlab.tagging.wd14 import load

    return load(options)


@hookimpl
def bwlab_register_taggers() -> list[Tagger]:
    """The taggers `clip` and `wd14`."""
    return [
        Tagger("clip", "open_clip, zero-shot over a vocabulary of your own", load_clip, CLIP_OPTIONS),
        Tagger("wd14", "a WD14-type ONNX model with its selected_tags.csv", load_wd14, WD14_OPTIONS),
    ]
