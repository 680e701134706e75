"""Fusion that selects one of two adapters in each layer at each step by their weights: K-LoRA and EST-LoRA.

The first adapter is the content (identity), the second the style. In each layer that both adapt, the style's score is
multiplied by a factor that grows over the steps, so that the content acts early and the style late.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bwlab.adapters.attach import ActingLayers, LayerScale, ScaledLayer
from bwlab.adapters.layer import AdaptedLayer
from bwlab.fusion.method import FusionMethod, FusionPlan, SamplingStep, delta_of


@dataclass(frozen=True, eq=False)
class Contest:
    """A layer that both adapters adapt.

    Attributes:
        content: the layer of the first adapter.
        style: the layer of the second adapter.
        ratio: score of the content divided by that of the style; with scales per sample `(batch,)`.
        size_ratio: sum of the absolute numbers of the content's scaled delta divided by that of the style's.

    """

    content: ScaledLayer
    style: ScaledLayer
    ratio: LayerScale
    size_ratio: LayerScale

    def winner(self, limit: LayerScale) -> list[ScaledLayer]:
        """Return the content's layer if `ratio` is above the limit, else the style's; with scales per sample both."""
        wins = self.ratio > limit
        if not isinstance(wins, Tensor):
            return [self.content if wins else self.style]
        return [_where(self.content, wins), _where(self.style, ~wins)]


def _where(scaled: ScaledLayer, acts: Tensor) -> ScaledLayer:
    return ScaledLayer(scaled.layer, acts * torch.as_tensor(scaled.scale).cpu(), scaled.adapter)


class TimedSelection(FusionMethod):
    """Select in each layer by scores of the two deltas; the style's score has a factor that grows over the steps."""

    alpha: float
    balance: bool

    @property
    @abstractmethod
    def offset(self) -> float:
        """The factor of the style's score at the first step."""

    @abstractmethod
    def scores(self, deltas: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
        """Return the score of each delta, 0 or more, given the ranks of the layers."""

    @abstractmethod
    def scaled_ratio(self, ratio: float, scales: LayerScale) -> LayerScale:
        """Return the ratio of the scores of two deltas, if `scales` is the ratio of their absolute scales."""

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan that selects in each layer at each step."""
        contests = {path: self._contest(own, bases[path]) for path, own in layers.items() if len(own) > 1}
        balance = _mean([contest.size_ratio for contest in contests.values()]) if self.balance and contests else 1.0

        def passes(step: SamplingStep) -> Sequence[ActingLayers]:
            limit = balance * (self.alpha * step.fraction + self.offset)
            chosen = {path: contest.winner(limit) for path, contest in contests.items()}
            return ({path: chosen.get(path, own) for path, own in layers.items()},)

        return FusionPlan(passes, by_step=True)

    def _contest(self, pair: Sequence[ScaledLayer], base: AdaptedLayer) -> Contest:
        content, style = pair
        deltas = [delta_of(scaled, base) for scaled in pair]
        first, second = self.scores(deltas, [scaled.layer.rank for scaled in pair])
        sizes = [float(delta.abs().sum()) for delta in deltas]
        scales = _ratio_of_scales(content.scale, style.scale)
        return Contest(
            content, style, self.scaled_ratio(_ratio(first, second), scales), _ratio(sizes[0], sizes[1]) * scales
        )


@dataclass(frozen=True)
class KLora(TimedSelection):
    """K-LoRA: the adapter whose K largest numbers add up to more acts.

    Source: Ouyang et al., K-LoRA (arXiv 2502.18461), by the code at github.com/HVision-NKU/K-LoRA: the content acts if
    `sum(top K of |delta_c|) / gamma > S * sum(top K of |delta_s|)`, with K the product of the ranks,
    `S = alpha * step / steps + beta`, and gamma the ratio of the sums of all `|delta_c|` and `|delta_s|`, averaged over
    the layers.

    Attributes:
        alpha: growth of S over the sampling.
        beta: S at the first step, above 0.
        k: number of the largest numbers; 0: the product of the two ranks.
        balance: whether gamma is used; otherwise it is 1.

    """

    alpha: float = 1.5
    beta: float = 0.5
    k: int = 0
    balance: bool = True

    @property
    def offset(self) -> float:
        """Beta."""
        return self.beta

    def scores(self, deltas: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
        """Return the sum of the K largest absolute numbers of each delta."""
        count = self.k or ranks[0] * ranks[1]
        return [
            float(delta.abs().flatten().topk(min(count, delta.numel()), sorted=False).values.sum()) for delta in deltas
        ]

    def scaled_ratio(self, ratio: float, scales: LayerScale) -> LayerScale:
        """Return the ratio times that of the scales: the sums are linear in the delta."""
        return ratio * scales


@dataclass(frozen=True)
class EstLora(TimedSelection):
    """EST-LoRA: the adapter whose delta has more energy acts.

    Source: Zhang and Xiong, Subject or Style (arXiv 2508.02165), by the code at github.com/Godz-z/EST-LoRA: the content
    acts if `|delta_c|^2 / gamma > S * |delta_s|^2` (squared Frobenius norms), with
    `S = alpha * step / steps + 1 - similarity` and gamma as in K-LoRA.

    Attributes:
        alpha: growth of S over the sampling.
        similarity: cosine of the DINO features of an image by the content's adapter alone and an image by the style's
            adapter alone, below 1; the paper measures it for each pair of adapters.
        balance: whether gamma is used; otherwise it is 1.

    """

    alpha: float = 1.5
    similarity: float = 0.5
    balance: bool = True

    @property
    def offset(self) -> float:
        """1 - similarity."""
        return 1.0 - self.similarity

    def scores(self, deltas: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
        """Return the squared Frobenius norm of each delta."""
        return [float(delta.square().sum()) for delta in deltas]

    def scaled_ratio(self, ratio: float, scales: LayerScale) -> LayerScale:
        """Return the ratio times the square of that of the scales."""
        return ratio * scales**2


def _ratio(first: float, second: float) -> float:
    return first / second if second else float("inf")


def _ratio_of_scales(first: LayerScale, second: LayerScale) -> LayerScale:
    """Return `|first| / |second|`; infinity where only the second is 0, and 1 where both are."""
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        return abs(first / second)
    one, other = (torch.as_tensor(scale).detach().cpu().abs() for scale in (first, second))
    ratio: Tensor = torch.where(one == other, torch.ones(()), one / other)
    return ratio


def _mean(ratios: Sequence[LayerScale]) -> LayerScale:
    """Return the mean of the finite ratios, of each sample if they differ by sample; 1 if none is finite."""
    if not any(isinstance(ratio, Tensor) for ratio in ratios):
        finite = [ratio for ratio in ratios if ratio != float("inf")]
        return sum(finite) / len(finite) if finite else 1.0
    stacked = torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, ratios))).float()
    finite_rows = stacked.isfinite()
    mean: Tensor = torch.where(finite_rows, stacked, 0.0).sum(0) / finite_rows.sum(0)
    return mean.nan_to_num(nan=1.0)
