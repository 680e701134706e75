"""Small single-file checkpoints with the exact layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bwlab.base.architectures import PUBLISHED, Architecture
from bwlab.base.noise_schedule import new_noise_schedule
from bwlab.base.prediction import EPSILON, Prediction
from bwlab.base.single_file import checkpoint_tensors, empty_component, new_component, new_pipeline
from bwlab.base.tokenizer import clip_tokenizer
from bwlab.formats.ldm import component_locations

if TYPE_CHECKING:
    import torch

    from bwlab.base.architectures import Pipeline

# Widths of text by which the small UNets are told apart, in place of 768, 1024 and 2048.
WIDTHS = {"sd1": 16, "sd2": 24, "sdxl": 40}
_VAE = {"block_out_channels": (4, 8, 12, 16), "norm_num_groups": 4, "sample_size": 64}
_FIRST = {"hidden_size": 16, "intermediate_size": 22, "num_attention_heads": 2, "num_hidden_layers": 2}
_SECOND = {"hidden_size": 24, "intermediate_size": 26, "num_attention_heads": 3, "num_hidden_layers": 3}


def small(family: str) -> Architecture:
    """Return a published architecture with every width cut down, and all of its blocks."""
    published = PUBLISHED[family]
    levels = 3 if family == "sdxl" else 4
    unet = {
        "block_out_channels": (8, 12, 16, 16)[:levels],
        "attention_head_dim": 2 if family == "sd1" else (2, 3, 4, 5)[:levels],
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTHS[family],
        "sample_size": 8,
    }
    texts = ({"sd1": _FIRST, "sd2": _SECOND, "sdxl": _FIRST}[family], {**_SECOND, "projection_dim": 10})
    if family == "sdxl":
        unet |= {"addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 10 + 6 * 6}
        unet |= {"transformer_layers_per_block": (1, 1, 2)}
    return replace(
        published,
        unet={**published.unet, **unet},
        vae={**published.vae, **_VAE},
        text=tuple({**config, **small_text} for config, small_text in zip(published.text, texts, strict=False)),
    )


def random_pipeline(
    architecture: Architecture, prediction: Prediction | None = None, dtype: torch.dtype | None = None
) -> Pipeline:
    """Return an untrained pipeline of an architecture, always with the same weights, all of them random.

    Args:
        architecture: of the models.
        prediction: of the noise schedule; None: the noise.
        dtype: in which the weights are made, from a few random numbers again and again, as a billion of them take half
            a minute; None: float32, each number by itself.
    """
    import torch

    with torch.random.fork_rng(devices=[]), default_dtype(dtype or torch.float32):
        torch.manual_seed(0)
        with nullcontext() if dtype is None else no_initialisation():
            parts = {name: new_component(architecture, name).eval() for name in architecture.components()}
        for part in parts.values():
            for parameter in part.parameters():
                if dtype is not None:
                    repeat_numbers(parameter)
                elif parameter.dim() == 1:  # biases start as zeros and norms as ones: swapped ones would not show
                    torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    tokenizers = [clip_tokenizer(pad) for pad in architecture.pads]
    return new_pipeline(parts, tokenizers, new_noise_schedule(prediction or Prediction(EPSILON)))


@contextmanager
def no_initialisation() -> Iterator[None]:
    """Leave the weights of new layers as they are in memory inside the `with` block."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_uniform_", "uniform_", "normal_", "xavier_uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        patch.setattr(torch.Tensor, "normal_", lambda tensor, *_, **__: tensor)  # transformers has its own functions
        yield


def repeat_numbers(parameter: torch.nn.Parameter, count: int = 2**20) -> None:
    """Fill a parameter with `count` new random numbers, again and again."""
    import torch

    flat = parameter.data.view(-1)
    numbers = 0.02 * torch.randn(min(count, len(flat)))
    for begin in range(0, len(flat), count):
        part = flat[begin : begin + count]
        part.copy_(numbers[: len(part)])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors of floats have a dtype inside the `with` block."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def write_checkpoint(
    path: Path,
    pipe: Pipeline,
    family: str,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a pipeline as a single file, with a tensor that such files have beside the weights, and return its path."""
    import torch
    from safetensors.torch import save_file

    tensors = checkpoint_tensors(pipe, family)
    if dtype is not None:
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def published_file(path: Path, family: str) -> Path:
    """Write the header of a published checkpoint's exact shapes before a hole of the tensors' size."""
    import torch

    from bwlab.formats.ldm import shape_in_file

    shapes: dict[str, tuple[int, ...]] = {}
    for name in PUBLISHED[family].components():
        state = empty_component(PUBLISHED[family], name).state_dict()
        places = component_locations(family, name, state)
        shapes |= {place.key: shape_in_file(place, tuple(state[key].shape)) for key, place in places.items()}
    fields: dict[str, object] = {}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        fields[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path
