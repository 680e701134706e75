"""How much each example's loss counts."""

from __future__ import annotations

import torch
from torch import Tensor


def signal_to_noise(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Return the signal-to-noise ratio ``alpha^2 / sigma^2`` at timesteps, ``(batch,)`` float64, 0 for pure noise."""
    kept = alphas_cumprod.double().cpu()[timesteps.cpu()]
    return kept / (1 - kept)


def min_snr_weights(snr: Tensor, gamma: float, target: str) -> Tensor:
    """Return the weight of each example's loss, ``(batch,)``.

    The weight of the loss on clean latents is ``min(snr, gamma)``; on the noise that is divided by ``snr``, on the
    velocity by ``snr + 1``, as their errors are that much greater (Hang et al., arXiv 2303.09556, section 3.4).

    Args:
        snr: signal-to-noise ratios, 0 or more.
        gamma: the cap.
        target: ``epsilon``, ``v_prediction`` or ``sample``.
    """
    capped = snr.clamp(max=gamma)
    if target == "sample":
        return capped
    if target == "v_prediction":
        return capped / (snr + 1)
    # min(snr, gamma) / snr, written so that a ratio of 0 (zero terminal SNR) gives its limit 1.
    return torch.clamp(gamma / snr, max=1.0)
