"""The quality bar's retrieval finds what is there and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from bwlab_emoji.art import Art
from bwlab_emoji.base_quality import Candidates, distances, other_set_control, retrieval, world_candidates


@pytest.fixture
def candidates(small_art: Art) -> Candidates:
    return world_candidates(small_art)


def truths_of(candidates: Candidates) -> list[tuple[str, str]]:
    return [(candidates.identities[row], candidates.styles[row % 9]) for row in range(0, 45, 4)]


def test_true_images_are_found_even_when_shifted(candidates: Candidates) -> None:
    truths = truths_of(candidates)
    images = np.stack([candidates.images[row, row % 9] for row in range(0, 45, 4)])
    found = retrieval(distances(np.roll(images, (2, -2), axis=(1, 2)), candidates), candidates, truths)
    assert (found.style, found.identity, found.identity_top5) == (1.0, 1.0, 1.0)


def test_wrong_images_are_not(candidates: Candidates) -> None:
    truths = truths_of(candidates)
    images = np.stack([candidates.images[(row + 20) % 45, (row + 4) % 9] for row in range(0, 45, 4)])
    found = retrieval(distances(images, candidates), candidates, truths)
    assert found.style == 0.0
    assert found.identity == 0.0


def test_distance_is_the_plain_euclidean_one(candidates: Candidates) -> None:
    white = np.full((1, 64, 64, 3), 255, dtype=np.uint8)
    black = Candidates(np.zeros((1, 1, 64, 64, 3), dtype=np.uint8), ("night",), ("ink",))
    assert distances(white, black)[0, 0, 0] == pytest.approx(np.sqrt(32 * 32 * 3), rel=1e-5)


def test_the_control_leaves_the_own_set_out(candidates: Candidates) -> None:
    control = other_set_control(candidates, "noto", candidates.identities)
    assert control.style == 0.0
    assert control.count == len(candidates.identities)
