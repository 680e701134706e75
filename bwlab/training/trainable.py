"""What a run trains: an adapter, new words, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.conditioning import TextBatch, encode_texts, text_encoders
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import EVERYTHING
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.training.config import TrainConfig
from bwlab.training.textual_inversion import TokenEmbeddings

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


WORDS = "words"

WORDS_RATE = 5e-3

Kept = dict[str, TextBatch]


@dataclass(frozen=True, eq=False)
class Trainable:
    """What a run trains.

    Attributes:
        adapter: without layers if only words are trained.
        words: None if only an adapter is trained.

    """

    adapter: Adapter
    words: TokenEmbeddings | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter, those that are held at their start too."""
        return [*self.adapter.parameters(), *(self.words.rows if self.words else ())]

    def trains_text(self) -> bool:
        """Return whether the text embeddings of a caption change while this is trained."""
        return self.words is not None or any(map(in_text_encoder, self.adapter.layers))

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """Act on the pipeline inside the `with` block; after it the pipeline is what it was."""
        encoders = text_encoders(pipe)
        with attach(pipe.unet, ScaledAdapter(self.adapter), text_encoder=encoders):
            if self.words is None:
                yield
            else:
                with self.words.attached(pipe):
                    yield

    def to(self, device: torch.device) -> None:
        """Move everything to a device, in float32."""
        self.adapter.to(device, torch.float32)
        for rows in self.words.rows if self.words else ():
            rows.data = rows.data.to(device, torch.float32)

    def training(self, mode: bool) -> None:
        """Switch layers between training and use (dropout and the like); which parameters have gradients stays."""
        for layer in self.adapter.layers.values():
            layer.train(mode)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (`path:name`, tensor) of every parameter and buffer."""
        for path, layer in self.adapter.layers.items():
            for name, tensor in layer.state_dict().items():
                yield f"{path}:{name}", tensor
        for index, rows in enumerate(self.words.rows if self.words else ()):
            yield f"{WORDS}:{index}", rows.detach()

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Take over a state; BwlabError if it is of other blocks, ranks, words or another adapter type."""
        own = dict(self.state())
        if {key: tensor.shape for key, tensor in saved.items()} != {key: tensor.shape for key, tensor in own.items()}:
            raise BwlabError("--resume", "the checkpoint holds other layers or ranks", "Train in another folder")
        for path, layer in self.adapter.layers.items():
            start = f"{path}:"
            layer.load_state_dict({key.removeprefix(start): t for key, t in saved.items() if key.startswith(start)})
        for index, rows in enumerate(self.words.rows if self.words else ()):
            rows.data.copy_(saved[f"{WORDS}:{index}"])


def parameter_groups(config: TrainConfig, learned: Trainable) -> list[dict[str, Any]]:
    """Return the groups of an optimiser, one for each rate, and one for the words, whose embeddings do not decay.

    Parameters with a rate of 0 are in no group and get no gradient: they stay at their start.

    Raises:
        BwlabError: a bad `training.block_lr`, nothing left to learn, or several rates with Prodigy.

    """
    by_rate: dict[float, list[nn.Parameter]] = {}
    rates = layer_rates(config, learned.adapter)
    for path, layer in learned.adapter.layers.items():
        layer.requires_grad_(rates[path] > 0)
        if rates[path] > 0:
            by_rate.setdefault(rates[path], []).extend(layer.parameters())
    decay = config.training.weight_decay
    groups = [{"params": by_rate[rate], "lr": rate, "weight_decay": decay} for rate in sorted(by_rate)]
    if learned.words is not None:
        groups.append({"params": list(learned.words.rows), "lr": token_rate(config), "weight_decay": 0.0})
    if not groups:
        found = "every block that has a rank has a rate of 0"
        raise BwlabError(f"training.block_lr = {config.training.block_lr}", found, "Give one of them a rate above 0")
    if config.training.optimizer == "prodigy" and len({group["lr"] for group in groups}) > 1:
        shown = ", ".join(f"{group['lr']:g}" for group in groups)
        fix = "Give one rate, or 0 to hold blocks at their start (training.block_lr, tokens.lr)"
        raise BwlabError("training.optimizer = prodigy", f"it takes one rate, and there are {shown}", fix)
    return groups


def token_rate(config: TrainConfig) -> float:
    """Return the learning rate of the words' embeddings."""
    if config.tokens.lr is not None:
        return config.tokens.lr
    return config.training.rate() if config.training.optimizer == "prodigy" else WORDS_RATE


def layer_rates(config: TrainConfig, adapter: Adapter) -> Mapping[str, float]:
    """Return the rate of each layer by path; BwlabError for a bad spec or a name that no trained layer has."""
    rate, text = config.training.rate(), config.training.block_lr
    if text is None:
        return dict.fromkeys(adapter.layers, rate)
    try:
        spec = parse_spec(text, adapter.scheme, kind="rate", default=rate)
    except BwlabError as error:
        raise BwlabError(f"training.block_lr: {error.asked}", error.found, error.fix) from error
    modules = {adapter.scheme.module_of(path) for path in adapter.layers}
    trained = {module.path for module in modules if module is not None}
    for entry in text.split(","):
        name = entry.partition("=")[0].strip()
        named = "=" in entry and name != EVERYTHING
        if named and not trained & set(adapter.scheme.modules_of(name)):
            found = f"{name} has no layer that is trained"
            raise BwlabError(f"training.block_lr = {text}", found, f"Leave it out, or give {name} a rank")
    return {path: spec.value_of(path) for path in adapter.layers}


class CaptionEmbeddings:
    """Gives a batch of captions as the UNet takes them.

    Args:
        pipe: its text encoders compute what is not kept.
        kept: embeddings by caption, one row each; None computes each batch anew.
        learning: whether gradients flow into the text encoders.

    """

    def __init__(self, pipe: Pipeline, kept: Kept | None, learning: bool) -> None:
        self._pipe, self._kept, self._learning = pipe, kept, learning

    def batch(self, captions: Sequence[str], device: torch.device) -> TextBatch:
        """Return the captions' embeddings on a device.

        Without gradients they are computed in float32, so that a caption that is kept and one that is not are alike.
        """
        if self._kept is not None:
            rows = [self._kept[caption] for caption in captions]
            pooled = [row.pooled for row in rows if row.pooled is not None]
            context = torch.cat([row.context for row in rows]).to(device)
            return TextBatch(context, torch.cat(pooled).to(device) if pooled else None)
        if self._learning:
            return encode_texts(self._pipe, captions)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return encode_texts(self._pipe, captions)
