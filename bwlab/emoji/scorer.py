"""Stage ``scorer``: a small open_clip model that tells the emoji world's identities and styles.

Contrastive training of an image and a text tower (CLIP, arXiv 2103.00020), with several captions for each picture: all
of it, its identity alone, its style alone, its background alone. A picture is thereby near each of them, so that one
embedding holds identity and style side by side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab.emoji.autoencoder import learning_rate, mixed_precision
from bwlab.emoji.checkpoint import TrainingFile
from bwlab.emoji.progress import StageLog
from bwlab.emoji.text import new_tokenizer
from bwlab.emoji.world import BACKGROUNDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PEAK_RATE = 1.5e-3
CONTEXT = 20
EMBEDDING = 192
IDENTITIES_A_STEP = 64
STYLES_A_STEP = 4
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return open_clip's ``model_cfg``: a ResNet for 64 x 64 pictures, a text transformer of two layers."""
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64, "patch_size": None},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "tokenizer",
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def new_scorer(vocabulary: int, seed: int = 0) -> nn.Module:
    """Return an untrained `open_clip.CLIP`."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    config = model_config(vocabulary)
    config["text_cfg"] = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    model: nn.Module = CLIP(**config)
    with torch.no_grad():
        # Different words are far apart from the first step (as in the base's text encoder).
        model.get_parameter("token_embedding.weight").normal_(0, 0.5)
    return model.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ScorerData:
    """What the scorer learns from.

    Attributes:
        art: ``(names, styles, 4, 64, 64)`` uint8 RGBA.
        names: identities as words of captions.
        styles: style words.
        tokenizer: knows all of these words.
    """

    art: Tensor
    names: tuple[str, ...]
    styles: tuple[str, ...]
    tokenizer: CLIPTokenizer

    def tokens(self, texts: list[str]) -> Tensor:
        """Return token ids ``(texts, 20)``."""
        ids: Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        ).input_ids
        return ids


@dataclass(frozen=True)
class Views:
    """One step's pictures.

    Attributes:
        pictures: ``(batch, 3, 64, 64)`` in -1..1.
        names, styles, colours: ``(batch,)`` index of each.
    """

    pictures: Tensor
    names: Tensor
    styles: Tensor
    colours: Tensor


def draw_views(data: ScorerData, generator: torch.Generator) -> Views:
    """Return some identities in some styles each, moved, scaled, mirrored, blurred and over random backgrounds."""
    drawn = torch.randperm(len(data.names), generator=generator)[:IDENTITIES_A_STEP]
    names = drawn.repeat_interleave(STYLES_A_STEP)
    styles = torch.rand(len(drawn), len(data.styles), generator=generator).argsort(1)[:, :STYLES_A_STEP].reshape(-1)
    count = len(names)
    colours = torch.randint(len(BACKGROUNDS), (count,), generator=generator)
    colours[torch.rand(count, generator=generator) < 0.5] = list(BACKGROUNDS).index("white")
    art = moved(data.art[names, styles].float() / 255, generator)
    palette = torch.tensor(list(BACKGROUNDS.values())).float() / 255
    alpha = art[:, 3:]
    pictures = art[:, :3] * alpha + palette[colours][:, :, None, None] * (1 - alpha)
    return Views(worn(pictures, generator) * 2 - 1, names, styles, colours)


def moved(art: Tensor, generator: torch.Generator) -> Tensor:
    """Return art ``(batch, 4, h, w)`` in 0..1 scaled by 0.87..1.18 and moved by up to 4 px, half of it mirrored."""
    count = len(art)
    scale = 0.85 + 0.3 * torch.rand(count, generator=generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (8 / art.shape[-1])
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale * mirror, scale, shift
    colour = torch.cat([art[:, :3] * art[:, 3:], art[:, 3:]], 1)
    grid = functional.affine_grid(matrix, list(colour.shape), align_corners=False)
    warped = functional.grid_sample(colour, grid, align_corners=False)
    return torch.cat([warped[:, :3] / warped[:, 3:].clamp(min=1e-3), warped[:, 3:]], 1)


def worn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures in 0..1 as a generator might paint them: some blurred, all a little noisy, darker or brighter."""
    count = len(pictures)
    soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = torch.rand(count, 1, 1, 1, generator=generator)
    blur = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, blur, torch.zeros_like(blur))
    bright = 1 + 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) * 2 - 1)
    noise = 0.03 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(pictures.shape, generator=generator)
    return (pictures.lerp(soft, blur) * bright + noise).clamp(0, 1)


