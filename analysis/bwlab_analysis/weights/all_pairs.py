"""All pairs of many adapter files, with few of the adapters in memory at a time."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from bwlab.errors import BwlabError
from bwlab.formats.types import Formats
from bwlab_analysis.measures import ConflictMeasure
from bwlab_analysis.weights.adapter_weights import AdapterWeights, open_weights
from bwlab_analysis.weights.conflict import ConflictReport, compared_weights

GROUP_BYTES = 1 << 29
"""Adapters of so many bytes in memory stay there together, and every later one is read once for all of them."""

Pair: TypeAlias = tuple[int, int]
"""The numbers of two files, the smaller one first."""


class AllPairs:
    """The conflict of the weights of every pair of files.

    In memory are a group of adapters of `GROUP_BYTES`, and two more, whatever the number of files.

    Attributes:
        files: the adapter files.
        unreadable: the files that could not be read, with the reasons; complete when `reports` has ended.

    """

    def __init__(
        self, files: Sequence[Path], measures: Sequence[ConflictMeasure], formats: Formats | None = None
    ) -> None:
        """Take the files, the measures of pairs, and the source of format readers (None: the built-in ones)."""
        self.files = tuple(files)
        self.unreadable: dict[Path, BwlabError] = {}
        self._measures = measures
        self._formats = formats

    def reports(self, known: Container[Pair] = ()) -> Iterator[tuple[Pair, ConflictReport | BwlabError]]:
        """Yield every pair of readable files with its conflict, or with the reason why the two cannot be compared.

        Args:
            known: pairs to leave out.

        """
        count, start = len(self.files), 0
        while start < count:
            group: dict[int, AdapterWeights] = {}
            end = count  # of the group
            for number in range(start, count):
                wanted = [a for a in group if (a, number) not in known]
                joins = number < end and any((number, b) not in known for b in range(number + 1, count))
                weights = self._read(number) if wanted or joins else None
                if weights is not None:
                    yield from (((a, number), self._compared(group[a], weights)) for a in wanted)
                    group |= {number: weights} if joins else {}
                if number < end and sum(map(held_bytes, group.values())) >= GROUP_BYTES:
                    end = number + 1
            start = end

    def _read(self, number: int) -> AdapterWeights | None:
        file = self.files[number]
        if file not in self.unreadable:
            try:
                return open_weights(file, self._formats).in_memory()
            except BwlabError as error:
                self.unreadable[file] = error
        return None

    def _compared(self, a: AdapterWeights, b: AdapterWeights) -> ConflictReport | BwlabError:
        try:
            return compared_weights(a, b, self._measures)
        except BwlabError as error:
            return error


def held_bytes(weights: AdapterWeights) -> int:
    """Return the bytes of an adapter's deltas in memory, as factors and as SVDs."""
    deltas = (weights.held or {}).values()
    return sum(
        array.nbytes for delta in deltas for array in (delta.up_factor, delta.down_factor, *(delta.known_svd or ()))
    )
