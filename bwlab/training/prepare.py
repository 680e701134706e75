"""All that a run needs, loaded and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.pipelines import base_scheme, load_base, weights_hash
from bwlab.training.config import AdapterConfig, TrainConfig
from bwlab.training.dataset import dataset_hash
from bwlab.training.device import new_accelerator, use_fast_attention
from bwlab.training.objective import noise_schedule
from bwlab.training.randomness import generator_for
from bwlab.training.training_set import TrainingSet, load_training_set

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    from bwlab.plugins import PluginManager


@dataclass(frozen=True)
class Prepared:
    """What a run works with.

    Attributes:
        accelerator: device and precision.
        pipe: the frozen base, on the device.
        schedule: the noise the base was trained with.
        base_hash: of the base's weights.
        adapter: fresh, on the device, in float32.
        data: the encoded examples.
    """

    accelerator: Accelerator
    pipe: StableDiffusionPipeline
    schedule: DDPMScheduler
    base_hash: str
    adapter: Adapter
    data: TrainingSet

    def lasting_settings(self, config: TrainConfig) -> dict[str, str]:
        """Return what must stay the same for a run to be resumed, by name."""
        training = config.training
        return {
            "adapter.type": config.adapter.type,
            "adapter.blocks": config.adapter.blocks,
            "adapter.alpha": str(config.adapter.alpha),
            "adapter.options": str(sorted(config.adapter.options.items())),
            "training.batch_size": str(training.batch_size),
            "training.lr": str(training.lr),
            "training.weight_decay": str(training.weight_decay),
            "training.max_grad_norm": str(training.max_grad_norm),
            "training.seed": str(training.seed),
            "precision": self.accelerator.mixed_precision,
            "resolution": str(tuple(self.data.means.shape[2:])),
            "the base's weights": self.base_hash,
            "the data": dataset_hash(self.data.examples),
        }


def prepare(config: TrainConfig, manager: PluginManager, console: Console) -> Prepared:
    """Load and check everything; cheap checks come first. BwlabError for whatever is wrong."""
    adapter_type = manager.adapter_type(config.adapter.type)
    accelerator = new_accelerator(config.training.precision)
    pipe = load_base(config.base)
    base_hash = weights_hash(pipe)
    scheme = base_scheme(pipe, manager)
    adapter = create_adapter(
        pipe.unet,
        adapter_type,
        unet_ranks(config.adapter, scheme),
        config.adapter.alpha,
        scheme=scheme,
        generator=generator_for(config.training.seed, "adapter"),
        name=config.adapter.type,
        options=config.adapter.options,
    )
    schedule = noise_schedule(pipe)
    freeze(pipe, accelerator)
    data = load_training_set(config.data, pipe, console)
    adapter.to(accelerator.device, torch.float32)
    return Prepared(accelerator, pipe, schedule, base_hash, adapter, data)


def unet_ranks(config: AdapterConfig, scheme: BlockScheme) -> BlockSpec:
    """Return the rank of each block; BwlabError for a bad spec or one that names the text encoder."""
    ranks = parse_spec(config.blocks, scheme, kind="rank")
    if ranks.by_block().get("te"):
        found = "training the text encoder is not supported"
        raise BwlabError(f"--blocks {config.blocks}", found, "Leave te out, or give it rank 0")
    return ranks


def freeze(pipe: StableDiffusionPipeline, accelerator: Accelerator) -> None:
    """Bring the base, which is in float32, to the device: in evaluation mode, without gradients.

    As the latents ask for no gradient either, autograd's graph begins at the earliest adapted layer.
    """
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.to(accelerator.device).eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    use_fast_attention(pipe.unet, accelerator.mixed_precision, accelerator.device.type)