def contrast(pictures: Tensor, texts: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Return the cross-entropy of each picture's own text among all of them.

    Args:
        pictures: ``(batch, width)``, of length 1.
        texts: ``(texts, width)``, of length 1.
        own: ``(batch,)`` index of each picture's text.
        scale: of the cosines.
    """
    return functional.cross_entropy(scale * pictures @ texts.T, own)


def scorer_loss(model: Any, data: ScorerData, views: Views) -> Tensor:
    """Return the mean of four losses: of the whole caption (both ways), the identity, the style, the background."""
    pictures = functional.normalize(
        model.encode_image(views.pictures.contiguous(memory_format=torch.channels_last)), dim=-1
    )
    names, own_name = views.names.unique(return_inverse=True)
    colours = list(BACKGROUNDS)
    whole = [
        f"{data.styles[style]}, {data.names[name]}, {colours[colour]} background"
        for name, style, colour in zip(views.names, views.styles, views.colours, strict=True)
    ]
    parts = [data.names[name] for name in names], list(data.styles), [f"{colour} background" for colour in colours]
    encoded = model.encode_text(data.tokens([*whole, *parts[0], *parts[1], *parts[2]]))
    texts = functional.normalize(encoded, dim=-1).split([len(whole), *(len(part) for part in parts)])
    scale, every = model.logit_scale.exp(), torch.arange(len(pictures))
    both = (contrast(pictures, texts[0], every, scale) + contrast(texts[0], pictures, every, scale)) / 2
    identity = contrast(pictures, texts[1], own_name, scale)
    style = contrast(pictures, texts[2], views.styles, scale)
    return (both + identity + 0.5 * style + 0.25 * contrast(pictures, texts[3], views.colours, scale)).float()


class ScorerTraining:
    """A restartable training of the scorer.

    Args:
        data: pictures and words.
        folder: where the checkpoint lies.
        steps: optimiser steps in all.
        seed: of initial weights and sampling.
    """

    def __init__(self, data: ScorerData, folder: Path, steps: int, seed: int = 0) -> None:
        self.data, self.folder, self.steps = data, folder, steps
        self.model = new_scorer(len(data.tokenizer), seed).train()
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self._checkpoint = TrainingFile(
            folder / "scorer.pt", {"model": self.model, "optimizer": self.optimizer}, self.generator
        )
        self.step: int = self._checkpoint.restore().get("step", 0)

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step)

    def _learn(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, PEAK_RATE)
        with mixed_precision(True):
            loss = scorer_loss(self.model, self.data, draw_views(self.data, self.generator))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.model.get_parameter("logit_scale").clamp_(max=4.6052)  # CLIP, section 2.5: at most 100
        self.step += 1
        return float(loss.detach())

    def run(self, log: StageLog, save_every: int = 250) -> nn.Module:
        """Train to the last step, with a checkpoint every ``save_every`` steps, and return the model."""
        while self.step < self.steps:
            log.step(self.step + 1, self.steps, self._learn())
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
        return self.model.eval()


def scorer_tokenizer(names: tuple[str, ...], styles: tuple[str, ...]) -> CLIPTokenizer:
    """Return a tokenizer that knows every word of the captions as one token."""
    return new_tokenizer({*(word for name in names for word in name.split()), *styles, *BACKGROUNDS, "background"})


def save_scorer(model: nn.Module, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the model in half precision as a folder that open_clip loads as ``local-dir:OUT``."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(half, out / WEIGHTS)
    (out / WEIGHTS).chmod(0o644)  # safetensors writes it readable by its owner alone
    preprocess = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": preprocess}
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(out)
