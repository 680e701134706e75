"""Adapters that go into a merge: read, checked against each other, and dealt out module by module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents, LazyTensor, read_contents
from bwlab.formats.convert import require_known, require_readable
from bwlab.merging.choice import chosen, letters
from bwlab.merging.method import Part

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager


@dataclass(frozen=True, eq=False)
class Ingredients:
    """The adapters of a merge.

    Attributes:
        adapters: in the order given.
        scales: of each.
        makers: module of the scheme -> letters of the adapters that make it; empty: all make everything.
    """

    adapters: tuple[AdapterContents, ...]
    scales: tuple[BlockSpec, ...]
    makers: Mapping[str, frozenset[str]]

    @property
    def architecture(self) -> str:
        """What the adapters were made for, as far as one of them tells."""
        return common_architecture(self.adapters)

    def paths(self) -> list[str]:
        """The paths of modules of any adapter, in the order of the first that has each."""
        return list(dict.fromkeys(path for adapter in self.adapters for path in adapter.modules))

    def parts(self, path: str) -> list[Part]:
        """What each adapter does at a path; those with the scale 0 and those not chosen are left out."""
        found = []
        for place, (adapter, spec) in enumerate(zip(self.adapters, self.scales, strict=True)):
            module = adapter.modules.get(path)
            scale = spec.value_of(path) if module is not None else 0.0
            if module is not None and scale != 0 and self._is_chosen(path, place, spec.scheme):
                require_readable(module)
                found.append(Part(place, module, scale))
        return found

    def shared(self) -> int:
        """How many paths more than one adapter has a part in."""
        return sum(len(self.parts(path)) > 1 for path in self.paths())

    def embeddings(self) -> dict[str, LazyTensor]:
        """Token embeddings of all; `BwlabError` if two adapters have one for the same token."""
        found: dict[str, LazyTensor] = {}
        for adapter in self.adapters:
            twice = sorted(set(found) & set(adapter.embeddings))
            if twice:
                what = f"two of them have an embedding of {twice[0]}"
                raise BwlabError("merging adapters", what, "Rename the token in one of the files")
            found |= adapter.embeddings
        return found

    def metadata(self) -> dict[str, str]:
        """The entries that all files agree on."""
        first, *others = (adapter.metadata for adapter in self.adapters)
        return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}

    def _is_chosen(self, path: str, place: int, scheme: BlockScheme) -> bool:
        module = scheme.module_of(path)
        return not self.makers or module is None or letters(place + 1)[-1] in self.makers[module.path]


def read_all(paths: Sequence[Path], manager: PluginManager, drop_unknown: bool) -> tuple[AdapterContents, ...]:
    """The contents of adapter files.

    Raises:
        BwlabError: a file is broken or has unknown keys, or they were made for different architectures.
    """
    adapters = tuple(read_contents(path, manager) for path in paths)
    for adapter in adapters:
        if not drop_unknown:
            require_known(adapter)
        if not adapter.modules:
            found = "it holds embeddings of tokens only"
            raise BwlabError(f"merging {adapter.path}", found, "Give adapters that change layers")
    common_architecture(adapters)
    return adapters


def common_architecture(adapters: Sequence[AdapterContents]) -> str:
    """The architecture of all adapters that tell theirs; `BwlabError`, which names two files, if they differ."""
    known = [adapter for adapter in adapters if adapter.architecture != "unknown"]
    for other in known[1:]:
        if other.architecture != known[0].architecture:
            raise BwlabError(
                "merging adapters",
                f"{known[0].path.name} is for {known[0].architecture}, {other.path.name} for {other.architecture}",
                "Merge adapters that were made for one architecture",
            )
    return known[0].architecture if known else "unknown"


def ingredients(
    adapters: tuple[AdapterContents, ...], scales: Sequence[str], choose: str | None, scheme: BlockScheme
) -> Ingredients:
    """The adapters with their scales, paired in order; missing scales are 1.

    Raises:
        BwlabError: there are more scales than adapters, or a spec or choice is wrong.
    """
    if len(scales) > len(adapters):
        found = f"{len(scales)} scales for {len(adapters)} adapters"
        raise BwlabError("--scale", found, "Give one for each adapter, in their order")
    texts = [*scales, *["1"] * (len(adapters) - len(scales))]
    specs = tuple(parse_spec(text, scheme, kind="scale", default=1.0) for text in texts)
    makers = chosen(choose, scheme, len(adapters)) if choose is not None else {}
    return Ingredients(adapters, specs, makers)


def every_part(mixed: Ingredients) -> Iterator[list[Part]]:
    """The parts at each path that any adapter still has a part in."""
    return (parts for path in mixed.paths() if (parts := mixed.parts(path)))
