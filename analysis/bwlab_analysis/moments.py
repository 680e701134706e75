"""Statistics of activations that arrive piece by piece, in memory that does not grow with their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bwlab.errors import BwlabError

SKETCH_ROWS = 256


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of one place's activations.

    Attributes:
        samples: how many were seen (a batch of 4 over 3 steps: 12).
        mean: ``(channels,)`` over samples and positions.
        variance: ``(channels,)``, likewise; of the population.
        norm: the mean over samples of the Euclidean norm of a sample's activations.
        norm_sd: its standard deviation over samples.
        sketch: ``(256, channels)`` random projection of the rows (samples x positions) less their mean, see `cka`.
    """

    samples: int
    mean: Tensor
    variance: Tensor
    norm: float
    norm_sd: float
    sketch: Tensor

    def gram(self) -> Tensor:
        """Return an estimate of the channels' covariance ``(channels, channels)``, unbiased over the sketch.

        Its off-diagonal structure is what style losses compare (Gatys et al. 2016, equation 3).
        """
        covariance = self.sketch.T @ self.sketch
        return covariance * (self.variance.sum() / covariance.trace().clamp(min=torch.finfo(torch.float64).tiny))


class Moments:
    """Accumulates `Statistics`.

    Args:
        channels: of the activations.
        seed: of the sketch; two places can be compared by `cka` if theirs are the same.
    """

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.channels, self.seed = channels, seed
        self._samples = self._rows = 0
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # sum of squared deviations from the mean
        self._norm_mean = self._norm_squares = 0.0
        self._sketch = torch.zeros(SKETCH_ROWS, channels, dtype=torch.float64)
        self._sketched_ones = torch.zeros(SKETCH_ROWS, dtype=torch.float64)

    def add(self, activations: Tensor) -> None:
        """Take in ``(batch, channels, h, w)``, ``(batch, tokens, channels)`` or ``(batch, channels)``.

        Raises:
            BwlabError: they have another number of channels, or are not finite.
        """
        rows, samples = as_rows(activations)
        if rows.shape[-1] != self.channels:
            found = f"{rows.shape[-1]} channels after {self.channels}"
            raise BwlabError("statistics of activations", found, "Take one place at a time")
        if not bool(torch.isfinite(rows).all()):
            raise BwlabError("statistics of activations", "NaN or infinity", "Look for the adapter that diverged")
        self._add_norms(rows.reshape(samples, -1).norm(dim=1))
        self._add_to_sketch(rows)
        self._add_moments(rows)
        self._samples += samples

    def statistics(self) -> Statistics:
        """Return what is known so far; BwlabError if nothing was seen."""
        if self._samples == 0:
            raise BwlabError("statistics of activations", "none were seen", "Run the UNet inside the probe's scope")
        return Statistics(
            self._samples,
            self._mean.clone(),
            self._squares / self._rows,
            self._norm_mean,
            math.sqrt(self._norm_squares / self._samples),
            self._sketch - self._sketched_ones[:, None] * self._mean,
        )

    def _add_moments(self, rows: Tensor) -> None:
        """Chan, Golub and LeVeque 1983, equation 2.1: two sets' moments from those of each."""
        count, mean = len(rows), rows.mean(0)
        squares = (rows - mean).square().sum(0)
        total, difference = self._rows + count, mean - self._mean
        self._squares += squares + difference.square() * (self._rows * count / total)
        self._mean += difference * (count / total)
        self._rows = total

    def _add_norms(self, norms: Tensor) -> None:
        for seen, norm in enumerate(norms.tolist(), self._samples + 1):
            before = self._norm_mean
            self._norm_mean += (norm - before) / seen
            self._norm_squares += (norm - before) * (norm - self._norm_mean)

    def _add_to_sketch(self, rows: Tensor) -> None:
        """A count sketch of the rows (Charikar et al. 2002): each is added to a random place with a random sign."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._rows)
        places = torch.randint(SKETCH_ROWS, (len(rows),), generator=generator)
        signs = torch.randint(2, (len(rows),), generator=generator).double() * 2 - 1
        self._sketch.index_add_(0, places, rows * signs[:, None])
        self._sketched_ones.index_add_(0, places, signs)


def as_rows(activations: Tensor) -> tuple[Tensor, int]:
    """Return activations as rows ``(samples x positions, channels)`` in float64, and the number of samples."""
    values = activations.detach().to("cpu", torch.float64)
    if values.dim() == 4:
        values = values.movedim(1, -1)
    return values.reshape(-1, values.shape[-1]), len(values)


def cka(one: Statistics, other: Statistics) -> float:
    """Return the linear CKA of two places on the same inputs: 0..1, 1 is the same up to rotation and scale.

    Kornblith et al. 2019 (arXiv 1905.00414), equation 3 with linear kernels, from the sketches: off by about 1/16.

    Raises:
        BwlabError: they saw different numbers of samples.
    """
    if one.samples != other.samples:
        found = f"{one.samples} and {other.samples} samples"
        raise BwlabError("CKA of two places", found, "Show both the same inputs in the same order")
    return cka_of_rows(one.sketch, other.sketch)


def cka_of_rows(one: Tensor, other: Tensor) -> float:
    """Return the linear CKA of two sets of centred rows, ``(rows, channels)`` each, of the same inputs; 0 of zeros."""
    across = (one.T @ other).square().sum()
    within = (one.T @ one).norm() * (other.T @ other).norm()
    return float(across / within) if float(within) > 0 else 0.0
