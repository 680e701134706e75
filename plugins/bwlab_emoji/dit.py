"""Stage `dit`: the embedded transformer, a small Stable Diffusion 3, trained on cached latents by flow matching."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from bwlab.base.families.equal_tokens import compute_equal_tokens_once
from bwlab.base.load import load_base
from bwlab.base.names import EMBEDDED
from bwlab.base.noise import FlowMatching
from bwlab_emoji.art import load_art
from bwlab_emoji.build import latent_pool
from bwlab_emoji.text import WIDTH
from bwlab_emoji.training import Muon, RestartableTraining, StageLog, TrainingFile, let_all_read
from bwlab_emoji.unet import CAPTION_DROPOUT, LatentPool, trapezoid
from bwlab_emoji.vae import LATENT_CHANNELS

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from bwlab.base.architectures import Pipeline

BLOCKS, HEADS, HEAD_WIDTH = 12, 5, 32
TOKENS = 24
"""Tokens of a caption; the longest of the training world has 12."""
EMPTY_T5_TOKENS = 256
"""Zeros that StableDiffusion3Pipeline gives the transformer in place of the text of a T5 that is not there."""
SCALING = 1.2
"""What latents are multiplied by, so that their standard deviation over the training world is 1."""
PEAK_RATE = 1e-3
MATRIX_RATE = 0.02
SAVE_EVERY = 250
PROCESS = FlowMatching()


def new_transformer(seed: int = 0) -> SD3Transformer2DModel:
    """Return an untrained SD3 transformer of 12 joint blocks, for 16 x 16 latents of 8 channels in patches of 2 x 2.

    Modulations and the output start at 0, as in arXiv 2212.09748 (adaLN-Zero): each block starts as the identity.
    """
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    modulations = [module.linear for name, module in model.named_modules() if name.endswith(("norm1", "norm1_context"))]
    for layer in (*modulations, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def new_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the noise process of Stable Diffusion 3 without a shift, since these latents have only 64 tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=PROCESS.shift)


@torch.no_grad()
def with_projection(encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """Return the encoder as Stable Diffusion 3 reads it: hidden states before the last layer, and a projection.

    A third layer and the projection are added and are the identity, so both outputs are those of the second layer.
    """
    from transformers import CLIPTextModelWithProjection

    config = type(encoder.config).from_dict({**encoder.config.to_dict(), "num_hidden_layers": 3})
    result = CLIPTextModelWithProjection(config)
    result.text_model.load_state_dict(encoder.state_dict(), strict=False)
    last = result.text_model.encoder.layers[-1]
    for layer in (last.self_attn.out_proj, last.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.eye_(result.text_projection.weight)
    return result.eval()


@dataclass(frozen=True)
class Captions:
    """Every caption of the training world as the transformer reads it.

    Attributes:
        states: `(captions, 24, 256)`, the tokens of both encoders side by side.
        pooled: `(captions, 256)`.
        index: `(images, backgrounds)`, the caption of each image.
        empty: the index of the empty caption.

    """

    states: Tensor
    pooled: Tensor
    index: Tensor
    empty: int


@torch.no_grad()
def encode_captions(encoder: CLIPTextModelWithProjection, pool: LatentPool) -> Captions:
    """Return the pool's captions, encoded once, as two equal encoders give them."""
    tokens = torch.cat([pool.tokens.flatten(0, 1), pool.empty[None]])[:, :TOKENS]
    unique, index = tokens.unique(dim=0, return_inverse=True)
    outputs = [encoder(chunk, output_hidden_states=True) for chunk in unique.split(256)]
    states = torch.cat([output.hidden_states[-2] for output in outputs])
    pooled = torch.cat([output.text_embeds for output in outputs])
    return Captions(
        torch.cat([states, states], -1),
        torch.cat([pooled, pooled], -1),
        index[:-1].view(pool.tokens.shape[:2]),
        int(index[-1]),
    )


