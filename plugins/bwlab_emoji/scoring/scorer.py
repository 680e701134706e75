"""The scorer: a small open_clip model that recognises the identities and styles of the emoji world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bwlab_emoji.scoring.data import ScorerData, Views, draw_views
from bwlab_emoji.text import new_tokenizer
from bwlab_emoji.training import Muon, StageLog, TrainingFile
from bwlab_emoji.vae import learning_rate, mixed_precision
from bwlab_emoji.world import BACKGROUNDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


PEAK_RATE = 1.5e-3
KERNEL_RATE = 0.02
CONTEXT = 20
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"

# The coordinates of an embedding that carry each property.
PARTS = {"identity": slice(0, 160), "style": slice(160, 224), "background": slice(224, 256)}
WIDTH = 256
PICTURES_AT = 0.1  # temperature between images
TEXTS_AT = 0.07  # temperature between images and words
UNKNOWN = 0.15  # share of captions whose identity is a made-up word


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return open_clip's `model_cfg`: a VoVNet of timm for 64 x 64 images, a text transformer of two layers.

    The VoVNet's first layers are wide, which keeps lines and textures; its blocks pass on the output of each layer.
    """
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "timm_model_name": "ese_vovnet19b_slim",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
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


def style_weight(along: float) -> float:
    """Return the weight of the style's loss at a share of the training, 0..1.

    The weight is small until identities are distinguished: with a full weight from the start the contrast of
    identities stayed where it began.
    """
    return 0.2 + 1.3 * min(1.0, max(0.0, (along - 0.3) / 0.3))


def _optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, Muon]:
    """Return AdamW for all but the image tower's kernels, and Muon for these (twice as fast in steps)."""
    parameters = dict(model.named_parameters())
    kernels = [name for name, p in parameters.items() if name.startswith("visual") and p.dim() == 4 and p.shape[1] > 3]
    others = [p for name, p in parameters.items() if name not in kernels]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    return adam, Muon([parameters[name] for name in kernels], KERNEL_RATE)


