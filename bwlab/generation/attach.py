"""Attaching adapters to a pipeline by name and strength, for as long as a `with` block lasts."""

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

SCHEDULE_FIX = "Attach to the pipeline that samples, or leave schedules out"


@contextmanager
def attach_to_pipeline(
    pipe: Pipeline, adapters: Sequence[AdapterSource], manager: PluginManager, embeddings: Sequence[Embedding] = ()
) -> Iterator[None]:
    """Let adapters and embeddings act on a pipeline inside the `with` block, and remove them however it ends.

    Embeddings that adapter files hold are among them. UNet and text encoders are adapted; modules, their identity and
    their bits are afterwards what they were.

    Raises:
        BwlabError: a file or word is wrong, or an adapter does not fit; nothing is attached then.

    """
    scheme = base_scheme(pipe, manager.block_schemes())
    scaled = [scaled_adapter(source, pipe, manager, scheme) for source in adapters]
    with attach_words(pipe, [*embeddings, *embeddings_of_adapters(scaled)]), attach_scaled(pipe, scaled):
        yield


def embeddings_of_adapters(adapters: Sequence[ScaledAdapter]) -> list[Embedding]:
    """Return the embeddings of new words that the adapters' files hold (lora_diffusion's `<s1>`)."""
    return [embedding for scaled in adapters for embedding in scaled.adapter.embeddings]


def scaled_adapter(source: AdapterSource, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> ScaledAdapter:
    """Return a scaled adapter from a file, an adapter or a scaled adapter; the first two act at scale 1."""
    if isinstance(source, ScaledAdapter):
        return source
    return ScaledAdapter(source if isinstance(source, Adapter) else load_for_pipeline(source, pipe, manager, scheme))


def load_for_pipeline(path: str | Path, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Adapter:
    """Return the adapter in a file, on the pipeline's device."""
    return load_adapter(path, pipe.unet, manager, scheme, text_encoder=text_encoders(pipe)).to(pipe.device)


@contextmanager
def attach_scaled(pipe: Pipeline, adapters: Sequence[ScaledAdapter]) -> Iterator[None]:
    """Like `attach_to_pipeline`, with adapters that are loaded."""
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
    """The stretches of the sampling in which no factor changes; in each, adapters are attached anew.

    A stretch in which an adapter is off costs nothing and keeps the base's bits.
    """

    def __init__(self, pipe: Pipeline, adapters: Sequence[ScaledAdapter]) -> None:
        self.pipe, self.adapters = pipe, adapters
        self.edges = changes(*(scaled.schedule for scaled in adapters))
        self.stack = ExitStack()
        self._now = -1

    def before_unet(self, unet: object, arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
        """Attach what acts at the timestep that the UNet is about to be called with."""
        fraction = fraction_of(self.pipe, timestep_of(arguments, named))
        self.enter(bisect_right(self.edges, fraction) - 1)

    def enter(self, phase: int) -> None:
        """Attach the adapters with their factors of this stretch in place of those before."""
        if phase == self._now:
            return
        self._now = -1  # should attaching fail, and somebody go on, nothing counts as attached
        self.stack.close()
        now = [scaled.at(self.edges[phase]) for scaled in self.adapters]
        self.stack.enter_context(attach_adapters(self.pipe.unet, *now, text_encoder=text_encoders(self.pipe)))
        self._now = phase


def fraction_of(pipe: Pipeline, timestep: float) -> float:
    """Return the place of a timestep in the sampling of `pipe.scheduler`, 0 <= place < 1: i / n for step i of n.

    It counts all steps of the scheduler, from pure noise on: image-to-image at a strength of 0.3 begins at 0.7, and one
    schedule means the same amounts of noise there. Where a sampler visits a timestep twice (Heun), both are the first.

    Raises:
        BwlabError: the scheduler samples nothing, or not at this timestep: another pipeline is sampling.

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
    """Return the timestep that a UNet is called with; `BwlabError` if those of its samples differ."""
    given = named["timestep"] if "timestep" in named else arguments[1]
    steps = torch.unique(given.detach().cpu()) if isinstance(given, Tensor) else torch.tensor([float(str(given))])
    if len(steps) != 1:
        found = f"the UNet is called with {len(steps)} timesteps at once"
        raise BwlabError("a schedule of scales", found, "Leave schedules out where samples are at different steps")
    return float(steps[0])
