"""Streaming statistics against those of everything at once."""

from __future__ import annotations

import pytest
import torch

from bwlab.errors import BwlabError
from bwlab_analysis.activations.probe import Moments, as_rows, cka, cka_of_rows


def test_pieces_give_what_the_whole_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = 3 + torch.randn(17, 5, 3, 7, generator=generator, dtype=torch.float64) * torch.tensor([1, 2, 3, 4, 5]).view(
        -1, 1, 1
    )
    moments = Moments(5)
    for piece in whole.split([1, 5, 11]):
        moments.add(piece)
    found = moments.statistics()
    rows = whole.movedim(1, -1).reshape(-1, 5)
    norms = whole.flatten(1).norm(dim=1)
    assert found.samples == 17
    assert torch.allclose(found.mean, rows.mean(0), atol=1e-12)
    assert torch.allclose(found.variance, rows.var(0, correction=0), atol=1e-12)
    assert found.norm == pytest.approx(float(norms.mean()), abs=1e-12)
    assert found.norm_sd == pytest.approx(float(norms.std(correction=0)), abs=1e-12)


def test_the_gram_sketch_is_near_the_covariance() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(20_011, 3, generator=generator) @ torch.tensor(
        [[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.3]]
    )
    moments = Moments(3)
    for piece in rows.split(4_999):
        moments.add(piece)
    expected = torch.cov(rows.T, correction=0).double()
    assert torch.linalg.norm(moments.statistics().gram() - expected) < 0.15 * torch.linalg.norm(expected)


def test_cka_of_sketches_is_near_that_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(4_001, 13, generator=generator)
    mixed = base @ torch.randn(13, 11, generator=generator) + 2 * torch.randn(4_001, 11, generator=generator)
    sketches = []
    for rows in (base, mixed):
        moments = Moments(rows.shape[1], seed=3)
        for piece in rows.split(1_009):
            moments.add(piece)
        sketches.append(moments.statistics())
    exact = cka_of_rows(base - base.mean(0), mixed - mixed.mean(0))
    assert 0.2 < exact < 0.95
    assert cka(*sketches) == pytest.approx(exact, abs=0.06)
    assert cka(sketches[0], sketches[0]) == pytest.approx(1)


def test_blocks_of_different_resolutions_are_not_compared() -> None:
    moments = Moments(2), Moments(2)
    for one, side in zip(moments, (4, 2), strict=True):
        one.add(torch.randn(3, 2, side, side, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(BwlabError, match=r"48 and 12 positions in all\. Compare blocks of one resolution"):
        cka(*(one.statistics() for one in moments))


def test_cka_knows_rotations_and_scales_as_the_same() -> None:
    rows = torch.randn(101, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    centred = rows - rows.mean(0)
    assert cka_of_rows(centred, 7 * centred @ rotation) == pytest.approx(1)
    assert cka_of_rows(centred, torch.zeros(101, 3, dtype=torch.float64)) == 0


@pytest.mark.parametrize("shape", [(3, 5, 2, 7), (3, 14, 5), (3, 5)])
def test_rows_of_images_tokens_and_vectors(shape: tuple[int, ...]) -> None:
    rows, samples = as_rows(torch.randn(shape))
    assert samples == 3
    assert rows.shape[1] == 5


def test_what_cannot_be_counted_is_refused() -> None:
    moments = Moments(5)
    with pytest.raises(BwlabError, match="nothing ran"):
        moments.statistics()
    with pytest.raises(BwlabError, match="7 channels after 5"):
        moments.add(torch.zeros(2, 7))
    with pytest.raises(BwlabError, match="NaN"):
        moments.add(torch.full((2, 5), float("nan")))
    moments.add(torch.ones(2, 5))
    other = Moments(5)
    other.add(torch.ones(3, 5))
    with pytest.raises(BwlabError, match="2 and 3 samples"):
        cka(moments.statistics(), other.statistics())
