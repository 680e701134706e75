"""Attaching adapters to a pipeline by name and strength, for as long as a `with` block lasts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.adapters import adapter as adapters
from bwlab.adapters.adapter import Adapter, Attached
from bwlab.adapters.loading import load_adapter
from bwlab.adapters.scales import Scale, with_factor
from bwlab.blocks.spec import parse_spec
from bwlab.composition.schedule import ALWAYS, Schedule, changes, parse_schedule
from bwlab.composition.timeline import fraction_of, timestep_of
from bwlab.composition.use import Usable, Use
from bwlab.composition.words import attach_words
from bwlab.conditioning import text_encoders
from bwlab.formats.contents import read_contents
from bwlab.formats.embedding_files import Embedding, embeddings_of
from bwlab.pipelines import base_scheme

if TYPE_CHECKING:
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.pipelines import Pipeline
    from bwlab.plugins import PluginManager


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
    scheme = base_scheme(pipe, manager)
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
        self.stack.enter_context(adapters.attach(self.pipe.unet, *now, text_encoder=text_encoders(self.pipe)))
        self._now = phase


def scheduled(use: Timed, fraction: float) -> Attached:
    """Return an adapter with its scale at a fraction of the sampling; layers of text encoders keep theirs."""
    factor = use.schedule.at(fraction)
    if factor == 1:
        return use.attached
    adapter = use.attached.adapter
    return Attached(adapter, with_factor(use.attached.scale, factor, adapter.scheme))
