"""What a training needs in memory, computed from shapes alone: `bwlab train --plan-memory`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.device import AUTO, chosen_device
from bwlab.base.families.family import MARK, ModelFamily, TextBatch
from bwlab.base.models import ENCODERS
from bwlab.base.names import base_path, base_unet
from bwlab.base.quantisation import Quantisation
from bwlab.base.weights import component_files
from bwlab.blocks.configs import meta_denoiser
from bwlab.blocks.families import scheme_for
from bwlab.blocks.spec import parse_spec
from bwlab.dataset.buckets import BaseSize
from bwlab.errors import BwlabError
from bwlab.tables import Cell, Table, columns_of
from bwlab.text import parse_json
from bwlab.training.config import TrainConfig
from bwlab.training.device import HALF, hold_in_half, mixed_precision
from bwlab.training.graph import training_graph
from bwlab.training.memory.step import StepMemory, step_memory
from bwlab.training.summary import PRECISIONS

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager

CARDS = (8, 12, 16, 24)
"""Memory of graphics cards, in GiB."""
GIB = 2**30
WIDTHS = ("joint_attention_dim", "cross_attention_dim", "cap_feat_dim")
"""Entries of configs that hold the width of a text's tokens."""
CHUNK = 64
SCALES = 256
"""Weights that share a scale in nf4, and scales that share another one (arXiv 2305.14314, section 3)."""
SIZES = 6
"""Numbers about the size of an image, on which SDXL is conditioned."""
FORMATS: tuple[Quantisation, ...] = ("none", "int8", "nf4")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a training needs.

    Attributes:
        denoiser: weights of the denoiser, by the format of its linear layers.
        dequantised: the largest linear layer's weight, which is dequantised whole where layers are quantised.
        text_encoders, autoencoder: weights of the other models in float32; None where the base's files are not here.
        adapter: weights of the adapter.
        optimizer: state of the optimiser; None for optimisers of plugins that do not say it.
        step: memory of a step above what is held, without and with gradient checkpointing.
        precision: in which the denoiser is held.

    """

    denoiser: Mapping[Quantisation, int]
    dequantised: int
    text_encoders: int | None
    autoencoder: int | None
    adapter: int
    optimizer: int | None
    step: Mapping[bool, StepMemory]
    precision: str

    def held(self, quantise: Quantisation) -> int:
        """Return what is held between steps while the run trains; the text encoders have left memory."""
        return self.denoiser[quantise] + (self.autoencoder or 0) + self.adapter + (self.optimizer or 0)

    def peak_of_step(self, quantise: Quantisation, checkpointing: bool) -> int:
        """Return the most that a step needs above what is held."""
        return self.step[checkpointing].peak + (self.dequantised if quantise != "none" else 0)

    def peak(self, quantise: Quantisation, checkpointing: bool) -> int:
        """Return the most that is needed while the run trains."""
        return self.held(quantise) + self.peak_of_step(quantise, checkpointing)

    def encoding(self, quantise: Quantisation) -> int | None:
        """Return what is held while captions and images are encoded, before the first step; None if not known."""
        if self.text_encoders is None:
            return None
        return self.denoiser[quantise] + self.text_encoders + (self.autoencoder or 0)


@dataclass(frozen=True)
class _Latents:
    """The latents of a base: channels, pixels per latent in each direction, and the usual side of its images."""

    channels: int
    factor: int
    side: int


@dataclass(frozen=True, eq=False)
class _Model:
    """A denoiser and an adapter on fake tensors, which have shapes alone."""

    family: ModelFamily
    denoiser: Any
    adapter: Adapter
    pipe: Any
    latents: _Latents
    mixed: str
    gpu: bool
    tokens: int


def memory_plan(config: TrainConfig, manager: PluginManager) -> MemoryPlan:
    """Return what a training with these settings needs; no weights are read.

    Args:
        config: all settings; the base may also be a name that `bwlab blocks` knows, such as `flux`.
        manager: the plugins.

    Raises:
        BwlabError: there is no such base, no family knows its denoiser, or what is trained is wrong.

    """
    family, denoiser, mixed = _denoiser(config, manager)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _model(config, manager, family, denoiser, mixed)
        step = {checkpointing: _step(model, config, checkpointing) for checkpointing in (False, True)}
    adapter = sum(parameter.nbytes for parameter in model.adapter.parameters())
    numbers = manager.optimizer(config.training.optimizer).state_bytes
    largest = max(layer.weight.nbytes for layer in model.denoiser.modules() if isinstance(layer, nn.Linear))
    encoders, autoencoder = _other_models(config.base)
    return MemoryPlan(
        denoiser={quantise: _weights(model.denoiser, quantise) for quantise in FORMATS},
        dequantised=largest,
        text_encoders=encoders,
        autoencoder=autoencoder,
        adapter=adapter,
        optimizer=None if numbers is None else math.ceil(adapter / torch.float32.itemsize * numbers),
        step=step,
        precision=PRECISIONS[model.mixed],
    )


def _denoiser(config: TrainConfig, manager: PluginManager) -> tuple[ModelFamily, Any, str]:
    """Return the family, the denoiser on meta tensors in its precision, and accelerate's name of that precision."""
    training = config.training
    denoiser_config = base_unet(config.base).config
    families = (family for family in manager.model_families() if family.scheme(denoiser_config) is not None)
    family = next(families, None)
    if family is None:
        raise BwlabError(f"--plan-memory --base {config.base}", "no model family trains it", "Give another base")
    denoiser: Any = meta_denoiser({"_class_name": "UNet2DConditionModel", **denoiser_config})
    setattr(denoiser, MARK, family)
    mixed = mixed_precision(training.precision, _device(config), denoiser.num_parameters())
    if mixed in HALF:
        hold_in_half(denoiser, HALF[mixed], family.half_inputs)
    return family, denoiser, mixed


