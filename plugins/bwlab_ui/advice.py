"""What to do: bwlab's search for scales that are better than two whole adapters, with its proof."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab_ui.models import Model
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.work import Job, Json

if TYPE_CHECKING:
    from PIL.Image import Image

REFERENCES, FIRST_SEED = 4, 200_000
"""Number of images that stand for an adapter without reference images, and the seed of the first."""
PROOF_SEEDS = 16


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Attributes:
        pair: the files of the identity and of the style.
        references: folder of reference images of each; None: images that the adapter alone makes.
        settings: prompt, steps and guidance.
        budget: number of images of the search, at most.
        clip: open_clip model that scores images; None: the scorer of the embedded base.

    """

    pair: tuple[Path, Path]
    references: tuple[Path | None, Path | None]
    settings: ImageSettings
    budget: int
    clip: str | None = None


def work(model: Model, search: Search, warn: Callable[[str], None], job: Job) -> Json:
    """Search, and return what to do as JSON: a text, whether to do anything, and the scales of both adapters.

    Between two compositions, images that somebody waits for are made.

    Raises:
        BwlabError: there is no scorer, the budget is too small, or an adapter alone is no better than the base.

    """
    from bwlab_analysis.analyze.arguments import images_of, new_judge, new_sampling
    from bwlab_analysis.fidelity.recommend import recommend
    from bwlab_analysis.report.verdict import recommendation_text

    settings, loaded = search.settings, model.loaded
    sampling = new_sampling((settings.prompt,), PROOF_SEEDS, settings.steps, settings.cfg)
    job.report(0, 0, "reference images")
    identity, style = (
        alone(model, file, settings, job) if folder is None else images_of(folder)
        for file, folder in zip(search.pair, search.references, strict=True)
    )
    judge = new_judge(loaded.manager, loaded.base, search.clip, identity, style, warn)

    def before_each(done: int, total: int, name: str) -> None:
        job.report(done, total, name)
        model.turns.let_others(job.check)

    with model.turns.between(job.check):
        recommendation = recommend(
            loaded, search.pair, judge, sampling, search.budget, settings.steps, on_condition=before_each
        )
    advised = recommendation.recommended
    composition = recommendation.composition
    specs = [composition.spec(name) for name in ("identity", "style")]
    scales = [
        AdapterScales.of_spec(spec, schedule, loaded.scheme)
        for spec, schedule in zip(specs, composition.schedules, strict=True)
    ]
    return {
        "text": recommendation_text(recommendation),
        "advised": advised,
        "tried": len(recommendation.trials),
        "own_images": None in search.references,
        "scales": [scale.model_dump() for scale in scales] if advised else None,
    }


def alone(model: Model, file: Path, settings: ImageSettings, job: Job) -> list[Image]:
    """Return images that an adapter alone makes for the prompt, with seeds that nothing else uses."""
    from PIL.Image import open as open_image

    made = []
    for seed in range(FIRST_SEED, FIRST_SEED + REFERENCES):
        own = settings.model_copy(update={"seed": seed})
        data = model.image([file], [AdapterScales()], own, job.check, hurried=False)
        made.append(open_image(io.BytesIO(data)).convert("RGB"))
    return made
