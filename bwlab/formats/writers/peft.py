"""Writes the keys of PEFT: as diffusers saves them, one file for a pipeline, or as PEFT does, a folder for each model.

Each module's scale is folded in, so that alpha equals the rank: readers that look for alpha in the configuration and
readers that know of none load the same deltas. Only plain LoRA has such a form; a Tucker core is multiplied out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.components import COMPONENTS, component_of
from bwlab.formats.atomic import write_atomically
from bwlab.formats.folders import make_folder
from bwlab.formats.keys import DOWN, UP
from bwlab.formats.lora_form import bias_leaves, untuckered
from bwlab.formats.scaling import with_unit_scale
from bwlab.formats.tensor_file import write_tensors

if TYPE_CHECKING:
    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.module_weights import ModuleWeights
    from bwlab.formats.tensors import LazyTensor

METADATA_KEY = "lora_adapter_metadata"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Models that keep CLIP's transformer below `text_model.` today: the one with a projection. Files kept it for both once.
TEXT_MODEL = "text_model."
_LEAVES = {DOWN: "lora_A.weight", UP: "lora_B.weight"}


def expresses(module: ModuleWeights) -> bool:
    """Whether the module can be written exactly: a LoRA, with a Tucker core or without, that leaves the bias alone."""
    return module.algorithm in ("lora", "tucker") and not bias_leaves(module)


def write_diffusers(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Writes modules and metadata to a `.safetensors` file as `save_lora_weights` of diffusers does."""
    tensors: dict[str, LazyTensor] = {}
    configs: dict[str, object] = {}
    for component, modules in _by_component(contents).items():
        level = TEXT_MODEL if component != "unet" else ""
        named = {_with_level(name, level): module for name, module in modules.items()}
        tensors |= {f"{component}.{key}": tensor for key, tensor in _tensors(named).items()}
        # diffusers 0.42 drops the level from keys where the text encoder has none, and looks names up by their ends.
        configs |= {f"{component}.{key}": value for key, value in lora_config(modules).items()}
    packed = json.dumps(configs, indent=2, sort_keys=True)
    write_tensors(path, tensors, {**contents.metadata, "format": "pt", METADATA_KEY: packed}, dtype)


def write_peft(contents: AdapterContents, path: Path, dtype: str | None = None) -> None:
    """Writes a folder with a folder for each adapted model, which `PeftModel.from_pretrained(subfolder=...)` reads.

    They are named as in diffusers pipelines: `unet`, `text_encoder`, `text_encoder_2`. Modules are named as in
    transformers since 5.6: without `text_model.` in the first text encoder, with it in the second.
    """
    for component, modules in _by_component(contents).items():
        level = TEXT_MODEL if component == "text_encoder_2" else ""
        named = {_with_level(name, level): module for name, module in modules.items()}
        make_folder(path / component)
        tensors = {f"base_model.model.{key}": tensor for key, tensor in _tensors(named).items()}
        write_tensors(path / component / WEIGHTS, tensors, {**contents.metadata, "format": "pt"}, dtype)
        config = {"peft_type": "LORA", "base_model_name_or_path": None, "inference_mode": True, **lora_config(named)}
        write_atomically(path / component / CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())


def lora_config(modules: Mapping[str, ModuleWeights]) -> dict[str, object]:
    """The settings of PEFT's `LoraConfig` for modules whose alpha is their rank, by their names in the model."""
    ranks = {name: module.rank() or 0 for name, module in modules.items()}
    listed = sorted(ranks.values())
    common = max(listed, key=listed.count)
    others = {name: rank for name, rank in ranks.items() if rank != common}
    return {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
    }


def _by_component(contents: AdapterContents) -> dict[str, dict[str, ModuleWeights]]:
    """Component -> module name in it -> module, ready to be written; components without modules are left out."""
    found: dict[str, dict[str, ModuleWeights]] = {}
    for path, module in contents.modules.items():
        component = component_of(path)
        name = path.removeprefix(COMPONENTS[component])
        found.setdefault(component, {})[name] = with_unit_scale(untuckered(module))
    return found


def _with_level(name: str, level: str) -> str:
    return name if name == "text_projection" else level + name.removeprefix(TEXT_MODEL)


def _tensors(modules: Mapping[str, ModuleWeights]) -> dict[str, LazyTensor]:
    return {f"{name}.{_LEAVES[leaf]}": tensor for name, module in modules.items() for leaf, tensor in _written(module)}


def _written(module: ModuleWeights) -> Iterable[tuple[str, LazyTensor]]:
    return ((leaf, tensor) for leaf, tensor in module.leaves.items() if leaf in _LEAVES)
