"""What a run trains: an adapter, embeddings of new words, or both; with their learning rates and caption embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter, attach
from bwlab.base.families.family import TextBatch, joined
from bwlab.base.models import denoiser_of, text_encoders
from bwlab.base.text_chunks import TextReading
from bwlab.blocks.paths import in_text_encoder
from bwlab.blocks.scheme import EVERYTHING
from bwlab.errors import BwlabError
from bwlab.optimizers.types import OptimizerType
from bwlab.training.config import OptimizerConfig, TrainConfig
from bwlab.training.settings import rate_spec
from bwlab.training.state import OTHER_FOLDER
from bwlab.training.textual_inversion import TokenEmbeddings

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


Factor: TypeAlias = Callable[[int], float]

# Names of the schedules in diffusers.
SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}

TOKENS = "tokens"  # prefix of their keys in a state
DEFAULT_TOKEN_RATE = 5e-3


@dataclass(frozen=True, eq=False)
class Trainable:
    """The parameters that a run trains.

    Attributes:
        adapter: the adapter; without layers if only new words are trained.
        token_embeddings: the embeddings of new words; None if only an adapter is trained.

    """

    adapter: Adapter
    token_embeddings: TokenEmbeddings | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter, also those with a learning rate of 0."""
        return [*self.adapter.parameters(), *self._token_rows()]

    def trains_text(self) -> bool:
        """Return whether training changes the text embeddings of a caption."""
        return self.token_embeddings is not None or any(map(in_text_encoder, self.adapter.layers))

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """Attach everything to the pipeline for a `with` block; afterwards the pipeline is what it was."""
        encoders = text_encoders(pipe)
        with attach(denoiser_of(pipe), ScaledAdapter(self.adapter), text_encoder=encoders):
            if self.token_embeddings is None:
                yield
            else:
                with self.token_embeddings.attached(pipe):
                    yield

    def to(self, device: torch.device) -> None:
        """Move everything to a device, in float32."""
        self.adapter.to(device, torch.float32)
        for rows in self._token_rows():
            rows.data = rows.data.to(device, torch.float32)

    def set_training(self, mode: bool) -> None:
        """Switch dropout and the like on or off; which parameters have gradients stays the same."""
        for layer in self.adapter.layers.values():
            layer.train(mode)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (`path:name`, tensor) of every parameter and buffer."""
        for path, layer in self.adapter.layers.items():
            for name, tensor in layer.state_dict().items():
                yield f"{path}:{name}", tensor
        for index, rows in enumerate(self._token_rows()):
            yield f"{TOKENS}:{index}", rows.detach()

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Load a state; BwlabError if it belongs to other blocks, ranks, words or another adapter type."""
        shapes = {key: tensor.shape for key, tensor in self.state()}
        if {key: tensor.shape for key, tensor in saved.items()} != shapes:
            raise BwlabError("--resume", "the checkpoint holds other layers or ranks", OTHER_FOLDER)
        for path, layer in self.adapter.layers.items():
            prefix = f"{path}:"
            layer.load_state_dict({key.removeprefix(prefix): t for key, t in saved.items() if key.startswith(prefix)})
        for index, rows in enumerate(self._token_rows()):
            rows.data.copy_(saved[f"{TOKENS}:{index}"])

    def _token_rows(self) -> tuple[nn.Parameter, ...]:
        return self.token_embeddings.rows if self.token_embeddings else ()


def parameter_groups(config: TrainConfig, trainable: Trainable, optimizer: OptimizerType) -> list[dict[str, Any]]:
    """Return the groups of an optimiser: one for each learning rate, and one without weight decay for new words.

    Parameters with a rate of 0 are in no group and get no gradient: they keep their initial values.

    Raises:
        BwlabError: a bad `training.block_lr`, nothing left to train, or several rates for an optimiser that finds one.

    """
    by_rate: dict[float, list[nn.Parameter]] = {}
    rates = layer_rates(config.training, trainable.adapter, optimizer)
    for path, layer in trainable.adapter.layers.items():
        layer.requires_grad_(rates[path] > 0)
        if rates[path] > 0:
            by_rate.setdefault(rates[path], []).extend(layer.parameters())
    decay = config.training.weight_decay
    groups = [{"params": by_rate[rate], "lr": rate, "weight_decay": decay} for rate in sorted(by_rate)]
    if trainable.token_embeddings is not None:
        groups.append(
            {"params": list(trainable.token_embeddings.rows), "lr": token_rate(config, optimizer), "weight_decay": 0.0}
        )
    if not groups:
        reason = "every block that has a rank has a rate of 0"
        raise BwlabError(f"training.block_lr = {config.training.block_lr}", reason, "Give one of them a rate above 0")
    if optimizer.one_rate and len({group["lr"] for group in groups}) > 1:
        rates_text = ", ".join(f"{group['lr']:g}" for group in groups)
        fix = "Give one rate, or 0 for blocks that are not to be trained (training.block_lr, tokens.lr)"
        raise BwlabError(
            f"training.optimizer = {optimizer.name}", f"it takes one rate, and there are {rates_text}", fix
        )
    return groups


