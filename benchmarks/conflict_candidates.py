"""Measures of conflict that no command offers, and how well they predict lost fidelity on pairs of the plan `conflict`.

`python -m benchmarks.conflict_candidates measure --study OUT --out FILE` measures every pair of a finished study, and
`python -m benchmarks.conflict_candidates tables FILE COSTS` compares the measures with what full images lose (COSTS is
the file of `python -m benchmarks.conflict_validation sample`), for identity and style separately.

Each measure takes the training images or the sampling of one adapter, and the effect of the other adapter there:

- along the sampling with the adapter alone: how much of its effect on the prediction is left beside the other adapter
  (retention), and how far the other one moves the prediction, as a multiple of that effect (change);
- gradients of the adapter's denoising loss with respect to the adapted weights: the product of the gradient and the
  other's delta (harm to first order), the mean square of that product over images (to second order, with the empirical
  Fisher information), and the cosine of the gradients of both losses at the base;
- in each layer that both adapt, on the activations of the adapter's images: the cosine of both parts of the output, and
  the energy of the other's part as a multiple of the adapter's own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from benchmarks.conflict_validation import DIRECTIONS, Pairs, context_of, read_pairs, tables_of
from bwlab.tables import markdown_table

if TYPE_CHECKING:
    from bwlab.adapters.attach import ScaledAdapter
    from bwlab_analysis.activations.inputs import Inputs
    from bwlab_analysis.activations.loaded_base import LoadedBase
    from bwlab_analysis.study.jobs import Job
    from bwlab_analysis.study.study import Study

STEPS, CFG, PROMPTS = 6, 3.0, 2
TIMESTEPS = (801, 601, 401, 201)
IMAGES = 4
MEASURES = {
    "retention": "retention along the sampling",
    "change": "change of the prediction along the sampling",
    "first_order": "gradient of the loss times the other's delta",
    "second_order": "the same, mean square over images (Fisher)",
    "gradients": "cosine of both losses' gradients at the base",
    "parts": "cosine of both parts in a layer, on its images",
    "energy": "energy of the other's part in a layer, on its images",
}
SIGNS = {"retention": -1, "gradients": -1, "parts": -1}
"""Measures of which a low value means conflict."""
app = typer.Typer(help=__doc__, add_completion=False)


@dataclass(frozen=True, eq=False)
class Learned:
    """An adapter of a study with what it was trained on.

    Attributes:
        scaled: the adapter with its scale in a composition.
        inputs: noisy latents of its training images.

    """

    scaled: ScaledAdapter
    inputs: Inputs


@dataclass(eq=False)
class Measuring:
    """Measures adapters in a base; what belongs to one adapter is computed once."""

    base: LoadedBase
    kept: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def of(self, own: Learned, other: Learned, prompts: Sequence[str]) -> dict[str, float]:
        """Return every measure of what `other` does to `own`."""
        return {
            **self.along_sampling(own, other, prompts),
            **self.of_gradients(own, other),
            **self.of_layers(own, other),
        }

    def along_sampling(self, own: Learned, other: Learned, prompts: Sequence[str]) -> dict[str, float]:
        """Return retention and change on the latents of sampling with `own` alone."""
        calls, base, alone = self._once(("sampling", own.scaled, tuple(prompts)), lambda: self._sampled(own, prompts))
        beside = [self._predicted(call, other.scaled) for call in calls]
        together = [self._predicted(call, own.scaled, other.scaled) for call in calls]
        kept, moved, whole = 0.0, 0.0, 0.0
        for zero, a, b, ab in zip(base, alone, beside, together, strict=True):
            effect = a - zero
            kept += float(((ab - b) * effect).sum())
            moved += float((ab - a).square().sum())
            whole += float(effect.square().sum())
        return {"retention": kept / whole, "change": math.sqrt(moved / whole)}

    def of_gradients(self, own: Learned, other: Learned) -> dict[str, float]:
        """Return the measures of gradients of the loss on the images of `own`."""
        with_own = self._once(("gradients", own.scaled), lambda: list(self._gradients(own, own.scaled)))
        at_base = [
            self._once(("base", adapter.scaled.adapter), lambda adapter=adapter: _mean(list(self._gradients(adapter))))
            for adapter in (own, other)
        ]
        delta = self._once(("delta", other.scaled), lambda: self._delta(other.scaled))
        products = [_product(gradient, delta) for gradient in with_own]
        cosine = _product(*at_base) / math.sqrt(_product(at_base[0], at_base[0]) * _product(at_base[1], at_base[1]))
        return {
            "first_order": float(np.mean(products)),
            "second_order": float(np.mean(np.square(products))),
            "gradients": cosine,
        }

    def of_layers(self, own: Learned, other: Learned) -> dict[str, float]:
        """Return the measures of the parts of both adapters in each layer, while `own` alone acts."""
        from bwlab.adapters.attach import acting_layers, hook_layers

        sums: dict[str, list[float]] = {}

        def alone(path: str, output: Tensor, parts: Sequence[Tensor]) -> Tensor:
            mine, others = parts
            products = (float((mine * others).sum()), float(mine.square().sum()), float(others.square().sum()))
            sums[path] = [total + new for total, new in zip(sums.get(path, (0.0, 0.0, 0.0)), products, strict=True)]
            return mine

        layers = {
            path: pair for path, pair in acting_layers([own.scaled, other.scaled]).items() if path in self._layers
        }
        acting = {path: pair for path, pair in layers.items() if any(layer.adapter == 0 for layer in pair)}
        handles = hook_layers(acting, self._layers, alone)
        try:
            with torch.no_grad():
                for arguments, _ in self.noisy(own.inputs):
                    self.unet(**arguments)
        finally:
            for handle in handles:
                handle.remove()
        products = [(ab, aa, bb) for ab, aa, bb in sums.values() if aa > 0 and bb > 0]
        return {
            "parts": float(np.mean([ab / math.sqrt(aa * bb) for ab, aa, bb in products])),
            "energy": float(np.mean([math.log(bb / aa) for _, aa, bb in products])),
        }

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self.base.pipe.unet
        return unet

    @property
    def _layers(self) -> Mapping[str, Any]:
        from bwlab.adapters.modules import adapted_by_path

        layers: Mapping[str, Any] = self._once(("layers",), lambda: adapted_by_path(self.unet))
        return layers

    def _once(self, key: tuple[object, ...], make: Any) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def _sampled(self, own: Learned, prompts: Sequence[str]) -> tuple[list[Any], list[Tensor], list[Tensor]]:
        """Return the calls of the UNet with `own` alone, and the guided predictions without and with it."""
        from bwlab.generation.sample import generate

        calls: list[dict[str, Any]] = []

        def note(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            sample, timestep = arguments
            calls.append({**named, "sample": sample, "timestep": timestep, "return_dict": False})

        handle = self.unet.register_forward_pre_hook(note, with_kwargs=True)
        try:
            seeds = [1000 + index for index in range(len(prompts))]
            generate(self.base.pipe, prompts, seeds, [own.scaled], steps=STEPS, cfg=CFG, fold=True)
        finally:
            handle.remove()
        return calls, [self._predicted(call) for call in calls], [self._predicted(call, own.scaled) for call in calls]

    def _predicted(self, call: Mapping[str, Any], *adapters: ScaledAdapter) -> Tensor:
        from bwlab.generation.attach import attach_scaled

        with torch.no_grad(), attach_scaled(self.base.pipe, adapters, fold=True):
            negative, positive = self.unet(**call)[0].chunk(2)
        guided: Tensor = negative + CFG * (positive - negative)
        return guided

    def noisy(self, inputs: Inputs) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Yield the UNet's arguments for all latents at each timestep, and the noise."""
        from bwlab_analysis.activations.inputs import text_conditions

        conditions = self._once(("text", inputs.captions), lambda: text_conditions(self.base.pipe, inputs.captions))
        for timestep in TIMESTEPS:
            times = torch.full((len(inputs),), timestep)
            noisy = self.base.pipe.scheduler.add_noise(inputs.latents, inputs.noise, times)
            yield {**conditions, "sample": noisy, "timestep": times, "return_dict": False}, inputs.noise

    def _gradients(self, learned: Learned, *adapters: ScaledAdapter) -> Iterator[dict[str, Tensor]]:
        """Yield the gradient of the loss with respect to every adapted weight, image by image."""
        from bwlab.generation.attach import attach_scaled

        with attach_scaled(self.base.pipe, adapters, fold=True):
            weights = {
                path: self._layers[path].weight for path in learned.scaled.adapter.layers if path in self._layers
            }
            for weight in weights.values():
                weight.requires_grad_(True)
            for image in learned.inputs.batches(1):
                losses = [(self.unet(**arguments)[0] - noise).square().mean() for arguments, noise in self.noisy(image)]
                gradients = torch.autograd.grad(torch.stack(losses).mean(), list(weights.values()))
                yield dict(zip(weights, gradients, strict=True))
            for weight in weights.values():
                weight.requires_grad_(False)

    def _delta(self, scaled: ScaledAdapter) -> dict[str, Tensor]:
        from bwlab.adapters.attach import acting_layers
        from bwlab.fusion.method import delta_of

        layers = {path: own for path, own in acting_layers([scaled]).items() if path in self._layers}
        return {path: delta_of(own[0], self._layers[path]) * own[0].scale for path, own in layers.items()}


