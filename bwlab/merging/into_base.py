"""Merge adapters into the weights of a base model: `bwlab merge --into`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bwlab.base.load import base_scheme, load_base
from bwlab.base.models import denoiser_of
from bwlab.base.quantisation import refuse_quantised
from bwlab.base.single_file import pipeline_family
from bwlab.base.weights import open_model
from bwlab.errors import BwlabError
from bwlab.files import make_folder, new_folder, remove_unfinished
from bwlab.formats.contents import AdapterContents
from bwlab.formats.tensors import is_float
from bwlab.linalg.factored import Array
from bwlab.merging.merge import MergeRecipe, TrackParts, every_part, merge_inputs, notes, read_adapters
from bwlab.merging.methods import Method, ScaledModule, bias_delta, dense_delta
from bwlab.merging.output import SUFFIX, Outcome, dtype_named, refuse_overwriting
from bwlab.terminal import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline
    from bwlab.plugins.manager import PluginManager

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def merge_into(
    recipe: MergeRecipe,
    base: str,
    out: Path,
    manager: PluginManager,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    track: TrackParts = iter,
) -> Outcome:
    """Write a base model with adapters folded into its layers, with the effect that attaching the adapters would have.

    Every delta is computed from the base's original weights, so the order of the adapters does not matter; deltas are
    exact and not low-rank.

    Args:
        recipe: the adapters and how they are merged.
        base: the model, as `load_base` takes it.
        out: a folder for a diffusers pipeline, or a `.safetensors` file for a single-file checkpoint.
        manager: the plugins.
        dtype: `"fp32"`, `"fp16"` or `"bf16"`; None: that of the base's own file.
        overwrite: whether a file may be replaced; a folder is never replaced.
        track: function that shows the progress.

    Raises:
        BwlabError: the adapters do not fit together or do not fit the base, a number does not fit the dtype, or the
            path exists.

    """
    recipe.check()
    name = base_dtype(base) if dtype is None else dtype_named(dtype)
    refuse_overwriting([out], overwrite and out.suffix == SUFFIX)
    adapters = read_adapters(recipe.adapters, manager, recipe.drop_unknown)
    pipe = load_base(base, families=manager.model_families())
    refuse_quantised(denoiser_of(pipe), f"--into {base}")
    scheme, layers = base_scheme(pipe, manager.block_schemes()), model_parts(pipe)
    require_fit(adapters, layers, base)
    if out.suffix == SUFFIX:
        pipeline_family(pipe)
    inputs = merge_inputs(adapters, recipe.scales, recipe.choose, scheme)
    every = list(every_part(inputs))
    if not every:
        found = "every adapter has the scale 0 everywhere"
        raise BwlabError("merging adapters", found, "Give scales or a choice of blocks that leave a delta")
    for parts in track(every):
        add_to_layer(layers[parts[0].module.path], parts, recipe.method)
    _save(pipe, out, name)
    dropped = [f"left out: embeddings of {', '.join(inputs.embeddings())}"] if inputs.embeddings() else []
    return Outcome((out,), len(every), scheme, (), (*notes(inputs), *dropped))


def base_dtype(base: str) -> str:
    """Return the dtype of most of a base's weights in its file, as safetensors names it; F32 where that is unclear."""
    try:
        dtypes = Counter(tensor.dtype for tensor in open_model(base).tensors.values() if is_float(tensor.dtype))
    except BwlabError:  # weights in other files than safetensors
        return "F32"
    common = dtypes.most_common(1)[0][0] if dtypes else "F32"
    return common if common in TORCH_NAMES else "F32"


