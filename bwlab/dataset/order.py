"""Which examples each batch has: a function of its number alone, so that nothing is carried from batch to batch.

Examples of one size and one kind (new, or regularisation) form a lane, which yields them in epochs, each a fresh
permutation in which every example comes as often as it repeats. Lanes of one size form a bucket. Fixed cycles say which
bucket gives a batch and which lane a place in it; in a cycle each comes as often as its share says, evenly spread. So
every batch is full and of one size, no example is favoured, and new and regularisation examples come equally often.
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

LONGEST_CYCLE = 2**16  # beyond it shares are rounded


class BatchSlot(NamedTuple):
    """One example of a batch.

    Attributes:
        example: its index.
        epoch: of its lane, 0 for the first.

    """

    example: int
    epoch: int


@dataclass(frozen=True)
class Cycle:
    """An endless repetition of the same numbers.

    Attributes:
        members: one round, numbers from 0.
        ordinals: how often each of them came before in the round.
        counts: how often each number comes in a round.

    """

    members: tuple[int, ...]
    ordinals: tuple[int, ...]
    counts: tuple[int, ...]

    def at(self, position: int) -> tuple[int, int]:
        """Return the number at a position, and how often it came before."""
        rounds, place = divmod(position, len(self.members))
        member = self.members[place]
        return member, rounds * self.counts[member] + self.ordinals[place]


def even_cycle(shares: Sequence[int]) -> Cycle:
    """Return the cycle in which number i comes `shares[i]` times (at least 1), as evenly spread as can be."""
    counts = whole_shares(shares)
    numbers = np.repeat(np.arange(len(counts)), counts)
    ordinals = np.concatenate([np.arange(count) for count in counts])
    times = (ordinals + 0.5) / np.repeat(counts, counts)
    order = np.argsort(times, kind="stable")
    return Cycle(tuple(numbers[order].tolist()), tuple(ordinals[order].tolist()), counts)


def whole_shares(shares: Sequence[int]) -> tuple[int, ...]:
    """Return shares in lowest terms; rounded, but to no less than 1, if they are still more than `LONGEST_CYCLE`."""
    divisor = math.gcd(*shares)
    lowest = [share // divisor for share in shares]
    total = sum(lowest)
    if total <= LONGEST_CYCLE:
        return tuple(lowest)
    return tuple(max(1, round(share * LONGEST_CYCLE / total)) for share in lowest)


@dataclass(frozen=True)
class Lane:
    """Examples in endless epochs.

    Attributes:
        members: their indices.
        repeats: how often each comes in an epoch.
        purpose: what tells its random order from those of other lanes.

    """

    members: tuple[int, ...]
    repeats: tuple[int, ...]
    purpose: tuple[int, ...] = ()

    def places(self, first: int, past: int, seed: int) -> list[BatchSlot]:
        """Return what comes from position `first` to before `past`."""
        pool = torch.repeat_interleave(torch.tensor(self.members), torch.tensor(self.repeats))
        found: list[BatchSlot] = []
        for epoch in range(first // len(pool), -(-past // len(pool))):
            order = torch.randperm(len(pool), generator=generator_for(seed, "epoch", epoch, *self.purpose))
            start = epoch * len(pool)
            rows = pool[order[max(first - start, 0) : past - start]]
            found += [BatchSlot(index, epoch) for index in rows.tolist()]
        return found


@dataclass(frozen=True)
class Order:
    """All examples, by size and kind.

    Attributes:
        buckets: the lanes of each.
        shares: how often an example of each of those lanes is shown, for each other.

    """

    buckets: tuple[tuple[Lane, ...], ...]
    shares: tuple[tuple[int, ...], ...]

    @cached_property
    def bucket_cycle(self) -> Cycle:
        """Which bucket gives each batch."""
        return even_cycle([sum(shares) for shares in self.shares])

    @cached_property
    def lane_cycles(self) -> tuple[Cycle, ...]:
        """For each bucket which lane gives each place of its batches."""
        return tuple(even_cycle(shares) for shares in self.shares)

    def places(self, batch: int, size: int, seed: int) -> list[BatchSlot]:
        """Return the examples of batch number `batch` of `size`."""
        bucket, number = self.bucket_cycle.at(batch)
        cycle = self.lane_cycles[bucket]
        wanted = [cycle.at(position) for position in range(number * size, (number + 1) * size)]
        streams = {lane: iter(self._from_lane(bucket, lane, wanted, seed)) for lane in {lane for lane, _ in wanted}}
        return [next(streams[lane]) for lane, _ in wanted]

    def _from_lane(self, bucket: int, lane: int, wanted: Iterable[tuple[int, int]], seed: int) -> list[BatchSlot]:
        ordinals = [ordinal for one, ordinal in wanted if one == lane]
        return self.buckets[bucket][lane].places(ordinals[0], ordinals[-1] + 1, seed)


def new_order(repeats: Sequence[int], shapes: Sequence[tuple[int, int]], regularisation: Sequence[bool]) -> Order:
    """Return the order of examples.

    Args:
        repeats: how often each comes in an epoch.
        shapes: what must be alike in a batch.
        regularisation: which of them preserve what the base knows; those are shown as often as all others together.

    """
    groups: dict[tuple[int, int], dict[bool, list[int]]] = {}
    for index, (shape, kind) in enumerate(zip(shapes, regularisation, strict=True)):
        groups.setdefault(shape, {}).setdefault(kind, []).append(index)
    totals = {
        kind: sum(count for count, own in zip(repeats, regularisation, strict=True) if own is kind)
        for kind in (False, True)
    }
    alone = len(groups) == 1 and len(set(regularisation)) == 1
    buckets, shares = [], []
    for number, shape in enumerate(sorted(groups)):
        kinds = sorted(groups[shape].items())
        lanes = [lane(members, repeats, () if alone else (number, int(kind))) for kind, members in kinds]
        buckets.append(tuple(lanes))
        weights = [totals[not kind] or 1 for kind, _ in kinds]  # these make both kinds equal in total
        shares.append(tuple(sum(own.repeats) * weight for own, weight in zip(lanes, weights, strict=True)))
    return Order(tuple(buckets), tuple(shares))


def lane(members: Sequence[int], repeats: Sequence[int], purpose: tuple[int, ...]) -> Lane:
    """Return the lane of some examples."""
    return Lane(tuple(members), tuple(repeats[index] for index in members), purpose)


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0..2^63 - 1 for one purpose, such as `("step", 17)`, of a run seeded with `seed`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run seeded with `seed`."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
