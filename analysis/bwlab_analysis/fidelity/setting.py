"""What a fidelity command works with, made from its options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab_analysis.documents import Json
from bwlab_analysis.fidelity.built_in import built_in_scorers, clip_of
from bwlab_analysis.fidelity.measure import Judge, References, Sampling
from bwlab_analysis.installed import fidelity_scorers
from bwlab_analysis.lab import Lab, read_prompts

if TYPE_CHECKING:
    from PIL.Image import Image

    from bwlab.plugins import PluginManager

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def new_sampling(prompts: Path | None, seeds: int, steps: int, cfg: float) -> Sampling:
    """Return how to paint; BwlabError without prompts, or for a guidance scale that is no number."""
    if not math.isfinite(cfg):
        raise BwlabError(f"--cfg {cfg}", "no finite number", "Give one such as 7")
    texts = read_prompts(prompts)
    if not texts:
        raise BwlabError("scoring fidelity", "no prompts", "Give --prompts FILE, one prompt a line")
    return Sampling(texts, tuple(range(seeds)), steps, cfg)


def new_judge(
    manager: PluginManager, base: str, clip: str | None, identity: Path, style: Path, most: int = 64
) -> Judge:
    """Return the scorers, the built-in ones first, with reference pictures (at most ``most`` of each folder)."""
    from bwlab.cli.errors import warn

    references = References(tuple(read_pictures(identity)[:most]), tuple(read_pictures(style)[:most]))
    return Judge([*built_in_scorers(clip_of(base, clip)), *fidelity_scorers(manager, warn)], references)


def read_pictures(folder: Path) -> list[Image]:
    """Return the pictures of a folder and its subfolders, by path; transparent parts are white.

    Raises:
        BwlabError: no such folder, none in it, or one that cannot be read.
    """
    from bwlab.pictures import read_rgb

    if not folder.is_dir():
        raise BwlabError(f"reference pictures {folder}", "no such folder", "Give a folder of pictures")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise BwlabError(f"reference pictures {folder}", "no pictures in it", f"Put {', '.join(SUFFIXES)} files there")
    pictures = []
    for path in paths:
        try:
            pictures.append(read_rgb(path))
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise BwlabError(f"reference picture {path}", "unreadable", "Repair it or take it away") from error
    return pictures


def heading(lab: Lab, files: Sequence[Path], judge: Judge, sampling: Sampling) -> dict[str, Json]:
    """Return what JSON reports of fidelity begin with."""
    return {
        "base": lab.base,
        "identity": str(files[0]),
        "style": str(files[1]),
        "prompts": list(sampling.prompts),
        "seeds": list(sampling.seeds),
        "steps": sampling.steps,
        "cfg": sampling.cfg,
        "scorers": {scorer.name: scorer.summary for scorer in judge.scorers},
        "harmonic_of": list(judge.leading),
        "references": {"identity": len(judge.references.identity), "style": len(judge.references.style)},
    }


def require_two(files: Sequence[Path]) -> tuple[Path, Path]:
    """Return the identity's and the style's file; BwlabError unless there are two."""
    if len(files) != 2:
        found = f"{len(files)} --adapter"
        raise BwlabError("scoring fidelity", found, "Give the identity's adapter, then the style's")
    return files[0], files[1]