class TransformerTraining(RestartableTraining):
    """A restartable training of the transformer by flow matching (arXiv 2403.03206), with a frozen text encoder.

    Args:
        pool: latents and captions.
        captions: the pool's captions, encoded.
        folder: the folder of the checkpoint.
        steps: optimiser steps in all.
        coloured_from: step from which half of the images have a coloured background.
        batch: images in a step.
        seed: seed for initial weights and sampling.
        compile_model: use `torch.compile` (needs a C++ compiler; pays after some 1,000 steps).

    """

    def __init__(
        self,
        pool: LatentPool,
        captions: Captions,
        folder: Path,
        steps: int,
        coloured_from: int,
        batch: int = 32,
        seed: int = 0,
        compile_model: bool = False,
    ) -> None:
        self.pool, self.captions = pool, captions
        self.coloured_from, self.batch = coloured_from, batch
        self.model = new_transformer(seed)
        compute_equal_tokens_once(self.model)
        self._forward = torch.compile(self.model) if compile_model else self.model
        self._adam, self._muon = _optimizers(self.model)
        self.generator = torch.Generator().manual_seed(seed)
        parts = {"model": self.model, "adam": self._adam, "muon": self._muon}
        super().__init__(TrainingFile(folder / "dit.pt", parts, self.generator), steps)

    def _loss(self) -> Tensor:
        image, background = self.pool.draw(self.batch, self.generator, coloured=self.step >= self.coloured_from)
        caption = self.captions.index[image, background]
        caption[torch.rand(self.batch, generator=self.generator) < CAPTION_DROPOUT] = self.captions.empty
        latents = self.pool.latents[image, background].float() * SCALING
        noise = torch.randn(latents.shape, generator=self.generator)
        times = PROCESS.sample_times(self.batch, self.generator)
        noisy = PROCESS.add_noise(latents, noise, times)
        states = functional.pad(self.captions.states[caption], (0, 0, 0, EMPTY_T5_TOKENS))
        prediction = self._forward(noisy, states, self.captions.pooled[caption], times, return_dict=False)[0]
        return functional.mse_loss(prediction, PROCESS.target(latents, noise, times))

    def _change(self) -> Tensor:
        loss = self._loss()
        factor = trapezoid(self.step, self.steps)
        for optimizer, peak in ((self._adam, PEAK_RATE), (self._muon, MATRIX_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in (self._adam, self._muon):
            optimizer.step()
            optimizer.zero_grad()
        return loss


def _optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, Muon]:
    """Return AdamW for embeddings, modulations, norms and biases, and Muon for the matrices of attention and MLPs."""
    parameters = dict(model.named_parameters())
    matrices = [name for name, value in parameters.items() if value.ndim == 2 and (".attn." in name or ".ff" in name)]
    others = [value for name, value in parameters.items() if name not in matrices]
    adam = torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return adam, Muon([parameters[name] for name in matrices], MATRIX_RATE)


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of a build of the embedded transformer.

    Attributes:
        out: the pipeline folder to write.
        work: the folder of downloads, caches and checkpoints; keep it to continue a build.
        seed: seed for every random choice.
        steps: optimiser steps.
        coloured_from: step from which coloured backgrounds are mixed in.
        compile_model: use `torch.compile`.

    """

    out: Path
    work: Path
    seed: int = 0
    steps: int = 2_500
    coloured_from: int = 1_150
    compile_model: bool = False


def build_transformer(config: TransformerConfig, console: Console) -> Path:
    """Train the transformer from its last checkpoint, and write its pipeline folder; return it.

    Autoencoder, tokenizer and text encoder are those of the embedded base.
    """
    config.work.mkdir(parents=True, exist_ok=True)
    base = load_base(EMBEDDED)
    encoder = with_projection(base.text_encoder)
    pool = latent_pool(base.vae, base.tokenizer, load_art(config.work))
    training = TransformerTraining(
        pool,
        encode_captions(encoder, pool),
        config.work,
        config.steps,
        config.coloured_from,
        seed=config.seed,
        compile_model=config.compile_model,
    )
    with StageLog("dit", config.work / "log.jsonl", console) as log:
        training.run(log, SAVE_EVERY)
    save_transformer(training, base, encoder, config.out)
    return config.out


def save_transformer(
    training: TransformerTraining, base: Pipeline, encoder: CLIPTextModelWithProjection, out: Path
) -> None:
    """Write the pipeline in half precision, as an ordinary folder without a T5.

    The rate has come down to nothing, so the last weights are better than an average, which lags behind.

    diffusers loads it with `text_encoder_3=None, tokenizer_3=None`, as any Stable Diffusion 3 without a T5.
    """
    from diffusers import AutoencoderKL, StableDiffusion3Pipeline

    transformer = new_transformer()
    transformer.load_state_dict(training.model.state_dict())
    settings = {key: value for key, value in base.vae.config.items() if key != "_name_or_path"}  # of this machine
    vae = AutoencoderKL.from_config({**settings, "scaling_factor": SCALING, "shift_factor": 0.0})
    vae.load_state_dict(base.vae.state_dict())
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.model_max_length = TOKENS
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=new_flow_scheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.to(torch.float16).save_pretrained(out)
    let_all_read(out)
