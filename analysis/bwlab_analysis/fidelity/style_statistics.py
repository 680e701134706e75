"""Statistics of an image's style that need no network: its colours and edges (scikit-image)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bwlab_analysis.fidelity.per_image import PerImage

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = npt.NDArray[np.float64]

ANGLES = 4
SIDE = 64


def style_statistics(image: Image) -> Numbers:
    """Return `(15,)` numbers of an image at 64 x 64 pixels.

    Mean, standard deviation and 10th and 90th percentile of lightness; mean and deviation of the two colour axes (CIE
    Lab, in units of 100); the share of edge pixels, the mean and the deviation of the gradient; and the share of the
    gradient in each of 4 directions.
    """
    from skimage.color import rgb2lab
    from skimage.feature import canny
    from skimage.filters import sobel_h, sobel_v

    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float64) / 255
    lab = rgb2lab(pixels) / 100
    light, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    down, across = sobel_h(light), sobel_v(light)
    strength = np.hypot(down, across)
    turn = ((np.arctan2(down, across) % np.pi) * ANGLES / np.pi).astype(int) % ANGLES
    directions = np.bincount(turn.ravel(), weights=strength.ravel(), minlength=ANGLES) / max(
        float(strength.sum()), 1e-9
    )
    colours = [light.mean(), light.std(), *np.percentile(light, [10, 90]), a.mean(), a.std(), b.mean(), b.std()]
    edges = [canny(light).mean(), strength.mean(), strength.std()]
    return np.array([*colours, *edges, *directions])


_statistics = PerImage(lambda images: [style_statistics(image) for image in images])


def style_likeness(generated: Sequence[Image], references: Sequence[Image]) -> list[float]:
    """Return how similar the statistics of each image are to the references, 0..1; 1 is the mean of the references.

    `exp(-d / 2)` with d the mean over the statistics of the distance to the references' mean, in their standard
    deviations (of at least 0.02, as references may agree by chance), each capped at 6.
    """
    known = np.stack(_statistics(references))
    spread = np.maximum(known.std(0), 0.02)
    distances = [np.abs(statistics - known.mean(0)) / spread for statistics in _statistics(generated)]
    return [float(np.exp(-np.minimum(distance, 6).mean() / 2)) for distance in distances]
