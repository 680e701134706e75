"""The settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bwlab.config.fields import Section, bounded, choice, maybe
from bwlab.dataset.config import DataConfig, RegularisationConfig


@dataclass(frozen=True)
class AdapterConfig(Section):
    """What is trained.

    Attributes:
        type: an adapter type that a plugin registered (`bwlab plugins` lists them).
        blocks: the rank of each block, in the grammar of block specs.
        alpha: the delta is scaled by `alpha / rank`; none means each module's own rank, a scale of 1 everywhere.
        options: further options of the adapter type.
        initial: an adapter file to go on from, with the same blocks and ranks.

    """

    type: str = "locon"
    blocks: str = "all=16"
    alpha: float | None = maybe(above=0.0)
    options: Mapping[str, object] = field(default_factory=dict)
    initial: str | None = None


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """How long, how fast and in which way it learns.

    Attributes:
        steps: optimiser steps.
        batch_size: pictures a step, for each process.
        accumulation: batches whose gradients make one step.
        optimizer: `adamw`, `adafactor` or `prodigy`, which finds its own rate.
        optimizer_options: further arguments of the optimiser.
        lr: learning rate; none means 5e-4, or for `prodigy`, where it is a factor of the rate it finds, 1.
        block_lr: rates of single blocks, in the grammar of block specs; the others have `lr`.
        schedule: how the rate changes over the run.
        warmup: steps over which the rate rises from 0.
        cycles: of the cosine with restarts.
        weight_decay: of the optimiser.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        min_snr_gamma: cap of the loss weight by signal to noise (arXiv 2303.09556, 3.4); none weighs all steps alike.
        noise_offset: added noise that is the same over each channel; 0 adds none.
        precision: `fp32`, `bf16`, `fp16` (autocast) or `auto`: whichever is fast on the device.
        gradient_checkpointing: recompute activations in the backward pass, only where a gradient flows.
        gradient_path: `exact`, or `skip`: the inner blocks run without a graph (an approximation; see the docs).
        compile: compile the UNet with torch.compile.
        ema: decay of the moving average of what is trained, which is saved instead; 0 saves the last weights.
        device: `auto` or a device as PyTorch names it.
        seed: of the adapter's start, the order of pictures, noise and timesteps.

    """

    steps: int = bounded(1000, least=1)
    batch_size: int = bounded(4, least=1, most=65_536)
    accumulation: int = bounded(1, least=1, most=65_536)
    optimizer: str = choice("adamw", "adamw", "adafactor", "prodigy")
    optimizer_options: Mapping[str, object] = field(default_factory=dict)
    lr: float | None = maybe(above=0.0)
    block_lr: str | None = None
    schedule: str = choice("constant", "constant", "linear", "cosine", "cosine_restarts", "polynomial")
    warmup: int = bounded(0, least=0)
    cycles: int = bounded(1, least=1, most=1000)
    weight_decay: float = bounded(0.01, least=0.0)
    max_grad_norm: float = bounded(1.0, least=0.0)
    min_snr_gamma: float | None = maybe(above=0.0)
    noise_offset: float = bounded(0.0, least=0.0, most=1.0)
    precision: str = choice("auto", "auto", "fp32", "bf16", "fp16")
    gradient_checkpointing: bool = False
    gradient_path: str = choice("exact", "exact", "skip")
    compile: bool = False
    ema: float = bounded(0.0, least=0.0, most=0.999999)
    device: str = "auto"
    seed: int = bounded(0, least=0, most=2**63 - 1)

    def rate(self) -> float:
        """Return the learning rate: `lr`, or the optimiser's usual one."""
        usual = 1.0 if self.optimizer == "prodigy" else 5e-4
        return usual if self.lr is None else self.lr


@dataclass(frozen=True)
class TokensConfig(Section):
    """Textual inversion (arXiv 2208.01618): new words whose embeddings are trained, with the adapter or alone.

    Attributes:
        words: the new words, as captions write them; none trains no embeddings.
        initial: the text whose embeddings they start from; none means that of `*`.
        vectors: embeddings a word.
        lr: learning rate of the embeddings; none means 5e-3, or for `prodigy` that of the adapter.
        alone: train the embeddings only, without an adapter.

    """

    words: tuple[str, ...] = ()
    initial: str = ""
    vectors: int = bounded(1, least=1, most=64)
    lr: float | None = maybe(above=0.0)
    alone: bool = False


@dataclass(frozen=True)
class TrackingConfig(Section):
    """Where accelerate's trackers report to, beside `log.jsonl`.

    Attributes:
        trackers: `tensorboard`, `wandb`.
        project: name of the project there.
        run: name of the run there; none means the name of the run's folder.

    """

    trackers: tuple[str, ...] = ()
    project: str = "bwlab"
    run: str | None = None


@dataclass(frozen=True)
class PreviewConfig(Section):
    """Pictures made while it learns.

    Attributes:
        every: steps between previews; 0 makes them only at the end.
        prompts: what they show; none given means the first two different captions of the data.
        negative: the negative prompt.
        steps: sampling steps.
        cfg: classifier-free guidance.
        seed: of the first picture; the next ones count up.
        enabled: false makes none at all.

    """

    every: int = bounded(500, least=0)
    prompts: tuple[str, ...] = ()
    negative: str = ""
    steps: int = bounded(25, least=1, most=1000)
    cfg: float = bounded(7.0, least=0.0, most=1000.0)
    seed: int = bounded(0, least=0, most=2**63 - 1)
    enabled: bool = True


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """How often the run can be taken up again.

    Attributes:
        every: steps between checkpoints; 0 saves only at the end (and on Ctrl-C).
        keep: newest checkpoints that are kept.

    """

    every: int = bounded(500, least=0)
    keep: int = bounded(2, least=1)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    Attributes:
        base: `emoji` (the embedded model), the folder of a diffusers pipeline, a single-file checkpoint or a hub id.
        out: folder of the run.

    """

    base: str = "emoji"
    out: str = ""
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = field(default_factory=DataConfig)
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    training: OptimizerConfig = OptimizerConfig()
    tokens: TokensConfig = TokensConfig()
    preview: PreviewConfig = PreviewConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
