"""Attach adapters to a pipeline inside a `with` block."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bwlab.adapters.adapter import Adapter
from bwlab.adapters.attach import ScaledAdapter
from bwlab.adapters.attach import attach as attach_adapters
from bwlab.adapters.load import load_adapter
from bwlab.adapters.modules import adapted_by_path, check_fits
from bwlab.adapters.schedule import changes
from bwlab.base.load import base_scheme
from bwlab.base.models import denoiser_of, family_of, text_encoders
from bwlab.blocks.paths import in_text_encoder, in_unet
from bwlab.errors import BwlabError
from bwlab.formats.dialects.textual_inversion import Embedding
from bwlab.fusion.builtin import PLAIN_SUM
from bwlab.fusion.hooks import FusedAdapters
from bwlab.fusion.method import SamplingStep
from bwlab.fusion.types import SUM, Fusion
from bwlab.generation.embeddings import attach_words

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline
    from bwlab.blocks.scheme import BlockScheme
    from bwlab.plugins.manager import PluginManager


AdapterSource: TypeAlias = ScaledAdapter | Adapter | str | Path

CHANGES = "scales that change over the steps"
OWN_PIPELINE = (
    "Attach the adapters to the pipeline that samples, or leave out schedules and fusions that depend on the step"
)


@contextmanager
def attach_to_pipeline(
    pipe: Pipeline,
    adapters: Sequence[AdapterSource],
    manager: PluginManager,
    embeddings: Sequence[Embedding] = (),
    fusion: str = SUM,
) -> Iterator[None]:
    """Let adapters and embeddings act on a pipeline inside the `with` block, and remove them however it ends.

    Embeddings inside adapter files are attached too. The UNet and the text encoders are adapted; afterwards their
    modules are the same objects with the same bits as before. `fusion` says how several adapters act together on the
    UNet, as `bwlab generate --fusion` does; on text encoders they add up.

    Raises:
        BwlabError: a file, a word or the fusion is wrong, or an adapter does not fit; nothing is attached then.

    """
    scheme = base_scheme(pipe, manager.block_schemes())
    scaled = [scaled_adapter(source, pipe, manager, scheme) for source in adapters]
    words = [*embeddings, *embeddings_of_adapters(scaled)]
    with attach_words(pipe, words), attach_scaled(pipe, scaled, manager.fusion(fusion)):
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
    """Load an adapter file onto the pipeline's device, in the dtype of the base if that has more bits than the file's.

    So a file in float16 acts on a float32 base without rounding, and on CPUs many times as fast.
    """
    adapter = load_adapter(path, denoiser_of(pipe), manager, scheme, text_encoder=text_encoders(pipe))
    return adapter.to(pipe.device).at_least(denoiser_of(pipe).dtype)


@contextmanager
def attach_scaled(
    pipe: Pipeline, adapters: Sequence[ScaledAdapter], fusion: Fusion = PLAIN_SUM, *, fold: bool = False
) -> Iterator[None]:
    """Let loaded adapters act on a pipeline, as `attach_to_pipeline` does; `fold` as in `hook_layers`, on the UNet."""
    encoders = text_encoders(pipe)
    model_layers = adapted_by_path(denoiser_of(pipe), encoders)
    for scaled in adapters:
        check_fits(scaled.adapter.name, scaled.adapter.layers, model_layers)
    text = [ScaledAdapter(scaled.adapter.only(in_text_encoder), scaled.scale) for scaled in adapters]
    with attach_adapters(denoiser_of(pipe), *text, text_encoder=encoders):
        phases = _Phases(pipe, adapters, FusedAdapters(denoiser_of(pipe), model_layers, fusion, fold=fold))
        try:
            phases.begin()
            yield
        finally:
            phases.end()


class _Phases:
    """The spans of the sampling in which no scale changes; the fusion plans anew for each span.

    A span in which an adapter is off costs nothing and keeps the base's bits.
    """

    def __init__(self, pipe: Pipeline, adapters: Sequence[ScaledAdapter], fused: FusedAdapters) -> None:
        self.pipe, self.fused = pipe, fused
        self.adapters = [
            ScaledAdapter(scaled.adapter.only(in_unet), scaled.scale, scaled.schedule) for scaled in adapters
        ]
        self.edges = changes(*(scaled.schedule for scaled in adapters))
        self._handle: RemovableHandle | None = None
        self._span = -1
        self._by_step = False
        self._step: SamplingStep | None = None

    def begin(self) -> None:
        """Set the hooks of the first step, and follow the sampling if later steps differ."""
        self._enter(0, SamplingStep(0, 1))
        always_one = all(scaled.schedule.is_always_one() for scaled in self.adapters)
        if self._by_step or not (len(self.edges) == 1 and always_one):
            self._handle = denoiser_of(self.pipe).register_forward_pre_hook(self._before_unet, with_kwargs=True)

    def end(self) -> None:
        """Remove all hooks."""
        self.fused.remove()
        if self._handle is not None:
            self._handle.remove()

    def _before_unet(self, unet: object, arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
        """Set the hooks for the coming call of the UNet."""
        timestep = visited(self.pipe, timestep_of(arguments, named))
        span = bisect_right(self.edges, fraction_of(self.pipe, timestep)) - 1
        self._enter(span, step_of(self.pipe, timestep))

    def _enter(self, span: int, step: SamplingStep) -> None:
        if span == self._span and (not self._by_step or step == self._step):
            return
        if span != self._span:
            self._span = -1  # if planning fails and sampling goes on, nothing counts as planned
            self.fused.remove()
            self._by_step = self.fused.plan([scaled.at(self.edges[span]) for scaled in self.adapters])
            self._span = span
        self._step = step
        self.fused.act(step)


def visited(pipe: Pipeline, time: float) -> float:
    """Return the timestep of `pipe.scheduler` that the denoiser gets as `time`.

    Where the denoiser gets times in other units or in half precision, this is the nearest one.
    """
    noise_time = family_of(pipe).noise_time(time)
    timesteps = getattr(pipe.scheduler, "timesteps", None)
    if noise_time == time or timesteps is None:
        return time
    distances = (timesteps.cpu().double() - noise_time).abs()
    return float(timesteps[int(distances.argmin())])


def fraction_of(pipe: Pipeline, timestep: float) -> float:
    """Return the position of a timestep in the sampling of `pipe.scheduler`, 0 <= position < 1: i / n for step i of n.

    All steps of the scheduler count, from pure noise on: image-to-image at a strength of 0.3 begins at 0.7, so that a
    schedule means the same amounts of noise there. A timestep that a sampler visits twice (Heun) counts once.

    Raises:
        BwlabError: the scheduler has no sampling steps or not this timestep, because another pipeline samples.

    """
    scheduler = pipe.scheduler
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise BwlabError(CHANGES, "the pipeline's scheduler has no sampling steps", OWN_PIPELINE)
    timesteps = torch.unique_consecutive(scheduler.timesteps.cpu())
    places = (timesteps == timestep).nonzero()
    if not len(places):
        found = f"the denoiser is called at timestep {timestep:g}, which the pipeline's scheduler does not visit"
        raise BwlabError(CHANGES, found, OWN_PIPELINE)
    return int(places[0]) / len(timesteps)


def step_of(pipe: Pipeline, timestep: float) -> SamplingStep:
    """Return the step of the sampling of `pipe.scheduler` at a timestep that it visits.

    Each timestep counts once, however often a sampler visits it, and all of them count, as in `fraction_of`.
    """
    timesteps = torch.unique_consecutive(pipe.scheduler.timesteps.cpu())
    return SamplingStep(int((timesteps == timestep).nonzero()[0]), len(timesteps))


def timestep_of(arguments: Sequence[object], named: Mapping[str, object]) -> float:
    """Return the timestep of a call of the UNet; `BwlabError` if the timesteps of its samples differ."""
    given = named["timestep"] if "timestep" in named else arguments[1]
    steps = torch.unique(given.detach().cpu()) if isinstance(given, Tensor) else torch.tensor([float(str(given))])
    if len(steps) != 1:
        found = f"the denoiser is called with {len(steps)} timesteps at once"
        raise BwlabError(CHANGES, found, "Sample all images of a batch at one timestep")
    return float(steps[0])
