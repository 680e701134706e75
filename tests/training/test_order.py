"""Which pictures each step sees."""

from __future__ import annotations

from collections import Counter

from bwlab.training.order import batch_indices


def test_an_epoch_shows_every_picture_as_often_as_it_repeats() -> None:
    repeats = (3, 1, 2, 5)
    shown = [index for step in range(11) for index in batch_indices(repeats, 0, step, 2)]
    assert Counter(shown[:11]) == {0: 3, 1: 1, 2: 2, 3: 5}
    assert Counter(shown[11:]) == {0: 3, 1: 1, 2: 2, 3: 5}
    assert shown[:11] != shown[11:]


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    assert Counter(batch_indices((1, 1, 1), 0, 2, 7)).most_common()[-1][1] >= 2


def test_the_batch_size_does_not_change_the_order() -> None:
    one = [index for step in range(15) for index in batch_indices((1,) * 7, 5, step, 1)]
    three = [index for step in range(5) for index in batch_indices((1,) * 7, 5, step, 3)]
    assert one == three


def test_seeds_differ() -> None:
    assert batch_indices((1,) * 19, 0, 0, 19) != batch_indices((1,) * 19, 1, 0, 19)