class ScorerTraining:
    """A restartable training of the scorer.

    Args:
        data: images and words.
        folder: the folder of the checkpoint.
        steps: optimiser steps in all.
        seed: seed for initial weights and sampling.

    """

    def __init__(self, data: ScorerData, folder: Path, steps: int, seed: int = 0) -> None:
        self.data, self.folder, self.steps = data, folder, steps
        self.model = new_scorer(len(data.tokenizer), seed).train()
        self.optimizer, self.kernels = _optimizers(self.model)
        self.generator = torch.Generator().manual_seed(seed)
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "kernels": self.kernels,
        }
        self._checkpoint = TrainingFile(folder / "scorer.pt", parts, self.generator)
        self.step: int = self._checkpoint.restore().get("step", 0)

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when it is complete."""
        self._checkpoint.save(self.step)

    def _loss(self) -> Tensor:
        views = draw_views(self.data, self.generator)
        texts = texts_of(self.data, views, self.generator)
        backgrounds = [f"{colour} background" for colour in BACKGROUNDS]
        tokens = token_ids(self.data.tokenizer, [*texts.names, *self.data.styles, *backgrounds, *texts.captions])
        with mixed_precision(True):
            return scorer_loss(self.model, self.data, views, texts, tokens, style_weight(self.step / self.steps))

    def _learn(self) -> float:
        for optimizer, peak in ((self.optimizer, PEAK_RATE), (self.kernels, KERNEL_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.steps, peak)
        loss = self._loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.kernels.step()
        self.model.zero_grad()
        with torch.no_grad():
            self.model.get_parameter("logit_scale").clamp_(max=4.6052)  # CLIP, section 2.5: at most 100
        self.step += 1
        return float(loss.detach())

    def run(self, log: StageLog, save_every: int = 250) -> nn.Module:
        """Train to the last step, with a checkpoint every `save_every` steps, and return the model."""
        while self.step < self.steps:
            log.step(self.step + 1, self.steps, self._learn())
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
        return self.model.eval()


def scorer_tokenizer(names: Sequence[str], styles: Sequence[str]) -> CLIPTokenizer:
    """Return a tokenizer that encodes every word of these captions as one token, and other words in pieces."""
    return new_tokenizer({*(word for name in names for word in name.split()), *styles, *BACKGROUNDS, "background"})


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids `(texts, 20)`."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids
    return ids


def save_scorer(model: nn.Module, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the model in half precision as a folder that open_clip loads as `local-dir:OUT`.

    Beside open_clip's own keys, `open_clip_config.json` has `bwlab.parts`: the coordinates of each part.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(half, out / WEIGHTS)
    (out / WEIGHTS).chmod(0o644)  # safetensors writes it readable by its owner alone
    config = {
        "model_cfg": model_config(len(tokenizer)),
        "preprocess_cfg": {"size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        "bwlab": {"parts": {name: [where.start, where.stop] for name, where in PARTS.items()}},
    }
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(out)


def part(embeddings: Tensor, name: str) -> Tensor:
    """Return the coordinates that carry `name`, of length 1."""
    return functional.normalize(embeddings[..., PARTS[name]], dim=-1)


def same_identity(embeddings: Tensor, identities: Tensor) -> Tensor:
    """Return the supervised contrast of images (Khosla et al. 2020, equation 2): of one identity, in any style.

    Args:
        embeddings: `(batch, width)`, of length 1.
        identities: `(batch,)` index of the identity that each shows.

    """
    itself = torch.eye(len(embeddings), dtype=torch.bool)
    likeness = (embeddings @ embeddings.T / PICTURES_AT).masked_fill(itself, -1e4)
    same = (identities[:, None] == identities) & ~itself
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    return -(log_share * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


def own_text(images: Tensor, texts: Tensor, own: Tensor) -> Tensor:
    """Return the cross-entropy of each image's text among all of them; 0 without images.

    Args:
        images: `(batch, width)`, of length 1.
        texts: `(texts, width)`, of length 1.
        own: `(batch,)` index of each image's text.

    """
    if not len(images):
        return images.sum()
    return functional.cross_entropy(images @ texts.T / TEXTS_AT, own, label_smoothing=0.05)


@dataclass(frozen=True)
class Texts:
    """One step's texts.

    Attributes:
        names: the step's identities.
        captions: of the images `captioned`.
        captioned: `(captions,)` index of each caption's image.

    """

    names: list[str]
    captions: list[str]
    captioned: Tensor


def texts_of(data: ScorerData, views: Views, generator: torch.Generator) -> Texts:
    """Return the names and captions of one step.

    Some captions name what they show by a made-up word, so that words outside the scorer's vocabulary say nothing about
    the identity.
    """
    first = torch.arange(int(views.identities.max()) + 1) * (len(views.names) // (int(views.identities.max()) + 1))
    captioned = (views.named & views.kept).nonzero()[:, 0]
    unknown = torch.rand(len(captioned), generator=generator) < UNKNOWN
    captions = []
    for index, made_up in zip(captioned.tolist(), unknown.tolist(), strict=True):
        name = made_up_word(generator) if made_up else data.names[views.names[index]]
        colour = list(BACKGROUNDS)[views.colours[index]]
        captions.append(f"{data.styles[views.styles[index]]}, {name}, {colour} background")
    return Texts([data.names[name] for name in views.names[first].tolist()], captions, captioned)


def made_up_word(generator: torch.Generator) -> str:
    """Return 3 to 8 random letters."""
    length = int(torch.randint(3, 9, (), generator=generator))
    return "".join(chr(ord("a") + int(letter)) for letter in torch.randint(26, (length,), generator=generator))


def scorer_loss(
    model: Any, data: ScorerData, views: Views, texts: Texts, tokens: Tensor, style_weight: float
) -> Tensor:
    """Return the loss of one step.

    Between images: `same_identity` in the coordinates of identity. Between images and words, each in its own
    coordinates: identity, style and background. Between images and whole captions, in all coordinates: CLIP's.

    Args:
        model: an `open_clip.CLIP`.
        data: images and words.
        views, texts: views and texts of the step.
        tokens: token ids of `texts.names`, the styles, the backgrounds and `texts.captions`, in this order.
        style_weight: weight of the style's loss.

    """
    images = model.encode_image(views.images.contiguous(memory_format=torch.channels_last)).float()
    sizes = [len(texts.names), len(data.styles), len(BACKGROUNDS), len(texts.captions)]
    names, styles, colours, captions = model.encode_text(tokens).float().split(sizes)
    named, kept = views.named, views.kept
    identity = same_identity(part(images, "identity"), views.identities)
    name = own_text(part(images[named], "identity"), part(names, "identity"), views.identities[named])
    style = own_text(part(images[kept], "style"), part(styles, "style"), views.styles[kept])
    colour = own_text(part(images[kept], "background"), part(colours, "background"), views.colours[kept])
    whole = whole_captions(images[texts.captioned], captions, model.logit_scale.exp())
    return identity + 0.3 * name + style_weight * style + 0.1 * colour + 0.3 * whole


def whole_captions(images: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's loss of images and their captions, both `(captions, width)`, both ways; 0 without any."""
    if not len(images):
        return images.sum()
    likeness = scale * functional.normalize(images, dim=-1) @ functional.normalize(captions, dim=-1).T
    own = torch.arange(len(images))
    return (functional.cross_entropy(likeness, own) + functional.cross_entropy(likeness.T, own)) / 2
