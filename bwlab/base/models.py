"""The models of a loaded base: its family, its denoiser, and its text encoders with their tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bwlab.base.families.builtin import FAMILIES
from bwlab.base.families.family import MARK, ModelFamily
from bwlab.base.names import DENOISERS
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from torch import nn

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


def family_of(pipe: Any) -> ModelFamily:
    """Return the family of a pipeline: the one it was loaded as, or else the built-in one of its class.

    Raises:
        BwlabError: no family is known for it.

    """
    marked = _marked(pipe, DENOISERS)
    if marked is not None:
        return marked
    kind = type(pipe).__name__
    for known in FAMILIES:
        controlled = () if known.controlnet_classes is None else known.controlnet_classes.names()
        if kind in (*known.kinds, *known.classes.names(), *controlled):
            return known
    marked = _marked(pipe, getattr(pipe, "components", ()))
    if marked is not None:
        return marked
    raise BwlabError(f"a {kind}", "no model family is known for it", "Load it with bwlab.load_base")


def _marked(pipe: Any, components: Iterable[str]) -> ModelFamily | None:
    """Return the family that one of the components is marked with."""
    marks = (getattr(getattr(pipe, component, None), MARK, None) for component in components)
    return next((mark for mark in marks if isinstance(mark, ModelFamily)), None)


def denoiser_of(pipe: Any) -> Any:
    """Return the network of a pipeline that predicts noise: its UNet or transformer."""
    return getattr(pipe, family_of(pipe).denoiser)


def family_of_denoiser(denoiser: Any) -> ModelFamily:
    """Return the family that a denoiser belongs to, from its mark or the class in its config.

    Raises:
        BwlabError: no family is known for it.

    """
    family = getattr(denoiser, MARK, None)
    if isinstance(family, ModelFamily):
        return family
    config = dict(getattr(denoiser, "config", {}))
    for known in FAMILIES:
        if known.scheme(config) is not None:
            return known
    kind = type(denoiser).__name__
    raise BwlabError(f"a {kind}", "no model family is known for it", "Load its pipeline with bwlab.load_base")


def text_encoders(pipe: Any) -> tuple[nn.Module, ...]:
    """Return the text encoders that a base has; adapters name their layers `te.<path>`, `te2.<path>`, `te3.<path>`."""
    encoders = (getattr(pipe, name, None) for name in ENCODERS)
    return tuple(encoder for encoder in encoders if encoder is not None)


def tokenizers(pipe: Any) -> list[Any]:
    """Return the tokenizer of each text encoder."""
    return [
        getattr(pipe, tokenizer)
        for encoder, tokenizer in zip(ENCODERS, TOKENIZERS, strict=True)
        if getattr(pipe, encoder, None) is not None
    ]


def models_of(pipe: Any) -> tuple[nn.Module, ...]:
    """Return the networks of a base: denoiser, autoencoder and text encoders."""
    return (denoiser_of(pipe), pipe.vae, *text_encoders(pipe))
