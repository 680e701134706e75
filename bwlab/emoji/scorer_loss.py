"""What the scorer is taught: one embedding with separate coordinates for identity, style and background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bwlab.emoji.scorer_views import ScorerData, Views
from bwlab.emoji.world import BACKGROUNDS

# Which coordinates of an embedding carry what.
PARTS = {"identity": slice(0, 160), "style": slice(160, 224), "background": slice(224, 256)}
WIDTH = 256
PICTURES_AT = 0.1  # temperature between pictures
TEXTS_AT = 0.07  # temperature between pictures and words
UNKNOWN = 0.15  # share of captions whose identity is a made-up word


def part(embeddings: Tensor, name: str) -> Tensor:
    """Return the coordinates that carry ``name``, of length 1."""
    return functional.normalize(embeddings[..., PARTS[name]], dim=-1)


def same_identity(embeddings: Tensor, identities: Tensor) -> Tensor:
    """Return the supervised contrast of pictures (Khosla et al. 2020, equation 2): of one identity, in any style.

    Args:
        embeddings: ``(batch, width)``, of length 1.
        identities: ``(batch,)`` which identity each shows.
    """
    itself = torch.eye(len(embeddings), dtype=torch.bool)
    likeness = (embeddings @ embeddings.T / PICTURES_AT).masked_fill(itself, -1e4)
    same = (identities[:, None] == identities) & ~itself
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    return -(log_share * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


def own_text(pictures: Tensor, texts: Tensor, own: Tensor) -> Tensor:
    """Return the cross-entropy of each picture's text among all of them; 0 without pictures.

    Args:
        pictures: ``(batch, width)``, of length 1.
        texts: ``(texts, width)``, of length 1.
        own: ``(batch,)`` index of each picture's text.
    """
    if not len(pictures):
        return pictures.sum()
    return functional.cross_entropy(pictures @ texts.T / TEXTS_AT, own, label_smoothing=0.05)


@dataclass(frozen=True)
class Texts:
    """One step's texts.

    Attributes:
        names: the step's identities.
        captions: of the pictures ``captioned``.
        captioned: ``(captions,)`` index of each caption's picture.
    """

    names: list[str]
    captions: list[str]
    captioned: Tensor


def texts_of(data: ScorerData, views: Views, generator: torch.Generator) -> Texts:
    """Return the names and captions of one step.

    Some captions name what they show by a made-up word, so that words the scorer was not taught say nothing
    of the identity instead of anything.
    """
    first = torch.arange(int(views.identities.max()) + 1) * (len(views.names) // (int(views.identities.max()) + 1))
    captioned = (views.named & views.kept).nonzero()[:, 0]
    unknown = torch.rand(len(captioned), generator=generator) < UNKNOWN
    captions = []
    for index, made_up in zip(captioned.tolist(), unknown.tolist(), strict=True):
        name = made_up_word(generator) if made_up else data.names[views.names[index]]
        colour = list(BACKGROUNDS)[views.colours[index]]
        captions.append(f"{data.styles[views.styles[index]]}, {name}, {colour} background")
    return Texts([data.names[name] for name in views.names[first].tolist()], captions, captioned)


def made_up_word(generator: torch.Generator) -> str:
    """Return 3 to 8 random letters."""
    length = int(torch.randint(3, 9, (), generator=generator))
    return "".join(chr(ord("a") + int(letter)) for letter in torch.randint(26, (length,), generator=generator))


def scorer_loss(
    model: Any, data: ScorerData, views: Views, texts: Texts, tokens: Tensor, style_weight: float
) -> Tensor:
    """Return the loss of one step.

    Between pictures: `same_identity` in the coordinates of identity. Between pictures and words, each in its own
    coordinates: identity, style and background. Between pictures and whole captions, in all coordinates: CLIP's.

    Args:
        model: an `open_clip.CLIP`.
        data: pictures and words.
        views, texts: of the step.
        tokens: of ``texts.names``, the styles, the backgrounds and ``texts.captions``, in this order.
        style_weight: of the style's loss.
    """
    pictures = model.encode_image(views.pictures.contiguous(memory_format=torch.channels_last)).float()
    sizes = [len(texts.names), len(data.styles), len(BACKGROUNDS), len(texts.captions)]
    names, styles, colours, captions = model.encode_text(tokens).float().split(sizes)
    named, kept = views.named, views.kept
    identity = same_identity(part(pictures, "identity"), views.identities)
    name = own_text(part(pictures[named], "identity"), part(names, "identity"), views.identities[named])
    style = own_text(part(pictures[kept], "style"), part(styles, "style"), views.styles[kept])
    colour = own_text(part(pictures[kept], "background"), part(colours, "background"), views.colours[kept])
    whole = whole_captions(pictures[texts.captioned], captions, model.logit_scale.exp())
    return identity + 0.3 * name + style_weight * style + 0.1 * colour + 0.3 * whole


def whole_captions(pictures: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's loss of pictures and their captions, both ``(captions, width)``, both ways; 0 without any."""
    if not len(pictures):
        return pictures.sum()
    likeness = scale * functional.normalize(pictures, dim=-1) @ functional.normalize(captions, dim=-1).T
    own = torch.arange(len(pictures))
    return (functional.cross_entropy(likeness, own) + functional.cross_entropy(likeness.T, own)) / 2
