"""What kind of information an adapter changes in a block: how much, in style or in structure."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bwlab_analysis.moments import as_rows, cka_of_rows

CHANGES = ("effect", "style", "structure", "representation")
POSITIONS_A_SIDE = 16


def changes(base: Tensor, adapted: Tensor) -> dict[str, float]:
    """Return what an adapter changed in activations ``(latents, channels, h, w)``, each 0 for no change:

    - ``effect``: ``|ha - h0| / |h0|``
    - ``style``: relative change of the channels' Gram matrices (Gatys et al. 2016, equation 3), mean over latents
    - ``structure``: root mean square change of the cosines between positions (self-similarity, Shechtman and Irani
      2007; Tumanyan et al. 2022, arXiv 2201.00424), 0..2, on at most 16 x 16 positions
    - ``representation``: 1 - linear CKA (Kornblith et al. 2019), 0..1
    """
    h0, ha = base.double(), adapted.double()
    one, other = (as_rows(tensor)[0] for tensor in (h0, ha))
    return {
        "effect": _ratio((ha - h0).norm(), h0.norm()),
        "style": _relative(grams(h0), grams(ha)),
        "structure": float((self_similarity(ha) - self_similarity(h0)).square().mean().sqrt()),
        "representation": max(0.0, 1.0 - cka_of_rows(one - one.mean(0), other - other.mean(0))),
    }


def grams(activations: Tensor) -> Tensor:
    """Return each latent's Gram matrix of channels, ``(latents, channels, channels)``, divided by the positions."""
    features = activations.flatten(2)
    return features @ features.mT / features.shape[-1]


def self_similarity(activations: Tensor) -> Tensor:
    """Return the cosines between positions, ``(latents, positions, positions)``, on at most 16 x 16 pooled positions.

    The mean over positions is taken off first: else one large channel makes all positions alike.
    """
    side = min(POSITIONS_A_SIDE, *activations.shape[-2:])
    pooled = functional.adaptive_avg_pool2d(activations, side).flatten(2)
    unit = functional.normalize(pooled - pooled.mean(-1, keepdim=True), dim=1)
    return unit.mT @ unit


def _relative(before: Tensor, after: Tensor) -> float:
    ratios = [_ratio((new - old).norm(), old.norm()) for old, new in zip(before, after, strict=True)]
    return sum(ratios) / len(ratios)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
