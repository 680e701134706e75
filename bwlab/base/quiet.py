"""Suppression of the libraries' messages and progress bars."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bwlab.errors import first_line


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers and transformers from messages and progress bars inside the block; as before after it."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(log, log.get_verbosity()) for log in (diffusers_logging, transformers_logging)]
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_bars = diffusers_logging.is_progress_bar_enabled()
    try:
        for log, _ in before:
            _set_verbosity(log, logging.CRITICAL)
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, verbosity in before:
            _set_verbosity(log, verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if diffusers_bars:
            diffusers_logging.enable_progress_bar()


def _set_verbosity(log: Any, verbosity: int) -> None:
    """Set the verbosity of a library where it differs: to set a level clears the cache of every logger."""
    if log.get_verbosity() != verbosity:
        log.set_verbosity(verbosity)


def first_sentence(error: Exception) -> str:
    """Return the first sentence of a library's message, or the error's kind if it has none."""
    return first_line(error).split(". ")[0].rstrip(".")
