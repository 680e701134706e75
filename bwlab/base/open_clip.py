"""Models of open_clip, loaded without a word of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

LOCAL = "local-dir:"  # what open_clip wants before a folder of config and weights


def load_open_clip(name: str, weights: str | None = None) -> tuple[Any, Callable[[Image], Tensor], Any]:
    """Return a model with weights, in evaluation mode, what makes a picture its input, and its tokenizer.

    Args:
        name: one of open_clip's, or `local-dir:` or `hf-hub:` and where it lies.
        weights: a file, or a name of open_clip's; None where the name says where they are.

    Raises:
        Exception: nearly any kind, for a wrong name, file or connection, and where there are no weights.

    """
    import open_clip

    with _quiet():
        model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=weights)
        return model.eval(), preprocess, open_clip.get_tokenizer(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip tells of what it does, and of failures that it raises too, through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