def token_rate(config: TrainConfig, optimizer: OptimizerType) -> float:
    """Return the learning rate of the embeddings of new words."""
    if config.tokens.lr is not None:
        return config.tokens.lr
    return learning_rate(config.training, optimizer) if optimizer.one_rate else DEFAULT_TOKEN_RATE


def learning_rate(config: OptimizerConfig, optimizer: OptimizerType) -> float:
    """Return the learning rate of the adapter: `lr`, or the optimiser's usual one."""
    return optimizer.rate if config.lr is None else config.lr


def layer_rates(config: OptimizerConfig, adapter: Adapter, optimizer: OptimizerType) -> Mapping[str, float]:
    """Return the learning rate of each layer by path; BwlabError for a bad spec or a block without trained layers."""
    rate, text = learning_rate(config, optimizer), config.block_lr
    if text is None:
        return dict.fromkeys(adapter.layers, rate)
    spec = rate_spec(text, adapter.scheme, rate)
    modules = {adapter.scheme.module_of(path) for path in adapter.layers}
    trained = {module.path for module in modules if module is not None}
    for entry in text.split(","):
        name = entry.partition("=")[0].strip()
        names_a_block = "=" in entry and name != EVERYTHING
        if names_a_block and not trained & set(adapter.scheme.modules_of(name)):
            reason = f"{name} has no layer that is trained"
            raise BwlabError(f"training.block_lr = {text}", reason, f"Leave it out, or give {name} a rank")
    return {path: spec.value_of(path) for path in adapter.layers}


def rate_factor(config: OptimizerConfig, steps: int) -> Factor:
    """Return the schedule: from the number of steps taken to the factor of the learning rate, 0..1.

    The schedules are those of diffusers. As functions of the step alone they have no state to save.

    Args:
        config: the schedule, its warm-up and its cycles.
        steps: number of steps of the whole run.

    Raises:
        BwlabError: the warm-up takes the whole run.

    """
    from diffusers.optimization import get_scheduler

    warmup = config.warmup_steps(steps)
    if warmup >= steps:
        reason = f"the run has {steps} steps"
        raise BwlabError(f"training.warmup = {warmup}", reason, "Lower training.warmup or train longer")
    # diffusers' schedules need an optimiser, of which they read the learning rate alone: 1 turns rates into factors.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(SCHEDULES[config.schedule], optimizer, None, warmup, steps, config.cycles)
    factor: Factor = schedule.lr_lambdas[0]
    return factor


class CaptionEmbeddings:
    """The embeddings of captions, as the UNet takes them.

    Args:
        pipe: the base, whose text encoders compute them.
        cached: embeddings by caption, one row each; None means that each batch is computed anew.
        with_gradients: whether gradients flow into the text encoders.
        reading: how captions are read.

    """

    def __init__(
        self, pipe: Pipeline, cached: dict[str, TextBatch] | None, with_gradients: bool, reading: TextReading
    ) -> None:
        self._pipe, self._cached, self._with_gradients, self._reading = pipe, cached, with_gradients, reading

    @property
    def are_cached(self) -> bool:
        """Whether all captions are encoded, so that the text encoders are not needed any more."""
        return self._cached is not None

    def cached_example(self, device: torch.device) -> TextBatch | None:
        """Return the embedding of one of the cached captions on a device; None if they are not cached."""
        return None if self._cached is None else self.batch([min(self._cached)], device)

    def batch(self, captions: Sequence[str], device: torch.device) -> TextBatch:
        """Return the captions' embeddings on a device.

        Without gradients they are computed in float32, so that cached embeddings and new ones are alike.
        """
        if self._cached is not None:
            return joined([self._cached[caption] for caption in captions]).to(device)
        if self._with_gradients:
            return self._reading.encode(self._pipe, captions)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self._reading.encode(self._pipe, captions)