def _device(config: TrainConfig) -> str:
    """Return the kind of the device, which need not be here; BwlabError for one that PyTorch does not know."""
    name = config.training.device
    try:
        return torch.device(chosen_device(name) if name == AUTO else name).type
    except RuntimeError:
        return torch.device(chosen_device(name)).type


def _model(config: TrainConfig, manager: PluginManager, family: ModelFamily, denoiser: Any, mixed: str) -> _Model:
    settings, folder = config.adapter, _folder(config.base)
    scheme = scheme_for(dict(denoiser.config), manager.block_schemes())
    _make_fake(denoiser)
    latents = _latents(family, denoiser, folder)
    pipe = SimpleNamespace(**{family.denoiser: denoiser}, vae_scale_factor=latents.factor)
    ranks = parse_spec(settings.blocks, scheme, kind="rank")
    kind = manager.adapter_type(settings.type)
    adapter = create_adapter(denoiser, kind, ranks, settings.alpha, scheme=scheme, options=settings.options)
    folders = () if folder is None else tuple(path.name for path in folder.iterdir())
    tokens = family.text_length(folders)
    return _Model(family, denoiser, adapter.train(), pipe, latents, mixed, _device(config) != "cpu", tokens)


def _folder(base: str) -> Path | None:
    """Return the folder of a base; None for a single file and for a name whose config alone is known."""
    path = base_path(base)
    return path if path.is_dir() else None


