"""What a run trains: an adapter, new words, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bwlab.adapters.adapter import Adapter, Attached, attach
from bwlab.components import in_text_encoder
from bwlab.conditioning import text_encoders
from bwlab.errors import BwlabError
from bwlab.training.tokens import Words

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

WORDS = "words"


@dataclass(frozen=True, eq=False)
class Learned:
    """What a run trains.

    Attributes:
        adapter: without layers if only words are trained.
        words: None if only an adapter is trained.
    """

    adapter: Adapter
    words: Words | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter, those that are held at their start too."""
        return [*self.adapter.parameters(), *(self.words.rows if self.words else ())]

    def trains_text(self) -> bool:
        """Return whether the text embeddings of a caption change while this is trained."""
        return self.words is not None or any(map(in_text_encoder, self.adapter.layers))

    @contextmanager
    def attached(self, pipe: Pipeline) -> Iterator[None]:
        """Act on the pipeline inside the ``with`` block; after it the pipeline is what it was."""
        encoders = text_encoders(pipe)
        with attach(pipe.unet, Attached(self.adapter), text_encoder=encoders):
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
        """Yield (``path:name``, tensor) of every parameter and buffer."""
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
