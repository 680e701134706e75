"""Attach adapters to a pipeline inside a `with` block."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.attach import attach as attach_adapters
from bwlab.adapters.load import load_adapter
from bwlab.adapters.schedule import changes
from bwlab.base.conditioning import text_encoders
from bwlab.base.load import base_scheme
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding
from bwlab.generation.embeddings import attach_words

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins.manager import PluginManager


AdapterSource: TypeAlias = ScaledAdapter | Adapter | str | Path

SCHEDULE_FIX = "Attach the adapters to the pipeline that samples, or leave out schedules"


@contextmanager
def attach_to_pipeline(
    pipe: Pipeline, adapters: Sequence[AdapterSource], manager: PluginManager, embeddings: Sequence[Embedding] = ()
) -> Iterator[None]:
    """Let adapters and embeddings act on a pipeline inside the `with` block, and remove them however it ends.

    Embeddings inside adapter files are attached too. The UNet and the text encoders are adapted; afterwards their
    modules are the same objects with the same bits as before.

    Raises:
        BwlabError: a file or a word is wrong, or an adapter does not fit; nothing is attached then.

    """
    scheme = base_scheme(pipe, manager.block_schemes())
    scaled = [scaled_adapter(source, pipe, manager, scheme) for source in adapters]
    with attach_words(pipe, [*embeddings, *embeddings_of_adapters(scaled)]), attach_scaled(pipe, scaled):
        yield


def embeddings_of_adapters(adapters: Sequence[ScaledAdapter]) -> list[Embedding]:
    """Return the embeddings of new words inside the adapters' files (lora_diffusion's `<s1>`)."""
    return [embedding for scaled in adapters for embedding in scaled.adapter.embeddings]


def scaled_adapter(source: AdapterSource, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> ScaledAdapter:
    """Return a scaled adapter from a file, an adapter or a scaled adapter; files and adapters get scale 1."""
    if isinstance(source, ScaledAdapter):
        return source
    return ScaledAdapter(source if isinstance(source, Adapter) else load_for_pipeline(source, pipe, manager, scheme))


def load_for_pipeline(path: str | Path, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Adapter:
    """Load an adapter file onto the pipeline's device."""
    return load_adapter(path, pipe.unet, manager, scheme, text_encoder=text_encoders(pipe)).to(pipe.device)


@contextmanager
def attach_scaled(pipe: Pipeline, adapters: Sequence[ScaledAdapter]) -> Iterator[None]:
    """Let loaded adapters act on a pipeline, as `attach_to_pipeline` does."""
    phases = _Phases(pipe, adapters)
    with phases.stack:
        phases.enter(0)
        if len(phases.edges) == 1 and all(scaled.schedule.is_always_one() for scaled in adapters):
            yield
            return
        handle = pipe.unet.register_forward_pre_hook(phases.before_unet, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


class _Phases:
    """The spans of the sampling in which no factor changes; adapters are attached anew for each span.

    A span in which an adapter is off costs nothing and keeps the base's bits.
    """

    def __init__(self, pipe: Pipeline, adapters: Sequence[ScaledAdapter]) -> None:
        self.pipe, self.adapters = pipe, adapters
        self.edges = changes(*(scaled.schedule for scaled in adapters))
        self.stack = ExitStack()
        self._now = -1

    def before_unet(self, unet: object, arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
        """Attach the adapters that act at the timestep of the coming call of the UNet."""
        fraction = fraction_of(self.pipe, timestep_of(arguments, named))
        self.enter(bisect_right(self.edges, fraction) - 1)

    def enter(self, phase: int) -> None:
        """Attach the adapters with the factors of this span, in place of the earlier factors."""
        if phase == self._now:
            return
        self._now = -1  # if attaching fails and sampling goes on, nothing counts as attached
        self.stack.close()
        now = [scaled.at(self.edges[phase]) for scaled in self.adapters]
        self.stack.enter_context(attach_adapters(self.pipe.unet, *now, text_encoder=text_encoders(self.pipe)))
        self._now = phase


def fraction_of(pipe: Pipeline, timestep: float) -> float:
    """Return the position of a timestep in the sampling of `pipe.scheduler`, 0 <= position < 1: i / n for step i of n.

    All steps of the scheduler count, from pure noise on: image-to-image at a strength of 0.3 begins at 0.7, so that a
    schedule means the same amounts of noise there. If a sampler visits a timestep twice (Heun), the first visit counts.

    Raises:
        BwlabError: the scheduler has no sampling steps or not this timestep, because another pipeline samples.

    """
    scheduler = pipe.scheduler
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise BwlabError("a schedule of scales", "the pipeline's scheduler has no sampling steps", SCHEDULE_FIX)
    places = (scheduler.timesteps.cpu() == timestep).nonzero()
    if not len(places):
        found = f"the UNet is called at timestep {timestep:g}, which the pipeline's scheduler does not visit"
        raise BwlabError("a schedule of scales", found, SCHEDULE_FIX)
    return int(places[0]) / len(scheduler.timesteps)


def timestep_of(arguments: Sequence[object], named: Mapping[str, object]) -> float:
    """Return the timestep of a call of the UNet; `BwlabError` if the timesteps of its samples differ."""
    given = named["timestep"] if "timestep" in named else arguments[1]
    steps = torch.unique(given.detach().cpu()) if isinstance(given, Tensor) else torch.tensor([float(str(given))])
    if len(steps) != 1:
        found = f"the UNet is called with {len(steps)} timesteps at once"
        raise BwlabError("a schedule of scales", found, "Leave out schedules if samples are at different timesteps")
    return float(steps[0])
