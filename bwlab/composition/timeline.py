"""Where in the sampling a call of the UNet stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.pipelines import Pipeline

FIX = "Attach to the pipeline that paints, or leave schedules out"


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
