"""The setup of a run: all that it needs is loaded and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.load import load_adapter
from bwlab.adapters.modules import layers_by_path
from bwlab.base.conditioning import check_clip_skip, unload_text_encoders
from bwlab.base.load import base_scheme, load_base, weights_hash
from bwlab.base.models import denoiser_of, family_of, models_of, text_encoders
from bwlab.base.noise import NoiseProcess, noise_process
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.dataset.epochs import Epochs, epoch_examples
from bwlab.dataset.latents import TensorCache, encode_captions
from bwlab.dataset.order import generator_for
from bwlab.dataset.training_set import TrainingSet
from bwlab.errors import BwlabError
from bwlab.files import cache_folder
from bwlab.optimizers.types import OptimizerType
from bwlab.terminal import warn
from bwlab.training.config import AdapterConfig, OptimizerConfig, TrainConfig
from bwlab.training.data import load_training_set, text_reading
from bwlab.training.device import HALF, hold_in_half, new_accelerator, use_fast_attention
from bwlab.training.distributed import Processes
from bwlab.training.graph import check_gradient_path, training_graph
from bwlab.training.sampling import check_previews, encoded_previews, preview_prompts
from bwlab.training.settings import resume_invariants
from bwlab.training.textual_inversion import new_token_embeddings, require_used
from bwlab.training.trainable import CaptionEmbeddings, Trainable, learning_rate, rate_factor

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bwlab.base.architectures import Pipeline
    from bwlab.generation.sample import EncodedPrompts
    from bwlab.plugins.manager import PluginManager


@dataclass(frozen=True)
class TrainingSetup:
    """All that a run needs, loaded.

    Attributes:
        accelerator: device and precision.
        processes: the processes of the run.
        pipe: the frozen base, on the device.
        process: the noise that the base was trained with.
        base_hash: hash of the base's weights.
        trainable: the parameters that are trained, on the device, in float32.
        data: the encoded examples.
        texts: the embeddings of captions; where they are cached, the text encoders have left memory.
        previews: the prompts of previews, encoded; None while the text encoders are there.
        optimizer: the optimiser.
        epochs: the epochs of the data in steps of this run.
        steps: number of optimiser steps of the whole run.

    """

    accelerator: Accelerator
    processes: Processes
    pipe: Pipeline
    process: NoiseProcess
    base_hash: str
    trainable: Trainable
    data: TrainingSet
    texts: CaptionEmbeddings
    previews: Sequence[EncodedPrompts] | None
    optimizer: OptimizerType
    epochs: Epochs
    steps: int

    def resume_invariants(self, config: TrainConfig) -> dict[str, str]:
        """Return the settings that must stay the same for a run to be resumed, by name."""
        return {
            **resume_invariants(config, self.steps, learning_rate(config.training, self.optimizer)),
            **self.data.resume_invariants(),
            "precision": self.accelerator.mixed_precision,
            "processes": str(self.processes.size),
            "data.max_tokens": str(config.data.max_tokens),
            "the base's weights": self.base_hash,
        }

    def graph(self, training: OptimizerConfig) -> AbstractContextManager[None]:
        """Return a context in which training steps build no more graph than the settings need."""
        return training_graph(denoiser_of(self.pipe), self.trainable.adapter.layers, training)


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """The base and what is trained on it; see `TrainingSetup`."""

    accelerator: Accelerator
    processes: Processes
    pipe: Pipeline
    process: NoiseProcess
    base_hash: str
    trainable: Trainable


def prepare_model(config: TrainConfig, manager: PluginManager) -> PreparedModel:
    """Load the base and what is trained on it, for settings that `bwlab.training.check` accepts; nothing is written.

    Raises:
        BwlabError: the optimiser, the base or what is trained is wrong.

    """
    optimizer = manager.optimizer(config.training.optimizer)
    optimizer.load()
    if config.training.steps is not None:
        rate_factor(config.training, config.training.steps)
    training = config.training
    # The precision depends on the base, and loading the base in all processes takes an accelerator.
    with Processes(new_accelerator(training.precision, training.device)).together():
        pipe = load_base(config.base, families=manager.model_families(), quantise=training.quantize)
    accelerator = new_accelerator(training.precision, training.device, denoiser_of(pipe).num_parameters())
    processes = Processes(accelerator)
    with processes.together():
        check_clip_skip(pipe, training.clip_skip)
        check_previews(config.preview, pipe)
        base_hash = weights_hash(pipe)
        trainable = new_trainable(config, pipe, manager)
        if processes.is_main and not config.tokens.alone:
            _warn_of_idle_blocks(config.adapter, trainable.adapter)
        check_gradient_path(denoiser_of(pipe), trainable.adapter.layers, config.training)
        process = noise_process(pipe, training.timestep_sampling, training.timestep_shift)
        if training.min_snr_gamma is not None:
            process.min_snr_weights(process.sample_times(1, torch.Generator()), training.min_snr_gamma)
        freeze(pipe, accelerator)
    return PreparedModel(accelerator, processes, pipe, process, base_hash, trainable)


def run_length(config: TrainConfig, examples: int, processes: int) -> tuple[Epochs, int]:
    """Return the epochs of a run and its number of steps.

    Args:
        config: all settings.
        examples: number of examples in an epoch.
        processes: number of processes.

    """
    training = config.training
    epochs = Epochs(examples, training.batch_size * training.accumulation * processes)
    return epochs, epochs.steps(training.epochs) if training.epochs is not None else training.steps or 0


def prepare(config: TrainConfig, manager: PluginManager, console: Console) -> TrainingSetup:
    """Load and check everything, with cheap checks first; BwlabError for anything that is wrong."""
    model = prepare_model(config, manager)
    processes, pipe, trainable = model.processes, model.pipe, model.trainable
    with processes.main_first():  # the others find its cache on disk
        data = load_training_set(config, pipe, console if processes.is_main else Console(quiet=True), model.base_hash)
        texts = caption_embeddings(config, pipe, trainable, data)
        previews = None
        if texts.are_cached:
            previews = encoded_previews(config, pipe, preview_prompts(config.preview, data.distinct_captions()))
            unload_text_encoders(pipe)
    if trainable.token_embeddings is not None:
        require_used(trainable.token_embeddings, [example.caption for example in data.examples])
    trainable.to(model.accelerator.device)
    epochs, steps = run_length(config, epoch_examples(data.examples), processes.size)
    return TrainingSetup(
        accelerator=model.accelerator,
        processes=processes,
        pipe=pipe,
        process=model.process,
        base_hash=model.base_hash,
        trainable=trainable,
        data=data,
        texts=texts,
        previews=previews,
        optimizer=manager.optimizer(config.training.optimizer),
        epochs=epochs,
        steps=steps,
    )


def new_trainable(config: TrainConfig, pipe: Pipeline, manager: PluginManager) -> Trainable:
    """Return the parameters that the run trains, with their initial values, on the CPU."""
    token_embeddings = new_token_embeddings(config.tokens, pipe)
    scheme = base_scheme(pipe, manager.block_schemes())
    if config.tokens.alone:
        return Trainable(Adapter(config.adapter.type, config.adapter.type, {}, scheme), token_embeddings)
    return Trainable(new_adapter(config, pipe, manager, scheme), token_embeddings)


def new_adapter(config: TrainConfig, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Adapter:
    """Return the initial adapter: one that changes nothing, or the one in `adapter.initial`.

    `--blocks` (`adapter.blocks`) becomes a rank for each block here; `create_adapter` makes layers where it is above 0.
    """
    settings = config.adapter
    adapter = create_adapter(
        denoiser_of(pipe),
        manager.adapter_type(settings.type),
        parse_spec(settings.blocks, scheme, kind="rank"),
        settings.alpha,
        scheme=scheme,
        generator=generator_for(config.training.seed, "adapter"),
        name=settings.type,
        text_encoder=text_encoders(pipe),
        options=settings.options,
    )
    if not family_of(pipe).adapts_text and any(map(in_text_encoder, adapter.layers)):
        found = f"no tool reads adapters with layers in the text encoder of {family_of(pipe).label}"
        raise BwlabError(f"--blocks {settings.blocks!r}", found, "Leave te out, or give it the rank 0")
    return adapter if settings.initial is None else load_initial(adapter, Path(settings.initial), pipe, manager)


def _warn_of_idle_blocks(settings: AdapterConfig, adapter: Adapter) -> None:
    """Warn of blocks that are named with a rank but in which the adapter type has no layer."""
    ranks = parse_spec(settings.blocks, adapter.scheme, kind="rank")
    if idle := ranks.names_without(adapter.layers):
        warn(f"--blocks {settings.blocks!r}: {settings.type} adapts no layer in {', '.join(idle)}")


def caption_embeddings(
    config: TrainConfig, pipe: Pipeline, trainable: Trainable, data: TrainingSet
) -> CaptionEmbeddings:
    """Return the embeddings of captions: cached, unless training changes them or the captions are too many."""
    captions, reading = data.all_captions(), text_reading(config)
    if captions is None or trainable.trains_text():
        return CaptionEmbeddings(pipe, None, trainable.trains_text(), reading)
    cache = TensorCache(Path(config.data.cache or cache_folder()))
    return CaptionEmbeddings(pipe, encode_captions(sorted(captions), pipe, cache, reading), False, reading)


def freeze(pipe: Pipeline, accelerator: Accelerator) -> None:
    """Move the base, which is in float32, to the device, in evaluation mode and without gradients.

    As the latents need no gradient either, autograd's graph begins at the earliest adapted layer. In mixed precision
    the denoiser is held in half precision.
    """
    for model in models_of(pipe):
        model.to(accelerator.device).eval().requires_grad_(False)
    if accelerator.mixed_precision in HALF:
        hold_in_half(denoiser_of(pipe), HALF[accelerator.mixed_precision], family_of(pipe).half_inputs)
    pipe.set_progress_bar_config(disable=True)
    use_fast_attention(denoiser_of(pipe), accelerator.mixed_precision, accelerator.device.type)


def load_initial(adapter: Adapter, path: Path, pipe: Pipeline, manager: PluginManager) -> Adapter:
    """Return the adapter with the weights of a file, rescaled for the adapter's own alphas.

    Raises:
        BwlabError: the file cannot be loaded, or has other layers, other ranks or another adapter type.

    """
    asked = f"adapter.initial = {path}"
    encoders = text_encoders(pipe)
    initial = load_adapter(path, denoiser_of(pipe), manager, adapter.scheme, text_encoder=encoders)
    differing = initial.layers.keys() ^ adapter.layers.keys()
    if differing:
        without = "the file" if next(iter(differing)) in adapter.layers else "adapter.blocks"
        reason = f"{len(differing)} layers differ; {without} has none for {min(differing)}"
        raise BwlabError(asked, reason, "Give adapter.blocks and adapter.type as the file has them")
    model_layers = layers_by_path(denoiser_of(pipe), encoders)
    layers = {}
    for layer_path, layer in adapter.layers.items():
        started = layer.started_at(model_layers[layer_path], initial.layers[layer_path].file_tensors(layer.alpha))
        if started.rank != layer.rank:
            ranks = f"rank {started.rank} at {layer_path}, where adapter.blocks gives {layer.rank}"
            raise BwlabError(asked, ranks, "Give the ranks that the file has")
        layers[layer_path] = started
    return Adapter(adapter.name, adapter.type_name, layers, adapter.scheme, dict(adapter.metadata))
