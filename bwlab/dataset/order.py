"""The examples of each batch, as a function of the batch's number alone: nothing is carried from batch to batch.

A bucket holds the examples of one size. Within a bucket, new examples form one lane and regularisation examples
another. A lane is an endless stream of its examples in epochs, each a fresh permutation in which every example comes as
often as it repeats. A cycle is a fixed round, repeated for ever, that spreads its members evenly: one cycle says which
bucket gives a batch, and one for each bucket says which lane gives a slot of a batch. So every batch is full and of one
size, no example is favoured, and new and regularisation examples come equally often.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

LONGEST_CYCLE = 2**16  # longer rounds are shortened by rounding the shares


class BatchSlot(NamedTuple):
    """One slot of a batch.

    Attributes:
        example: index of its example.
        epoch: epoch of the example's lane, 0 for the first.

    """

    example: int
    epoch: int


@dataclass(frozen=True)
class Cycle:
    """A round of members that repeats for ever.

    Attributes:
        members: the member at each position of a round, numbered from 0.
        ordinals: for each position, how often its member came before in the round.
        counts: for each member, how often it comes in a round.

    """

    members: tuple[int, ...]
    ordinals: tuple[int, ...]
    counts: tuple[int, ...]

    def at(self, position: int) -> tuple[int, int]:
        """Return the member at a position, and how often it came before, in all rounds."""
        rounds, within = divmod(position, len(self.members))
        member = self.members[within]
        return member, rounds * self.counts[member] + self.ordinals[within]


@dataclass(frozen=True)
class Lane:
    """An endless stream of examples in shuffled epochs.

    Attributes:
        members: indices of the examples.
        repeats: how often each example comes in an epoch.
        purpose: numbers that make its random order differ from those of other lanes.

    """

    members: tuple[int, ...]
    repeats: tuple[int, ...]
    purpose: tuple[int, ...] = ()

    def slots(self, first: int, past: int, seed: int) -> list[BatchSlot]:
        """Return the slots from position `first` to before `past` of the stream."""
        pool = torch.repeat_interleave(torch.tensor(self.members), torch.tensor(self.repeats))
        slots: list[BatchSlot] = []
        for epoch in range(first // len(pool), -(-past // len(pool))):
            order = torch.randperm(len(pool), generator=generator_for(seed, "epoch", epoch, *self.purpose))
            begin = epoch * len(pool)
            rows = pool[order[max(first - begin, 0) : past - begin]]
            slots += [BatchSlot(index, epoch) for index in rows.tolist()]
        return slots


@dataclass(frozen=True)
class Order:
    """All examples, by size and kind.

    Attributes:
        buckets: the lanes of each bucket.
        shares: for each lane of each bucket, how often its examples come in proportion to those of other lanes.

    """

    buckets: tuple[tuple[Lane, ...], ...]
    shares: tuple[tuple[int, ...], ...]

    @cached_property
    def bucket_cycle(self) -> Cycle:
        """The bucket of each batch."""
        return even_cycle([sum(shares) for shares in self.shares])

    @cached_property
    def lane_cycles(self) -> tuple[Cycle, ...]:
        """For each bucket, the lane of each slot of its batches."""
        return tuple(even_cycle(shares) for shares in self.shares)

    def slots(self, batch: int, size: int, seed: int) -> list[BatchSlot]:
        """Return the slots of batch number `batch` of `size` examples."""
        bucket, number = self.bucket_cycle.at(batch)
        cycle = self.lane_cycles[bucket]
        positions = [cycle.at(position) for position in range(number * size, (number + 1) * size)]
        lanes = {lane for lane, _ in positions}
        streams = {lane: iter(self._lane_slots(bucket, lane, positions, seed)) for lane in lanes}
        return [next(streams[lane]) for lane, _ in positions]

    def _lane_slots(self, bucket: int, lane: int, positions: Iterable[tuple[int, int]], seed: int) -> list[BatchSlot]:
        ordinals = [ordinal for member, ordinal in positions if member == lane]
        return self.buckets[bucket][lane].slots(ordinals[0], ordinals[-1] + 1, seed)


def new_order(repeats: Sequence[int], shapes: Sequence[tuple[int, int]], regularisation: Sequence[bool]) -> Order:
    """Return the order of examples.

    Args:
        repeats: how often each example comes in an epoch.
        shapes: the shape of each example; all examples of a batch have the same one.
        regularisation: whether each example preserves what the base knows; in total those come as often as all others.

    """
    groups: dict[tuple[int, int], dict[bool, list[int]]] = {}
    for index, (shape, kind) in enumerate(zip(shapes, regularisation, strict=True)):
        groups.setdefault(shape, {}).setdefault(kind, []).append(index)
    totals = {
        kind: sum(count for count, own in zip(repeats, regularisation, strict=True) if own is kind)
        for kind in (False, True)
    }
    single = len(groups) == 1 and len(set(regularisation)) == 1
    buckets, shares = [], []
    for number, shape in enumerate(sorted(groups)):
        kinds = sorted(groups[shape].items())
        lanes = [new_lane(members, repeats, () if single else (number, int(kind))) for kind, members in kinds]
        buckets.append(tuple(lanes))
        weights = [totals[not kind] or 1 for kind, _ in kinds]  # these make both kinds equal in total
        shares.append(tuple(sum(lane.repeats) * weight for lane, weight in zip(lanes, weights, strict=True)))
    return Order(tuple(buckets), tuple(shares))


def new_lane(members: Sequence[int], repeats: Sequence[int], purpose: tuple[int, ...]) -> Lane:
    """Return the lane of some examples."""
    return Lane(tuple(members), tuple(repeats[index] for index in members), purpose)


def even_cycle(shares: Sequence[int]) -> Cycle:
    """Return the cycle in which member i comes `shares[i]` times (at least 1), as evenly spread as possible."""
    counts = whole_shares(shares)
    members = np.repeat(np.arange(len(counts)), counts)
    ordinals = np.concatenate([np.arange(count) for count in counts])
    times = (ordinals + 0.5) / np.repeat(counts, counts)
    order = np.argsort(times, kind="stable")
    return Cycle(tuple(members[order].tolist()), tuple(ordinals[order].tolist()), counts)


def whole_shares(shares: Sequence[int]) -> tuple[int, ...]:
    """Return shares in lowest terms; rounded, but to no less than 1, if they sum to more than `LONGEST_CYCLE`."""
    divisor = math.gcd(*shares)
    lowest = [share // divisor for share in shares]
    total = sum(lowest)
    if total <= LONGEST_CYCLE:
        return tuple(lowest)
    return tuple(max(1, round(share * LONGEST_CYCLE / total)) for share in lowest)


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0..2^63 - 1 for one purpose, such as `("step", 17)`, of a run seeded with `seed`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run seeded with `seed`."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
