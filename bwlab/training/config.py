"""Settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from bwlab.config.model import Options, Settings, Text, Texts
from bwlab.dataset.config import DataConfig, RegularisationConfig

Schedule = Literal["constant", "linear", "cosine", "cosine_restarts", "polynomial"]


class AdapterConfig(Settings):
    """The adapter to train."""

    type: Text = "locon"
    """Adapter type that a plugin registered (`bwlab plugins` lists them)."""

    blocks: Text = "all=16"
    """Rank of each block as a block spec, such as "upper=16, mid=4"."""

    alpha: float | None = Field(default=None, gt=0)
    """The delta is scaled by `alpha / rank`; if it is not set, alpha is the rank of each module."""

    options: Options = Field(default_factory=dict)
    """Further options of the adapter type."""

    initial: Text | None = None
    """Adapter file to start from, with the same blocks and ranks."""


class OptimizerConfig(Settings):
    """The optimiser: number of steps, batch size, learning rate and precision."""

    alternatives: ClassVar[Mapping[str, str]] = {"epochs": "steps", "warmup_share": "warmup"}

    steps: int | None = Field(default=1000, ge=1)
    """Number of optimiser steps."""

    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of epochs, instead of steps: in an epoch every image is shown once, times its repeats."""

    batch_size: int = Field(default=4, ge=1, le=65_536)
    """Images per batch, for each process."""

    accumulation: int = Field(default=1, ge=1, le=65_536)
    """Batches whose gradients make one step."""

    optimizer: Text = "adamw"
    """Optimiser: adamw, adafactor, prodigy, lion, adamw8bit, or one that a plugin registered (`bwlab plugins`)."""

    optimizer_options: Options = Field(default_factory=dict)
    """Further arguments of the optimiser."""

    lr: float | None = Field(default=None, gt=0)
    """Learning rate, or for `prodigy` a factor of the rate that it finds; if it is not set, 5e-4, 1e-4 for `lion` and 1
    for `prodigy`."""

    block_lr: Text | None = None
    """Learning rates of single blocks as a block spec, such as "upper=1e-3, te=5e-5"; other blocks have `lr`."""

    schedule: Schedule = "constant"
    """Learning rate schedule."""

    warmup: int | None = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""

    warmup_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from 0, instead of a number of steps."""

    cycles: int = Field(default=1, ge=1, le=1000)
    """Number of cycles of the schedule `cosine_restarts`."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of the optimiser."""

    max_grad_norm: float = Field(default=1.0, ge=0)
    """Norm that gradients are clipped to; 0 clips none."""

    clip_skip: int = Field(default=1, ge=1, le=12)
    """Layer of the text encoder that is read, counted from the last one, which is 1; SDXL always reads the last but
    one."""

    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Cap of the loss weight by signal-to-noise ratio (arXiv 2303.09556, section 3.4); if it is not set, all timesteps
    weigh the same."""

    timestep_sampling: Literal["auto", "uniform", "logit_normal"] = "auto"
    """How training draws times: `auto` as the base was trained, which is uniformly by diffusion and logit-normally by
    flow matching (arXiv 2403.03206, section 3.1)."""

    timestep_shift: float | None = Field(default=None, gt=0, le=100)
    """Shift of the times towards noise by flow matching; if it is not set, that of the base's scheduler."""

    noise_offset: float = Field(default=0.0, ge=0, le=1)
    """Strength of the added noise that is constant over each channel; 0 adds none."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward and backward pass (autocast); `auto` is whichever is fast on the device."""

    quantize: Literal["none", "nf4", "int8"] = "none"
    """Format of the frozen linear layers of the denoiser: `none`, or 4 bits (`nf4`) or 8 bits (`int8`) by bitsandbytes,
    which need less memory."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, only where a gradient flows."""

    gradient_path: Literal["exact", "skip"] = "exact"
    """Path of the gradient: `exact`, or `skip`, which runs the inner blocks without a graph (an approximation)."""

    compile: bool = False
    """Compile the denoiser with torch.compile."""

    ema: float = Field(default=0.0, ge=0, le=0.999999)
    """Decay of the moving average of the trained weights, which is saved in their place; 0 saves the last weights."""

    device: Text = "auto"
    """Device: `auto` or a name of PyTorch such as cpu, cuda, cuda:1 or mps."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the adapter's initial weights, the order of images, the noise and the timesteps."""

    def warmup_steps(self, steps: int) -> int:
        """Return the number of steps over which the learning rate rises, of a run of this many steps.

        >>> OptimizerConfig(warmup_share=0.1).warmup_steps(250)
        25
        """
        return (self.warmup or 0) if self.warmup_share is None else int(self.warmup_share * steps)