def _product(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return sum(float((first[path] * second[path]).sum()) for path in first.keys() & second.keys())


def _mean(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {path: torch.stack([gradient[path] for gradient in gradients]).mean(0) for path in gradients[0]}


@app.command("measure")
def measure_command(
    study: Annotated[Path, typer.Option(help="Folder of the finished study.")],
    out: Annotated[Path, typer.Option(help="JSON file to write; pairs that it has are not measured again.")],
    plan: Annotated[str, typer.Option(help="Plan of the study.")] = "conflict",
    clip: Annotated[str | None, typer.Option(help="Scorer that the study was run with.")] = None,
) -> None:
    """Measure every composition of two adapters in both directions."""
    from bwlab.fusion.types import SUM
    from bwlab_analysis.study.plan_file import read_plan
    from bwlab_analysis.study.study import new_study

    finished = new_study(read_plan(plan, clip=clip), study)
    known = json.loads(out.read_text(encoding="utf-8"))["pairs"] if out.is_file() else []
    done = {tuple(row["pair"]) for row in known}
    compositions = [
        name
        for name, composition in finished.plan.compositions.items()
        if len(composition.use) == 2 and composition.merge is None and composition.fusion == SUM
    ]
    for identity in finished.plan.identities:
        for style in finished.plan.styles:
            missing = [name for name in compositions if (name, identity.name, style.name) not in done]
            if missing:
                known += _measured(finished, missing, identity.name, style.name)
                document = {"plan": plan, "pairs": known}
                out.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def _measured(study: Study, compositions: Sequence[str], identity: str, style: str) -> list[dict[str, object]]:
    jobs = {
        pair.composition: pair.job.needs["images"]
        for pair in study.expanded.scores
        if (pair.identity, pair.style) == (identity, style) and pair.composition in compositions
    }
    rows: list[dict[str, object]] = []
    measuring = Measuring(context_of(study).base(study.plan.base))
    learned: dict[tuple[str, str], Learned] = {}
    for name in compositions:
        start = time.process_time()
        job = jobs[name]
        use = study.plan.compositions[name].use
        pair = {}
        for (adapter, scale), need in zip(use.items(), job.needs.values(), strict=True):
            if (adapter, scale) not in learned:
                learned[adapter, scale] = _learned(study, measuring.base, need, scale)
            pair[study.plan.adapters[adapter].learns] = learned[adapter, scale]
        prompts = job.settings.prompts[:PROMPTS]  # type: ignore[union-attr]
        row: dict[str, object] = {"pair": [name, identity, style]}
        for direction in DIRECTIONS:
            (other,) = (adapter for kind, adapter in pair.items() if kind != direction)
            values = measuring.of(pair[direction], other, prompts)
            row[direction] = {key: float(f"{value:.5g}") for key, value in values.items()}
        row["cpu_seconds"] = round(time.process_time() - start, 2)
        rows.append(row)
    return rows


def _learned(study: Study, base: LoadedBase, job: Job, scale: str) -> Learned:
    from bwlab.adapters.attach import ScaledAdapter
    from bwlab_analysis.activations.inputs import folder_inputs

    folder = job.folder(study.location.out)
    (data,) = (folder / "data").iterdir()
    adapter = context_of(study).adapter(study.plan.base, context_of(study).file_of(job))
    return Learned(ScaledAdapter(adapter, scale), folder_inputs(base.images(data, IMAGES), IMAGES, 0))


def with_measures(costs: Pairs, file: Path) -> Pairs:
    """Return pairs with the measures in a file in place of the short samples' costs; a high number means conflict."""
    rows = {tuple(row["pair"]): row for row in json.loads(file.read_text(encoding="utf-8"))["pairs"]}
    kept = [place for place, name in enumerate(costs.names) if name in rows]
    names = tuple(costs.names[place] for place in kept)
    predictors = {}
    for direction in DIRECTIONS:
        predictors[direction, "target"] = costs.costs[direction, "target"][kept]
        for measure in MEASURES:
            values = [[SIGNS.get(measure, 1) * rows[name][direction][measure]] for name in names]
            predictors[direction, measure] = np.array(values, np.float64)
    return Pairs(names, predictors)


@app.command("tables")
def tables_command(
    file: Annotated[Path, typer.Argument(help="File that `measure` wrote.")],
    costs: Annotated[Path, typer.Argument(help="File that `benchmarks.conflict_validation sample` wrote.")],
) -> None:
    """Print the rank correlations as Markdown."""
    for table in tables_of(with_measures(read_pairs(costs), file), MEASURES):
        typer.echo(markdown_table(table))


if __name__ == "__main__":
    app()
