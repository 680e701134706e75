"""Loading models of open_clip without its log messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

LOCAL = "local-dir:"  # open_clip's prefix of a folder with config and weights


def load_open_clip(name: str, weights: str | None = None) -> tuple[Any, Callable[[Image], Tensor], Any]:
    """Return a model with weights, in evaluation mode, its image preprocessing, and its tokenizer.

    Args:
        name: a name of open_clip's, or `local-dir:` or `hf-hub:` with a location.
        weights: a file, or a name of open_clip's; None if the name locates them.

    Raises:
        Exception: nearly any kind, for a wrong name, file or connection, and where there are no weights.

    """
    import open_clip

    with _quiet():
        model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=weights)
        return model.eval(), preprocess, _tokenizer(name)


@cache
def _tokenizer(name: str) -> Any:
    """Return the tokenizer of a model; its vocabulary takes a fifth of a second to read."""
    import open_clip

    return open_clip.get_tokenizer(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, to which open_clip reports its steps, and failures that it raises as well."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
