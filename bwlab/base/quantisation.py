"""Bases whose denoiser holds its linear layers in 4 or 8 bits: bitsandbytes, through diffusers' quantisation configs.

`nf4` is the 4-bit format of QLoRA with double quantisation (Dettmers et al., arXiv 2305.14314), and `int8` that of
LLM.int8() (Dettmers et al., arXiv 2208.07339), which rounds activations to 8 bits too. Layers are quantised one by one
while they are read, on the CPU, so that the result does not depend on the device.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bwlab.errors import BwlabError
from bwlab.text import parse_json

if TYPE_CHECKING:
    import torch
    from torch import nn

Quantisation: TypeAlias = Literal["none", "nf4", "int8"]

PACKAGE = "bitsandbytes"
QUANTISED = "bwlab_quantised"
"""Name of the attribute of a quantised denoiser that holds its format."""
STORED_HASH = "bwlab_stored_hash"
"""Name of the attribute of a denoiser with other numbers than its files: a function that returns the files' hash."""


def check_quantisation(quantise: Quantisation, base: str | Path) -> None:
    """Raise BwlabError if a base cannot be quantised: bitsandbytes is missing, or the base is a single file."""
    if quantise == "none":
        return
    asked = f"--quantize {quantise}"
    if importlib.util.find_spec(PACKAGE) is None:
        raise BwlabError(asked, f"the package {PACKAGE} is not installed", "pip install 'bwlab[quantize]'")
    if Path(base).is_file():
        raise BwlabError(asked, f"{base} is a single file", "Give the folder of a diffusers pipeline")


def stored_format(folder: Path) -> str | None:
    """Return the method by which the model in a folder was quantised before it was saved; None if it was not."""
    try:
        method = parse_json((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(method)


def refuse_quantised(denoiser: nn.Module, asked: str) -> None:
    """Raise BwlabError if a denoiser is quantised, so that a delta cannot be added to its weights."""
    method = quantised_as(denoiser)
    if method is not None:
        raise BwlabError(asked, f"its weights are quantised ({method})", "Give the model before it was quantised")


def quantising_options(quantise: Quantisation, component: str) -> Mapping[str, object]:
    """Return the arguments of diffusers' `from_pretrained` for a pipeline of which one component is quantised.

    Args:
        quantise: the format; `"none"` gives no arguments.
        component: name of the component.

    """
    if quantise == "none":
        return {}
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**(four if quantise == "nf4" else {"load_in_8bit": True}))
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={component: config})}


@contextmanager
def quantising_on_cpu() -> Iterator[None]:
    """Let diffusers quantise on the CPU inside the `with` block.

    diffusers 0.42 refuses to use bitsandbytes without a GPU, which releases of bitsandbytes from 0.46 on do not need.
    """
    from diffusers.quantizers import auto

    methods: dict[str, Any] = auto.AUTO_QUANTIZER_MAPPING
    before = {name: methods[name] for name in ("bitsandbytes_4bit", "bitsandbytes_8bit")}
    methods |= {name: type(kind.__name__, (_OnCpu, kind), {}) for name, kind in before.items()}
    # It warns in every step that activations are cast to float16, which is the format.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    try:
        yield
    finally:
        methods |= before


class _OnCpu:
    """What differs from diffusers' quantisers where weights are quantised on the CPU."""

    def validate_environment(self, *_: object, **__: object) -> None:
        """Accept a machine without a GPU."""

    def update_device_map(self, _: object) -> dict[str, str]:
        """Return the CPU as the place of the whole model."""
        return {"": "cpu"}


def quantised_as(denoiser: nn.Module) -> str | None:
    """Return the format in which a denoiser holds its linear layers; None if it is not quantised."""
    quantisation: str | None = getattr(denoiser, QUANTISED, None)
    return quantisation


def compute_in(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Let the quantised layers of a denoiser compute in a dtype, that of their inputs."""
    module: Any
    for module in denoiser.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
