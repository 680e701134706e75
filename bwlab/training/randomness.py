"""Random generators that depend on nothing but the seed and what they are for.

Every step draws from a generator of its own, so a resumed run needs no generator state to go on bit for bit, and two
runs that differ only in their blocks see the same pictures, noise and timesteps.
"""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0..2^63 - 1 for one purpose, such as ``("step", 17)``, of a run seeded with ``seed``."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run seeded with ``seed``."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
