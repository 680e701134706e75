"""Attaching adapters to a pipeline by name and strength, for as long as a `with` block lasts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import Attached, Scale, with_factor
from bwlab.adapters.attach import attach as attach_adapters
from bwlab.adapters.load import load_adapter
from bwlab.base.conditioning import text_encoders
from bwlab.base.load import base_scheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding, embeddings_of
from bwlab.formats.read import read_contents
from bwlab.generation.embeddings import attach_words
from bwlab.generation.schedule import ALWAYS, Schedule, changes, parse_schedule

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins.manager import PluginManager


Usable: TypeAlias = "Use | Attached | Adapter | str | Path"

FIX = "Attach to the pipeline that paints, or leave schedules out"


@dataclass(frozen=True, eq=False)
class Timed:
    """An attached adapter with its schedule."""

    attached: Attached
    schedule: Schedule = ALWAYS


@contextmanager
def attach(
    pipe: Pipeline, uses: Sequence[Usable], manager: PluginManager, embeddings: Sequence[Embedding] = ()
) -> Iterator[None]:
    """Adapters and words act on a pipeline inside the `with` block, and are gone after it, however it ends.

    Words that adapter files bring along are among them. UNet and text encoders are adapted; modules, their identity and
    their bits are afterwards what they were.

    Raises:
        BwlabError: a file, scale, schedule or word is wrong, or an adapter does not fit; nothing is attached then.
    """
    scheme = base_scheme(pipe, manager.block_schemes())
    with (
        attach_words(pipe, [*embeddings, *words_of(uses, manager)]),
        attach_timed(pipe, [timed(use, pipe, manager, scheme) for use in uses]),
    ):
        yield


def words_of(uses: Sequence[Usable], manager: PluginManager) -> list[Embedding]:
    """Return the words with embeddings of their own that adapter files bring along (lora_diffusion's `<s1>`)."""
    given = [use.adapter if isinstance(use, Use) else use for use in uses]
    files = [path for path in given if isinstance(path, str | Path)]
    return [word for path in files for word in embeddings_of(read_contents(path, manager).embeddings)]


def timed(use: Usable, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Timed:
    """Return an adapter loaded, its scale and its schedule parsed."""
    if isinstance(use, Attached):
        return Timed(use)
    if not isinstance(use, Use):
        use = Use(use)
    schedule = parse_schedule(use.schedule)
    scale: Scale = parse_spec(use.scale, scheme, kind="scale", default=1.0) if isinstance(use.scale, str) else use.scale
    return Timed(Attached(loaded(use.adapter, pipe, manager, scheme), scale), schedule)


def loaded(given: str | Path | Adapter, pipe: Pipeline, manager: PluginManager, scheme: BlockScheme) -> Adapter:
    """Return an adapter as it is, or that of a file, on the pipeline's device."""
    if isinstance(given, Adapter):
        return given
    return load_adapter(given, pipe.unet, manager, scheme, text_encoder=text_encoders(pipe)).to(pipe.device)


@contextmanager
def attach_timed(pipe: Pipeline, uses: Sequence[Timed]) -> Iterator[None]:
    """Like `attach`, with adapters that are loaded."""
    phases = _Phases(pipe, uses)
    with phases.stack:
        phases.enter(0)
        if len(phases.edges) == 1 and all(use.schedule.is_always_one() for use in uses):
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

    def __init__(self, pipe: Pipeline, uses: Sequence[Timed]) -> None:
        self.pipe, self.uses = pipe, uses
        self.edges = changes(*(use.schedule for use in uses))
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
        now = [scheduled(use, self.edges[phase]) for use in self.uses]
        self.stack.enter_context(attach_adapters(self.pipe.unet, *now, text_encoder=text_encoders(self.pipe)))
        self._now = phase


def scheduled(use: Timed, fraction: float) -> Attached:
    """Return an adapter with its scale at a fraction of the sampling; layers of text encoders keep theirs."""
    factor = use.schedule.at(fraction)
    if factor == 1:
        return use.attached
    adapter = use.attached.adapter
    return Attached(adapter, with_factor(use.attached.scale, factor, adapter.scheme))


@dataclass(frozen=True, eq=False)
class Use:
    """One adapter of a composition.

    Attributes:
        adapter: a file, or an adapter that is loaded already.
        scale: a number; a block spec as text (`"*=0, upper=1"`, blocks that it does not name keep 1) or parsed; a
            tensor `(batch,)` with one number per sample; or a mapping from block to a number or such a tensor.
        schedule: factors of the scale over the sampling, `"0-0.4:1, 0.4-1:0.3"`; None: always 1. Layers of text
            encoders keep their scale throughout, for a prompt is read once, before sampling begins.
    """

    adapter: str | Path | Adapter
    scale: str | Scale = 1.0
    schedule: str | float | Schedule | None = None


def fraction_of(pipe: Pipeline, timestep: float) -> float:
    """Return the place of a timestep in the sampling of `pipe.scheduler`, 0 <= place < 1: i / n for step i of n.

    It counts all steps of the scheduler, from pure noise on: image-to-image at a strength of 0.3 begins at 0.7, and one
    schedule means the same amounts of noise there. Where a sampler visits a timestep twice (Heun), both are the first.

    Raises:
        BwlabError: the scheduler samples nothing, or not at this timestep: another pipeline is at work.
    """
    scheduler = pipe.scheduler
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise BwlabError("a schedule of scales", "the pipeline's scheduler has no sampling steps", FIX)
    places = (scheduler.timesteps.cpu() == timestep).nonzero()
    if not len(places):
        found = f"the UNet is called at timestep {timestep:g}, which the pipeline's scheduler does not visit"
        raise BwlabError("a schedule of scales", found, FIX)
    return int(places[0]) / len(scheduler.timesteps)


def timestep_of(arguments: Sequence[object], named: Mapping[str, object]) -> float:
    """Return the timestep that a UNet is called with; `BwlabError` if those of its samples differ."""
    given = named["timestep"] if "timestep" in named else arguments[1]
    steps = torch.unique(given.detach().cpu()) if isinstance(given, Tensor) else torch.tensor([float(str(given))])
    if len(steps) != 1:
        found = f"the UNet is called with {len(steps)} timesteps at once"
        raise BwlabError("a schedule of scales", found, "Leave schedules out where samples are at different steps")
    return float(steps[0])
