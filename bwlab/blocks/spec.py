"""Block specs: one number for each part of a model, `"upper=16, mid=4, *=0"`.

The same grammar serves ranks, scales and learning rates: entries `name=number` separated by commas, of which later
entries win, or a single number. `*` means everything that no other entry names. See docs/blocks.md.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias, get_args

from bwlab.blocks.scheme import ALL, EVERYTHING, BlockScheme, Module, with_ranges
from bwlab.errors import BwlabError

Kind: TypeAlias = Literal["rank", "scale", "rate"]

SPEC_KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_RANK = 4096
# Narrower than float(), which also takes "1_000", "infinity" and digits of other scripts.
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
WANTED: Mapping[Kind, str] = {
    "rank": f"a whole number, 0 to {MAX_RANK}",
    "scale": "a finite number",
    "rate": "a finite number, 0 or more",
}


@dataclass(frozen=True)
class BlockSpec:
    """A number for each module of a block scheme.

    Attributes:
        text: the spec as it was written.
        scheme: the block scheme that defines the names.
        kind: kind of the numbers.
        values: path of a module of the scheme -> its number.

    """

    text: str
    scheme: BlockScheme = field(repr=False)
    kind: Kind
    values: Mapping[str, float] = field(repr=False)

    def value_of(self, path: str) -> float:
        """Return the number for the layer at `path`; `BwlabError` if the layer lies in no block of the scheme."""
        module = self.scheme.module_of(path)
        if module is None:
            found = f"it lies in no block of the scheme {self.scheme.name}"
            raise BwlabError(f"the {self.kind} of {path}", found, "Use the model that the block scheme was found from")
        return self.values[module.path]

    def by_block(self) -> dict[str, float | dict[str, float]]:
        """Return the number of each block, of cells where they differ, and of modules where a cell is divided.

        The rank of a block is that of its modules outside `apart`, as long as those have rank 0.
        """
        blocks: dict[str, list[Module]] = {}
        for module in self.scheme.modules:
            blocks.setdefault(module.block, []).append(module)
        return {block: self._of_block(block, modules) for block, modules in blocks.items()}

    def canonical(self) -> str:
        """Return a short spec that means the same, which depends on the numbers only and not on how it was written."""
        base = self._commonest()
        entries = [] if self.kind == "rank" and base == 0 else [f"{EVERYTHING}={number_text(base)}"]
        covered = _paths(EVERYTHING, self.scheme, self.kind)
        named: list[tuple[str, float]] = []
        for block, value in self.by_block().items():
            for name, number in _flat(block, value):
                default = base if _paths(name, self.scheme, self.kind) <= covered else 0.0
                if number != default:
                    named.append((name, number))
        for number, group in groupby(named, key=lambda entry: entry[1]):
            entries += [f"{name}={number_text(number)}" for name in with_ranges([n for n, _ in group], shortest=3)]
        return ", ".join(entries)

    def names_without(self, paths: Iterable[str]) -> list[str]:
        """Return the names in the spec with a number above 0 in whose blocks none of these layers lies; never `*`."""
        reached = {module.path for path in paths if (module := self.scheme.module_of(path)) is not None}
        named = [name for name, number in _entries(self.text, self.kind) if number > 0 and name != EVERYTHING]
        return [name for name in named if reached.isdisjoint(_paths(name, self.scheme, self.kind))]

    def _commonest(self) -> float:
        covered = _paths(EVERYTHING, self.scheme, self.kind)
        counts = Counter(self.values[module.path] for module in self.scheme.modules if module.path in covered)
        return counts.most_common(1)[0][0]

    def _of_block(self, block: str, modules: list[Module]) -> float | dict[str, float]:
        trained = _paths(block, self.scheme, self.kind)
        apart = any(self.values[module.path] for module in modules if module.path not in trained)
        if not apart:
            modules = [module for module in modules if module.path in trained]
        if not apart and len(uniform := self._distinct(modules)) == 1:
            return uniform.pop()
        numbers: dict[str, float] = {}
        for cell in dict.fromkeys(module.cell for module in modules):
            members = [module for module in modules if module.cell == cell]
            if len(uniform := self._distinct(members)) == 1:
                numbers[cell] = uniform.pop()
            else:
                numbers |= {module.path: self.values[module.path] for module in members}
        return numbers

    def _distinct(self, modules: Iterable[Module]) -> set[float]:
        return {self.values[module.path] for module in modules}


def parse_spec(text: str | float, scheme: BlockScheme, *, kind: Kind, default: float = 0.0) -> BlockSpec:
    """Return the numbers that a spec gives to the blocks of a model.

    The later of two entries for one module wins, except that every name wins over `*`. For ranks `*` covers only the
    denoiser's blocks: `te` and `rest` get a rank only if they are named, and so does a transformer's modulation.

    Args:
        text: the spec; a single number `16` means `*=16`.
        scheme: block scheme of the model.
        kind: ranks are whole numbers 0..4096, scales finite numbers, rates finite numbers >= 0.
        default: scale or rate of modules that are never named; their rank is 0.

    Raises:
        BwlabError: an unknown name, an invalid number, an empty or incomplete entry, or ranks that are all 0.

    """
    values = dict.fromkeys((module.path for module in scheme.modules), 0.0 if kind == "rank" else default)
    # The sort is stable: it moves "*" to the front and keeps the order of the names.
    for name, number in sorted(_entries(text, kind), key=lambda entry: entry[0] != EVERYTHING):
        values |= dict.fromkeys(_paths(name, scheme, kind), number)
    return spec_from_values(values, scheme, kind, text=str(text))


def spec_from_values(
    values: Mapping[str, float], scheme: BlockScheme, kind: Kind, text: str | None = None
) -> BlockSpec:
    """Return the spec with these numbers, one for each module's path; without `text` it gets its canonical one.

    Raises:
        BwlabError: ranks that are 0 everywhere.

    """
    if kind == "rank" and not any(values.values()):
        known = f"Known: {scheme.summary()}"
        raise BwlabError(f"ranks {_shown(text or '0')}", "no block has a rank above 0", f"Name one that has. {known}")
    spec = BlockSpec(text or "", scheme, kind, dict(values))
    return spec if text is not None else BlockSpec(spec.canonical(), scheme, kind, spec.values)


def parse_number(text: str, kind: Kind, where: str) -> float:
    """Return the number; `BwlabError`, which names `where` it stands, if it is not a number of this kind.

    >>> parse_number("16", "rank", "upper=16")
    16.0
    """
    asked = f"{kind} {text!r} in {_shown(where)}"
    fix = f"Give {WANTED[kind]}"
    if not NUMBER.fullmatch(text):
        found = "it is not a finite number" if NOT_FINITE.fullmatch(text) else "it is not a number"
        raise BwlabError(asked, found, fix)
    number = float(text)
    if not math.isfinite(number):
        raise BwlabError(asked, "it is too large", fix)
    if number < 0 and kind != "scale":
        raise BwlabError(asked, "it is below 0", fix)
    if kind == "rank" and not number.is_integer():
        raise BwlabError(asked, "it is not a whole number", fix)
    if kind == "rank" and number > MAX_RANK:
        raise BwlabError(asked, f"it is above {MAX_RANK}", fix)
    return number + 0.0  # -0.0 becomes 0.0


def number_text(number: float) -> str:
    """Return the shortest text that reads back as `number`.

    >>> number_text(4.0), number_text(0.25)
    ('4', '0.25')
    """
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _entries(text: str | float, kind: Kind) -> Iterator[tuple[str, float]]:
    if not isinstance(text, str):
        # bool is an int for Python, but "rank true" is a slip.
        yield EVERYTHING, parse_number(str(text) if isinstance(text, bool) else number_word(text), kind, str(text))
        return
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        name, equals, number = (piece.strip() for piece in entry.partition("="))
        if equals and name:
            yield name, parse_number(number, kind, text)
        elif len(entries) == 1 and (NUMBER.fullmatch(entry) or NOT_FINITE.fullmatch(entry)):
            yield EVERYTHING, parse_number(entry, kind, text)
        else:
            raise _bad_entry(entry, entries, text)


def number_word(number: float) -> str:
    """Return `number` as text, even if it is not finite."""
    return number_text(float(number)) if math.isfinite(number) else str(number)


def _bad_entry(entry: str, entries: list[str], text: str) -> BwlabError:
    fix = 'Write name=number, separated by commas, such as "upper=16, mid=4", or a single number'
    if not entry:
        found = "an entry is empty" if len(entries) > 1 else "it is empty"
    elif "=" in entry:
        found = f"{entry!r} names no block"
    else:
        found = f"{entry!r} has no '='"
    if len(entries) > 1 and all(NUMBER.fullmatch(entry) for entry in entries):
        found = f"it is a list of {len(entries)} numbers"
        fix += " ('bwlab blocks --from lbw LIST', or --from kohya, translates lists)"
    return BwlabError(f"block spec {_shown(text)}", found, fix)


def _paths(name: str, scheme: BlockScheme, kind: Kind) -> frozenset[str]:
    """Return the paths of the modules that get the number of an entry."""
    if kind == "rank":
        return scheme.trained_by(ALL if name == EVERYTHING else name)
    return scheme.modules_of(name)


def _flat(block: str, value: float | dict[str, float]) -> Iterator[tuple[str, float]]:
    yield from value.items() if isinstance(value, dict) else [(block, value)]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