def model_parts(pipe: Pipeline) -> dict[str, nn.Module]:
    """Return the modules of UNet and text encoders that have a weight, by path in adapters."""
    from bwlab.adapters.modules import TEXT_MODEL, text_prefix
    from bwlab.base.models import text_encoders

    parts = {path: module for path, module in denoiser_of(pipe).named_modules() if _has_weight(module)}
    for index, encoder in enumerate(text_encoders(pipe)):
        named = ((path.removeprefix(TEXT_MODEL), module) for path, module in encoder.named_modules())
        parts |= {text_prefix(index) + path: module for path, module in named if _has_weight(module)}
    return parts


def require_fit(adapters: Iterable[AdapterContents], layers: Mapping[str, nn.Module], base: str) -> None:
    """Raise `BwlabError` unless the model has each layer that the adapters change."""
    for adapter in adapters:
        missing = [path for path in adapter.modules if path not in layers]
        if missing:
            changed = counted(len(adapter.modules), "layer")
            lacks = f"lacks {len(missing)} of the {changed} that {adapter.path.name} changes"
            fix = "Use the base model that the adapters were made for"
            raise BwlabError(f"--into {base}", f"the model {lacks}, first {missing[0]}", fix)


def add_to_layer(layer: nn.Module, parts: list[ScaledModule], method: Method) -> None:
    """Add the merged deltas to the weight, and to the bias if there is one to add."""
    weight, path = layer.get_parameter("weight"), parts[0].module.path
    _add(weight, dense_delta(parts, method, weight.detach().double().numpy()), path)
    bias = bias_delta(parts)
    if bias is None:
        return
    own: Tensor | None = getattr(layer, "bias", None)
    if own is None:
        found = "the adapter changes the bias of this layer, which has none"
        raise BwlabError(f"merging into {path}", found, "Use the base model that the adapters were made for")
    _add(own, bias, path)


def _add(tensor: Tensor, delta: Array, path: str) -> None:
    import torch

    if tensor.numel() != delta.size:
        found = f"its weight is {tuple(tensor.shape)}, the delta {delta.shape}"
        raise BwlabError(f"merging into {path}", found, "Use the base model that the adapters were made for")
    total = tensor.detach().double().numpy() + delta.reshape(tuple(tensor.shape))
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(total)))


def _has_weight(module: nn.Module) -> bool:
    from torch import Tensor

    return isinstance(getattr(module, "weight", None), Tensor)


def _save(pipe: Pipeline, out: Path, dtype: str) -> None:
    remove_unfinished(out.parent, out.name)
    if out.suffix == SUFFIX:
        _save_file(pipe, out, dtype)
    else:
        _save_folder(pipe, out, dtype)


def _save_file(pipe: Pipeline, out: Path, dtype: str) -> None:
    from bwlab.base.single_file import checkpoint_metadata, checkpoint_tensors
    from bwlab.formats.safetensors import write_tensors
    from bwlab.formats.torch_tensors import lazy_tensor

    tensors = {key: lazy_tensor(tensor, key) for key, tensor in checkpoint_tensors(pipe).items()}
    write_tensors(out, tensors, {"format": "pt", **checkpoint_metadata(pipe)}, dtype)


def _save_folder(pipe: Pipeline, out: Path, dtype: str) -> None:
    """Write the folder under a temporary name first, so that it is written completely or not at all."""
    import torch

    from bwlab.base.quiet import quiet_libraries

    _require_range(pipe, getattr(torch, TORCH_NAMES[dtype]))
    make_folder(out.parent)
    try:
        with quiet_libraries(), new_folder(out) as temporary:
            pipe.to(getattr(torch, TORCH_NAMES[dtype])).save_pretrained(temporary)
    except OSError as error:
        raise BwlabError(f"saving {out}", error.strerror or str(error), "Free some space or choose another") from error


def _require_range(pipe: Pipeline, dtype: object) -> None:
    import torch

    if dtype != torch.float16:
        return
    for path, module in model_parts(pipe).items():
        if float(module.get_parameter("weight").detach().abs().max()) > torch.finfo(torch.float16).max:
            raise BwlabError(f"writing {path} as fp16", "a number is too large", "Write it as fp32 or bf16")
