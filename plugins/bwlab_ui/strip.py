"""Knock-ins and knock-outs: what each block of each adapter does alone, and what both show without it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from bwlab_ui.models import Model
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.work import Job, Json

SIDE = 128
"""Longest side of a small image, in pixels."""


def conditions(
    names: Sequence[str], blocks: Sequence[Sequence[str]]
) -> list[tuple[dict[str, Json], list[AdapterScales]]]:
    """Return what each image shows, as JSON, and the scales of all adapters for it.

    Images with one block alone come first: there all other blocks and adapters are off. In the others all adapters are
    at full strength, but for one block of one of them.

    Args:
        names: the adapters.
        blocks: the blocks of each.

    """
    off, full = AdapterScales(whole=0.0), AdapterScales()
    variants = []
    for way in ("alone", "off"):
        for place, own in enumerate(blocks):
            for block in own:
                if way == "alone":
                    mine, others = AdapterScales(blocks={other: float(other == block) for other in own}), off
                else:
                    mine, others = AdapterScales(blocks={block: 0.0}), full
                scales = [mine if index == place else others for index in range(len(names))]
                variants.append(({"adapter": place, "block": block, "way": way}, scales))
    return variants


def work(model: Model, files: Sequence[Path], names: Sequence[str], settings: ImageSettings, job: Job) -> Json:
    """Make the image of each condition, smallest first visible: the job's result grows image by image."""
    blocks = [list(model.adapter(file).blocks()) for file in files]
    wanted = conditions(names, blocks)
    job.result = []
    for done, (shown, scales) in enumerate(wanted):
        said = "only {} in {}" if shown["way"] == "alone" else "without {} in {}"
        job.report(done, len(wanted), said.format(names[shown["adapter"]], shown["block"]))
        made = model.image(files, scales, settings, job.check, hurried=False, side=SIDE)
        job.result = [*job.result, {**shown, "image": as_data(made)}]
    job.report(len(wanted), len(wanted))
    return job.result


def as_data(image: bytes) -> str:
    """Return a PNG as the address of an image element."""
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"
