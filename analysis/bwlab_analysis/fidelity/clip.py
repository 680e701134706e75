"""Image and text embeddings of open_clip models, from a folder or a name with weights on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bwlab.base.names import EMBEDDED_FOLDERS, embedded_scorer
from bwlab.base.open_clip import LOCAL, load_open_clip
from bwlab.benchmark import load_benchmark, margins
from bwlab.errors import BwlabError, did_you_mean, first_line
from bwlab_analysis.fidelity.per_image import PerImage
from bwlab_analysis.fidelity.style_statistics import style_likeness
from bwlab_analysis.measures import IDENTITY, STYLE, FidelityScorer

if TYPE_CHECKING:
    from PIL.Image import Image


CONFIG = "open_clip_config.json"
GRAM_NUMBERS = 2**25
"""How many numbers the Gram matrices that are kept have together, in 256 MB; one of ViT-L has 2**20."""
GIVE_MODEL = "Give a folder with open_clip_config.json and weights, or NAME=WEIGHTS such as ViT-B-32=clip.safetensors"


@dataclass(frozen=True, eq=False)
class ClipModel:
    """An open_clip model with its preprocessing.

    Attributes:
        name: the name as it was given.
        model: the model in evaluation mode.
        preprocess: function from an RGB image to a tensor `(3, h, w)`.
        tokenizer: function from texts to token ids.
        parts: name -> coordinates of that part of the embedding; the embedded scorer has `identity` and `style`.

    """

    name: str
    model: Any
    preprocess: Any
    tokenizer: Any
    parts: Mapping[str, slice] = field(default_factory=dict)

    def embed_images(self, images: Sequence[Image], part: str = "") -> Tensor:
        """Return `(images, width)` float64 embeddings of length 1, of the coordinates of `part` if the model has it."""
        embeddings = torch.stack(self._embeddings(images))
        return functional.normalize(embeddings[:, self.parts.get(part, slice(None))].double(), dim=-1)

    @cached_property
    def _embeddings(self) -> PerImage[Tensor]:
        @torch.no_grad()
        def embed(images: Sequence[Image]) -> list[Tensor]:
            batch = torch.stack([self.preprocess(image) for image in images])
            return [embedding for piece in batch.split(32) for embedding in self.model.encode_image(piece)]

        return PerImage(embed)

    @cached_property
    def early_grams(self) -> PerImage[Tensor]:
        """A function that returns, for each image, the Gram matrix of early features, flat, less the features' mean."""
        first = next(module for module in self.model.visual.modules() if isinstance(module, torch.nn.Conv2d))

        @torch.no_grad()
        def grams(images: Sequence[Image]) -> list[Tensor]:
            features = first(torch.stack([self.preprocess(image) for image in images])).double().flatten(2)
            features = features - features.mean((1, 2), keepdim=True)
            return list((features @ features.mT / features.shape[-1]).flatten(1))

        return PerImage(grams, kept=max(1, GRAM_NUMBERS // first.out_channels**2))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return `(texts, width)` float64 embeddings of length 1."""
        return functional.normalize(self.model.encode_text(self.tokenizer(list(texts))).double(), dim=-1)


def load_clip(model: str) -> ClipModel:
    """Return an open_clip model; nothing is downloaded.

    Args:
        model: a folder as open_clip's `local-dir:` takes it, or `NAME=WEIGHTS` with one of open_clip's names and a
            file of weights. A folder's config may name parts of the embedding in `bwlab.parts`.

    Raises:
        BwlabError: the folder, name or file does not exist, or the weights do not fit.

    """
    name, equals, weights = model.partition("=")
    _require(model, name, weights, bool(equals))
    place = Path(weights) if equals else Path(model.removeprefix(LOCAL))
    files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file())
    stats = ((file, file.stat()) for file in files)
    return _loaded(model, tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@lru_cache(maxsize=2)
def _loaded(model: str, files: tuple[tuple[str, int, int], ...]) -> ClipModel:
    """Return a model; that of the same files as before is the same one, with the embeddings that it has computed."""
    name, equals, weights = model.partition("=")
    source = name if equals else LOCAL + model.removeprefix(LOCAL)
    try:
        parts = {} if equals else _parts(Path(model.removeprefix(LOCAL)) / CONFIG)
        return ClipModel(model, *load_open_clip(source, weights or None), parts)
    # Broken configs and weights raise RuntimeError, KeyError, ValueError ..., depending on the problem.
    except Exception as error:
        reason = f"open_clip does not load it: {first_line(error)}"
        found = reason if not equals or _holds_weights(Path(weights)) else f"{weights} is no file of weights"
        raise BwlabError(f"CLIP model {model}", found, GIVE_MODEL) from error


def _parts(config: Path) -> dict[str, slice]:
    stated = json.loads(config.read_text(encoding="utf-8")).get("bwlab", {}).get("parts", {})
    return {name: slice(*ends) for name, ends in stated.items()}


def _holds_weights(path: Path) -> bool:
    """Return whether a file may be a safetensors file, or a file of torch: a zip archive or a pickle."""
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith((b"PK", b"\x80")) or start[8:] == b"{"


def _require(model: str, name: str, weights: str, named: bool) -> None:
    import open_clip

    if not named:
        folder = Path(model.removeprefix(LOCAL))
        if not (folder / CONFIG).is_file():
            found = f"no {CONFIG} in it" if folder.is_dir() else "no such folder"
            raise BwlabError(f"CLIP model {model}", found, GIVE_MODEL)
    elif name not in open_clip.list_models():
        fix = did_you_mean(name, open_clip.list_models()) + GIVE_MODEL
        raise BwlabError(f"CLIP model {model}", f"open_clip has no model {name}", fix)
    elif not Path(weights).is_file():
        raise BwlabError(f"CLIP model {model}", f"no weights {weights or 'given'}", GIVE_MODEL)


def likeness_to_images(
    clip: ClipModel, generated: Sequence[Image], references: Sequence[Image], part: str = ""
) -> list[float]:
    """Return CLIP-I: the cosine of each image's embedding to the mean embedding of the references, -1..1.

    The mean keeps what the references share: their identity for images of one identity in several styles, their style
    for images in one style.

    Args:
        clip: the model.
        generated, references: images.
        part: part of the embedding to compare, if the model has it; otherwise the whole embedding is compared.

    """
    return _cosines(clip.embed_images(generated, part), clip.embed_images(references, part))


def identity_margins(clip: ClipModel, generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return how much nearer each image is to an identity than to the benchmark's held-out identities, at most about 1.

    The margin is the cosine to the mean embedding of the identity's images, minus the mean of the cosines to the
    benchmark's 42 identities, divided by their standard deviation. It is given as a share of 6.3, the largest that one
    of 42 numbers can reach. A style that changes all cosines alike leaves the margin unchanged.

    Args:
        clip: the scorer of the embedded base.
        generated: images to score.
        references: images of the identity.

    """
    own, others = clip.embed_images(references, IDENTITY).mean(0), _benchmark_identities(clip)
    cosines = clip.embed_images(generated, IDENTITY) @ functional.normalize(torch.vstack([own, others]), dim=-1).T
    table = np.asarray(cosines)
    count = table.shape[1] - 1
    most = (count - 1) / math.sqrt(count)
    return [float(margin) / most for margin in margins(table[:, :1], table[:, 1:])[:, 0]]


@cache
def _benchmark_identities(clip: ClipModel) -> Tensor:
    """Return the mean embedding of each held-out identity of the benchmark in the known styles."""
    benchmark = load_benchmark()
    known = benchmark.style_names("train")
    rows = [
        clip.embed_images([benchmark.image(identity, style) for style in known], IDENTITY).mean(0)
        for identity in benchmark.identities
    ]
    return torch.stack(rows)


def likeness_to_texts(clip: ClipModel, generated: Sequence[Image], prompts: Sequence[str]) -> list[float]:
    """Return CLIP-T: the cosine of each image's embedding to the embedding of its prompt, -1..1."""
    cosines = (clip.embed_images(generated) * clip.embed_texts(prompts)).sum(-1)
    return [float(cosine) for cosine in cosines]


def early_statistics_likeness(clip: ClipModel, generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return the cosine of each image's early features' Gram matrix to the references' mean Gram matrix, -1..1.

    Early features are the output of the image tower's first convolution (Gatys et al. 2016, section 2.2).
    """
    return _cosines(*(torch.stack(clip.early_grams(images)) for images in (generated, references)))


def statistics_likeness(generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return `bwlab_analysis.fidelity.style_statistics.style_likeness`, 0..1."""
    return style_likeness(generated, references)


def _cosines(generated: Tensor, references: Tensor) -> list[float]:
    mean = functional.normalize(references.mean(0), dim=-1)
    return [float(cosine) for cosine in functional.normalize(generated, dim=-1) @ mean]


def clip_of(base: str, clip: str | None) -> str:
    """Return the CLIP model to score with: the given model, or the scorer of the embedded bases.

    Raises:
        BwlabError: no model is given, and the base is not an embedded one.

    """
    if clip is not None:
        return clip
    if base in EMBEDDED_FOLDERS:
        return embedded_scorer()
    fix = "Give --clip FOLDER (with open_clip_config.json) or --clip ViT-B-32=WEIGHTS.safetensors"
    raise BwlabError(f"fidelity with --base {base}", "no CLIP model to score with", fix)


def built_in_scorers(clip: str) -> list[FidelityScorer]:
    """Return scorers of identity, style and text by one CLIP model (loaded once), and of style by statistics."""
    model = cache(partial(load_clip, clip))
    # The scorer of the embedded base has separate parts for identity and for style.
    own = clip == embedded_scorer()
    of_style = "its part for style, " if own else ""
    image_score, text_score = ("emoji scorer", "emoji scorer") if own else ("CLIP-I", "CLIP-T")
    likeness = FidelityScorer(
        "identity",
        "identity",
        f"{image_score}: cosine to the mean of the identity's images",
        lambda: partial(likeness_to_images, model()),
    )
    margin = FidelityScorer(
        "identity",
        "identity",
        "emoji scorer: margin of the identity over the benchmark's 42 held-out identities",
        lambda: partial(identity_margins, model()),
    )
    return [
        margin if own else likeness,
        FidelityScorer(
            "style",
            "style",
            f"{image_score}: {of_style}cosine to the mean of the images in the style",
            lambda: partial(likeness_to_images, model(), part=STYLE),
        ),
        FidelityScorer(
            "text", "text", f"{text_score}: cosine to the prompt", lambda: partial(likeness_to_texts, model())
        ),
        FidelityScorer(
            "gram_style",
            "style",
            "cosine of early features' Gram matrices to the style's",
            lambda: partial(early_statistics_likeness, model()),
        ),
        FidelityScorer(
            "colours_and_edges",
            "style",
            "similarity of colour and edge statistics to the style's, 0..1",
            lambda: statistics_likeness,
        ),
    ]
