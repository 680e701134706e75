"""Stage ``scorer``: a small open_clip model that tells the emoji world's identities and styles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.emoji.autoencoder import learning_rate, mixed_precision
from bwlab.emoji.checkpoint import TrainingFile
from bwlab.emoji.muon import Muon
from bwlab.emoji.progress import StageLog
from bwlab.emoji.scorer_loss import PARTS, WIDTH, scorer_loss, texts_of
from bwlab.emoji.scorer_views import ScorerData, draw_views
from bwlab.emoji.text import new_tokenizer
from bwlab.emoji.world import BACKGROUNDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PEAK_RATE = 1.5e-3
KERNEL_RATE = 0.02
CONTEXT = 20
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return open_clip's ``model_cfg``: a VoVNet of timm for 64 x 64 pictures, a text transformer of two layers.

    The VoVNet's first layers are wide, which keeps lines and textures; its blocks hand on what each layer found.
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

    Small until identities are told apart: a full weight from the start kept the contrast of identities where it began.
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
        data: pictures and words.
        folder: where the checkpoint lies.
        steps: optimiser steps in all.
        seed: of initial weights and sampling.
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
        """Train to the last step, with a checkpoint every ``save_every`` steps, and return the model."""
        while self.step < self.steps:
            log.step(self.step + 1, self.steps, self._learn())
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
        return self.model.eval()


def scorer_tokenizer(names: Sequence[str], styles: Sequence[str]) -> CLIPTokenizer:
    """Return a tokenizer that knows every word of the captions it is taught as one token, others by their pieces."""
    return new_tokenizer({*(word for name in names for word in name.split()), *styles, *BACKGROUNDS, "background"})


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids ``(texts, 20)``."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids
    return ids


def save_scorer(model: nn.Module, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the model in half precision as a folder that open_clip loads as ``local-dir:OUT``.

    Beside open_clip's own keys, ``open_clip_config.json`` says by ``bwlab.parts`` which coordinates carry what.
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
