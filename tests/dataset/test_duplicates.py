"""Images that are there twice."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bwlab.benchmark import load_benchmark
from bwlab.dataset import duplicates
from bwlab.dataset.duplicates import (
    BITS,
    NEAR_DUPLICATE_BITS,
    SimilarPair,
    cosines,
    equal_groups,
    fingerprint,
    similar_pairs,
)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Twenty different emoji."""
    benchmark = load_benchmark()
    return [benchmark.image(identity, "noto") for identity in benchmark.identities[:20]]


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Image.open(buffer)


def test_copies_are_near_duplicates_and_others_are_not(images: list[Image.Image]) -> None:
    prints = [fingerprint(image) for image in images]
    for change in (smaller, compressed):
        bits = [int((fingerprint(change(image)) != own).sum()) for image, own in zip(images, prints, strict=True)]
        assert np.median(bits) <= NEAR_DUPLICATE_BITS
    assert list(similar_pairs(prints)) == []


def test_pairs_come_once_with_their_bits() -> None:
    generator = np.random.default_rng(0)
    first, third = (generator.integers(0, 2, BITS).astype(bool) for _ in range(2))
    second = first.copy()
    second[:3] = ~second[:3]
    assert list(similar_pairs([first, third, second, first])) == [
        SimilarPair(0, 2, 3),
        SimilarPair(0, 3, 0),
        SimilarPair(2, 3, 3),
    ]
    assert list(similar_pairs([])) == []


@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 3, 128]), most=st.sampled_from([0, 1, 4, 17]))
@settings(max_examples=30)
def test_pairs_are_those_of_a_direct_comparison(seed: int, rows: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, 2, (7, BITS)).astype(bool)
    prints = [drawn[number] ^ (generator.random(BITS) < 0.04) for number in generator.integers(0, 7, 23)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates, "ROWS_AT_ONCE", rows)
        found = list(similar_pairs(prints, most))
    bits = {(a, b): int((prints[a] ^ prints[b]).sum()) for a, b in combinations(range(23), 2)}
    assert found == [SimilarPair(a, b, count) for (a, b), count in bits.items() if count <= most]


def test_the_transform_is_orthogonal() -> None:
    waves = cosines(7)
    np.testing.assert_allclose(waves @ waves.T, np.diag([7.0] + [3.5] * 6), atol=1e-12)


def test_equal_digests_are_grouped() -> None:
    assert equal_groups({"a": "1", "b": "2", "c": "1", "d": "1"}) == [("a", "c", "d")]
