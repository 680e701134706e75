"""Which images each step sees."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bwlab.dataset.order import LONGEST_CYCLE, even_cycle, generator_for, new_order, whole_shares

SQUARE, WIDE, TALL = (64, 64), (96, 48), (48, 96)


def batch_indices(repeats: tuple[int, ...], seed: int, step: int, size: int) -> list[int]:
    """Return a batch of examples that are all alike."""
    order = new_order(repeats, [SQUARE] * len(repeats), [False] * len(repeats))
    return [slot.example for slot in order.slots(step, size, seed)]


def test_an_epoch_has_every_image_as_often_as_it_repeats() -> None:
    repeats = (3, 1, 2, 5)
    shown = [index for step in range(11) for index in batch_indices(repeats, 0, step, 2)]
    assert Counter(shown[:11]) == {0: 3, 1: 1, 2: 2, 3: 5}
    assert Counter(shown[11:]) == {0: 3, 1: 1, 2: 2, 3: 5}
    assert shown[:11] != shown[11:]


def test_images_of_one_size_come_in_plain_permutations() -> None:
    for epoch in range(3):
        permutation = torch.randperm(7, generator=generator_for(5, "epoch", epoch)).tolist()
        assert batch_indices((1,) * 7, 5, epoch, 7) == permutation


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    order = new_order((1, 1, 1), [SQUARE] * 3, [False] * 3)
    slots = order.slots(2, 7, 0)
    assert Counter(slot.example for slot in slots).most_common()[-1][1] >= 2
    assert [slot.epoch for slot in slots] == [4, 5, 5, 5, 6, 6, 6]


def test_the_batch_size_does_not_change_the_order() -> None:
    one = [index for step in range(15) for index in batch_indices((1,) * 7, 5, step, 1)]
    three = [index for step in range(5) for index in batch_indices((1,) * 7, 5, step, 3)]
    assert one == three


def test_seeds_differ() -> None:
    assert batch_indices((1,) * 19, 0, 0, 19) != batch_indices((1,) * 19, 1, 0, 19)


def test_a_batch_is_of_one_size_and_full() -> None:
    shapes = [SQUARE, WIDE, SQUARE, TALL, WIDE, SQUARE, SQUARE]
    order = new_order([1] * 7, shapes, [False] * 7)
    for batch in range(40):
        indices = [slot.example for slot in order.slots(batch, 3, 0)]
        assert len(indices) == 3
        assert len({shapes[index] for index in indices}) == 1


def test_buckets_of_any_size_have_every_image_as_often_as_it_repeats() -> None:
    repeats, shapes = [2, 3, 1, 5, 1], [SQUARE, WIDE, SQUARE, TALL, WIDE]
    order = new_order(repeats, shapes, [False] * 5)
    size = 3
    batches = sum(repeats)  # one round of the buckets' cycle: every image comes `size` times its repeats
    shown = Counter(slot.example for batch in range(batches) for slot in order.slots(batch, size, 0))
    assert [shown[index] for index in range(5)] == [size * count for count in repeats]


def test_regularisation_comes_as_often_as_all_else_whatever_its_number() -> None:
    kinds = [False] * 2 + [True] * 5
    order = new_order([3, 4] + [1] * 5, [SQUARE] * 7, kinds)
    for batch in range(35):
        slots = order.slots(batch, 2, 0)
        assert sorted(kinds[slot.example] for slot in slots) == [False, True]
    shown = Counter(slot.example for batch in range(35) for slot in order.slots(batch, 2, 0))
    assert [shown[index] for index in range(7)] == [15, 20, 7, 7, 7, 7, 7]


def test_regularisation_of_other_sizes_comes_as_often_in_total() -> None:
    kinds = [False, False, True, True, True]
    order = new_order([1] * 5, [SQUARE, WIDE, WIDE, TALL, TALL], kinds)
    shown = Counter(kinds[slot.example] for batch in range(60) for slot in order.slots(batch, 2, 0))
    assert shown[True] == shown[False]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9))
def test_a_cycle_is_bounded_and_even(shares: list[int]) -> None:
    counts = whole_shares(shares)
    assert sum(counts) <= LONGEST_CYCLE + len(shares)
    cycle = even_cycle(shares)
    seen = [0] * len(shares)
    for position, member in enumerate(cycle.members[:2000]):
        assert cycle.at(position) == (member, seen[member])
        seen[member] += 1
        expected = [(position + 1) * count / len(cycle.members) for count in counts]
        assert all(abs(have - wanted) <= len(shares) for have, wanted in zip(seen, expected, strict=True))
    assert cycle.at(len(cycle.members))[1] == cycle.counts[cycle.members[0]]