class TokensConfig(Settings):
    """Textual inversion (arXiv 2208.01618): new words whose embeddings are trained, with the adapter or alone."""

    words: Texts = ()
    """New words, as captions write them; an empty list trains no embeddings."""

    initial: Text = ""
    """Text whose embeddings the new words start from; an empty text means `*`."""

    vectors: int = Field(default=1, ge=1, le=64)
    """Embeddings per word."""

    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the embeddings; if it is not set, 5e-3, or for `prodigy` that of the adapter."""

    alone: bool = False
    """Train the embeddings only, without an adapter."""


class OutputConfig(Settings):
    """The adapter file that the run writes."""

    name: Text = "adapter"
    """Name of the adapter file without its extension; the adapters of checkpoints are named after it too."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Dtype of the saved weights; alphas and embeddings of new words are always saved in fp32."""


class TrackingConfig(Settings):
    """Trackers of accelerate that the run reports to, beside `log.jsonl`."""

    trackers: Texts = ()
    """Names of the trackers: `tensorboard`, `wandb`."""

    project: Text = "bwlab"
    """Name of the project at the tracker."""

    run: Text | None = None
    """Name of the run at the tracker; if it is not set, the name of the run's folder."""


class PreviewConfig(Settings):
    """Images that are sampled during the training."""

    alternatives: ClassVar[Mapping[str, str]] = {"every_epochs": "every"}

    every: int | None = Field(default=500, ge=0)
    """Steps between previews; 0 samples them only at the end."""

    every_epochs: int | None = Field(default=None, ge=1)
    """Epochs between previews, instead of steps."""

    prompts: Texts = ()
    """Prompts of the previews; an empty list means the first two different captions of the data."""

    negative: Text = ""
    """Negative prompt."""

    steps: int = Field(default=25, ge=1, le=1000)
    """Sampling steps of a preview."""

    cfg: float = Field(default=7.0, ge=0, le=1000)
    """Classifier-free guidance scale."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the first preview; the next previews count up from it."""

    width: int | None = Field(default=None, ge=8, le=16384)
    """Width of previews in pixels; if it is not set, that of the images that the base was made for."""

    height: int | None = Field(default=None, ge=8, le=16384)
    """Height of previews in pixels; if it is not set, that of the images that the base was made for."""

    enabled: bool = True
    """Sample previews at all."""


class CheckpointConfig(Settings):
    """Checkpoints, from which a run can be resumed."""

    alternatives: ClassVar[Mapping[str, str]] = {"every_epochs": "every"}

    every: int | None = Field(default=500, ge=0)
    """Steps between checkpoints; 0 saves one only at the end (and on Ctrl-C)."""

    every_epochs: int | None = Field(default=None, ge=1)
    """Epochs between checkpoints, instead of steps."""

    keep: int = Field(default=2, ge=1)
    """Number of newest checkpoints that are kept."""


class TrainConfig(Settings):
    """All settings of a training run."""

    base: Text = "emoji"
    """Base model: `emoji` or `emoji-dit` (embedded), the folder of a diffusers pipeline, a single-file checkpoint or a
    hub id."""

    out: Text = ""
    """Folder of the run."""

    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    regularisation: RegularisationConfig = RegularisationConfig()
    output: OutputConfig = OutputConfig()
    training: OptimizerConfig = OptimizerConfig()
    tokens: TokensConfig = TokensConfig()
    preview: PreviewConfig = PreviewConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