def _latents(family: ModelFamily, denoiser: Any, folder: Path | None) -> _Latents:
    """Return the latents of a base; where its autoencoder is not here, those of the published models."""
    if folder is None:
        channels, factor = 4 if family.denoiser == "unet" else 16, 8
    else:
        config = parse_json((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        channels = int(config.get("latent_channels") or config["z_dim"])
        levels = config.get("block_out_channels") or config["dim_mult"]
        factor = 2 ** (len(levels) - 1)
    pipe: Any = SimpleNamespace(**{family.denoiser: denoiser}, vae_scale_factor=factor)
    return _Latents(channels, factor, family.base_side(pipe))


def _make_fake(denoiser: nn.Module) -> None:
    """Put fake tensors in place of a model's meta tensors; inside a `FakeTensorMode`."""
    for module in denoiser.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module._parameters[name] = nn.Parameter(_fake(parameter), requires_grad=False)
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = _fake(buffer)
    denoiser.eval()


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _step(model: _Model, config: TrainConfig, checkpointing: bool) -> StepMemory:
    """Return the memory of a step; inside the `FakeTensorMode` of the model."""
    training = config.training.replace(gradient_checkpointing=checkpointing)
    size = BaseSize(model.latents.side, model.family.size_step(model.pipe), model.latents.factor)
    side = size.latents(config.data.resolution)
    batch = training.batch_size
    latents = torch.empty(batch, model.latents.channels, side, side)
    times = torch.empty(batch)
    conditions = model.family.conditions(model.pipe, _text(model, batch), torch.empty(batch, 6))

    def predict() -> Tensor:
        with _autocast(model.mixed):
            return model.family.run(model.denoiser, latents, times, conditions)

    trained = list(model.adapter.parameters())
    graph = training_graph(model.denoiser, model.adapter.layers, training)
    with attach(model.denoiser, ScaledAdapter(model.adapter)), graph:
        memory = step_memory(predict, torch.empty_like(latents), trained, model.gpu)
    for parameter in trained:
        parameter.grad = None
    return memory


@contextmanager
def _autocast(mixed: str) -> Iterator[None]:
    """Compute in mixed precision inside the `with` block; fake tensors lie on the CPU, whatever the device."""
    with torch.autocast("cpu", HALF.get(mixed, torch.bfloat16), enabled=mixed in HALF):
        yield


def _text(model: _Model, batch: int) -> TextBatch:
    """Return the text of a batch, of the most tokens that are read."""
    config = model.denoiser.config
    width = next(int(config[name]) for name in WIDTHS if config.get(name))
    pooled = config.get("pooled_projection_dim")
    if pooled is None and config.get("addition_time_embed_dim"):
        pooled = config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]
    return TextBatch(
        torch.empty(batch, model.tokens, width), None if pooled is None else torch.empty(batch, int(pooled))
    )


def _weights(denoiser: nn.Module, quantise: Quantisation) -> int:
    """Return the bytes of a denoiser's weights with its linear layers in a format."""
    linear = {id(m.weight): m.weight for m in denoiser.modules() if isinstance(m, nn.Linear)}
    others = sum(p.nbytes for p in denoiser.parameters() if id(p) not in linear)
    return others + sum(_format_bytes(weight, quantise) for weight in linear.values())


def _format_bytes(weight: Tensor, quantise: Quantisation) -> int:
    if quantise == "none":
        return weight.nbytes
    if quantise == "int8":
        return weight.numel() + len(weight) * torch.float32.itemsize
    scales = math.ceil(weight.numel() / CHUNK)
    return math.ceil(weight.numel() / 2) + scales + math.ceil(scales / SCALES) * torch.float32.itemsize


def _other_models(base: str) -> tuple[int | None, int | None]:
    """Return the bytes of text encoders and autoencoder in float32, from the headers of their files."""
    folder = _folder(base)
    if folder is None:
        return None, None
    return sum(_stored(folder / name, base) for name in ENCODERS), _stored(folder / "vae", base)


def _stored(folder: Path, base: str) -> int:
    files = component_files(folder, f"--base {base}")
    sizes = {key: math.prod(entry.shape) for file in files for key, entry in file.entries.items()}
    return sum(sizes.values()) * torch.float32.itemsize


def plan_tables(plan: MemoryPlan, config: TrainConfig) -> tuple[Table, Table]:
    """Return what a training needs, part by part, and which cards it fits into, in several variants."""
    training = config.training
    step, quantise = plan.step[training.gradient_checkpointing], training.quantize
    parts = {
        f"denoiser, {plan.precision if quantise == 'none' else quantise}": plan.denoiser[quantise],
        "autoencoder, fp32": plan.autoencoder,
        f"adapter {config.adapter.type}, fp32": plan.adapter,
        f"state of {training.optimizer}": plan.optimizer,
        "gradients": step.gradients,
        "activations kept for the backward pass": step.kept,
    }
    note = "Not counted: Python and its libraries, memory that allocators hold without using it, and previews."
    peak = plan.peak(quantise, training.gradient_checkpointing)
    totals = {
        "peak while training": peak,
        "before the first step, with the text encoders in fp32": plan.encoding(quantise),
    }
    table = Table(
        columns_of("", "GiB"),
        tuple((Cell(name), _gib(size)) for name, size in parts.items()),
        totals=tuple((Cell(name), _gib(size)) for name, size in totals.items()),
        title=f"Memory of a training: {config.base}, {config.adapter.blocks}, batch {training.batch_size}",
        note=note,
    )
    return table, _cards(plan)


def _cards(plan: MemoryPlan) -> Table:
    rows = []
    for checkpointing in (False, True):
        for quantise in FORMATS:
            peak = plan.peak(quantise, checkpointing)
            fits = (Cell("yes" if peak <= size * GIB else "no") for size in CARDS)
            name = plan.precision if quantise == "none" else quantise
            rows.append((Cell(name), Cell("yes" if checkpointing else "no"), _gib(peak), *fits))
    heads = columns_of("denoiser", "checkpointing", "peak, GiB", *(f"{size} GB" for size in CARDS))
    return Table(heads, tuple(rows), title="Peak while training, and the cards that it fits into")


def _gib(size: int | None) -> Cell:
    return Cell("not known") if size is None else Cell(f"{size / GIB:.2f}", size)
