"""The scorers that `bwlab analyze fidelity` always has, made for one CLIP model."""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files
from pathlib import Path

from bwlab.blocks.bases import EMBEDDED
from bwlab.errors import BwlabError
from bwlab_analysis.registry import FidelityScorer


def clip_of(base: str, clip: str | None) -> str:
    """Return the CLIP model to score with: the one asked for, or with the embedded base the scorer of its world.

    Raises:
        BwlabError: none was asked for, with another base.
    """
    if clip is not None:
        return clip
    if base == EMBEDDED:
        return embedded_scorer()
    fix = "Give --clip FOLDER (with open_clip_config.json) or --clip ViT-B-32=WEIGHTS.safetensors"
    raise BwlabError(f"fidelity with --base {base}", "no CLIP model to score with", fix)


def embedded_scorer() -> str:
    """Return the folder of the scorer of the embedded base's world."""
    return str(Path(str(files("bwlab"))) / "data" / "emoji_scorer")


def built_in_scorers(clip: str) -> list[FidelityScorer]:
    """Return scorers of identity, style and text by one CLIP model (loaded once), and of style by statistics."""
    from bwlab_analysis.fidelity import scorers
    from bwlab_analysis.fidelity.embedding import load_clip

    model = cache(partial(load_clip, clip))
    # The scorer of the emoji world has coordinates of its own for identity and for style.
    own = clip == embedded_scorer()
    of_identity, of_style = ("its part for identity, ", "its part for style, ") if own else ("", "")
    pictures, texts = ("emoji scorer", "emoji scorer") if own else ("CLIP-I", "CLIP-T")
    return [
        FidelityScorer(
            "identity",
            "identity",
            f"{pictures}: {of_identity}cosine to the mean of the identity's pictures",
            lambda: partial(scorers.likeness_to_pictures, model(), part="identity"),
        ),
        FidelityScorer(
            "style",
            "style",
            f"{pictures}: {of_style}cosine to the mean of the pictures in the style",
            lambda: partial(scorers.likeness_to_pictures, model(), part="style"),
        ),
        FidelityScorer(
            "text", "text", f"{texts}: cosine to the prompt", lambda: partial(scorers.likeness_to_texts, model())
        ),
        FidelityScorer(
            "gram_style",
            "style",
            "cosine of early features' Gram matrices to the style's",
            lambda: partial(scorers.early_statistics_likeness, model()),
        ),
        FidelityScorer(
            "colours_and_edges",
            "style",
            "likeness of colour and edge statistics to the style's, 0..1",
            lambda: scorers.statistics_likeness,
        ),
    ]
