"""Pipelines of the Hugging Face hub, by name."""

from __future__ import annotations

import re
from pathlib import Path

from bwlab.bases.quiet import first_sentence, quiet_libraries
from bwlab.errors import BwlabError

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
WITHOUT = ("safety_checker", "feature_extractor", "image_encoder")
FIX = "Give 'emoji', a diffusers folder or a .safetensors checkpoint; a name on the hub needs the network"


def is_hub_name(base: str) -> bool:
    """Return whether a base looks like `owner/name`."""
    return NAME.fullmatch(base) is not None


def hub_folder(name: str, asked: str) -> Path:
    """Return the folder of a pipeline from the hub: downloaded, or kept from an earlier time.

    Raises:
        BwlabError: there is no such path here, and the hub cannot be reached or has no such pipeline.
    """
    from diffusers import DiffusionPipeline

    with quiet_libraries():
        try:
            return Path(DiffusionPipeline.download(name, use_safetensors=True, **dict.fromkeys(WITHOUT)))
        # Offline, unknown, gated or without safetensors: OSError, HTTP errors, ValueError ... by library and version.
        except Exception as error:
            found = f"no such folder or file, and the hub does not give it: {first_sentence(error)}"
            raise BwlabError(asked, found, FIX) from error
