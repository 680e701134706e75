"""Merge several adapters into one adapter file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.base.weights import ModelWeights, open_model
from bwlab.blocks.scheme import EVERYTHING, BlockScheme
from bwlab.blocks.spec import BlockSpec, parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.metadata import derived_metadata, merged_metadata
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import read_contents
from bwlab.formats.tensors import DTYPE_OPTIONS, LazyTensor
from bwlab.formats.types import FormatWriter
from bwlab.merging.convert import commonest_dtype, require_known, require_readable
from bwlab.merging.methods import BLOCKS, SUM, Method, ScaledModule, combined
from bwlab.merging.output import Fit, Outcome, Target, known_scheme, require_rank, write_adapter, writer_for
from bwlab.terminal import capital_letters, counted

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager


TrackParts = Callable[[Sequence[list[ScaledModule]]], Iterable[list[ScaledModule]]]

VALUE = re.compile(r"[A-Z](?:\+[A-Z])*|none")
CHOICE_FORM = 'Write block=letters, separated by commas, such as "upper=B, mid=A+B, *=A"; none leaves a block out'


@dataclass(frozen=True)
class MergeRecipe:
    """The adapters and the method of a merge.

    Attributes:
        adapters: adapter files.
        scales: a number or block spec for each adapter, in order; missing scales are 1.
        method: the merge method.
        choose: the adapters that make up each block, for the method `blocks`.
        drop_unknown: whether to leave out keys that no reader understands.

    """

    adapters: tuple[Path, ...]
    scales: tuple[str, ...] = ()
    method: Method = field(default_factory=Method)
    choose: str | None = None
    drop_unknown: bool = False

    def check(self) -> None:
        """Raise `BwlabError` for options that contradict each other."""
        self.method.check()
        if self.choose is not None and not self.method.linear:
            found = f"--method {self.method.name} needs every block"
            raise BwlabError("--choose", found, "Leave out one of the two")
        if self.method.name == BLOCKS and self.choose is None:
            raise BwlabError("--method blocks", "no choice of blocks", 'Give --choose, such as "upper=B, *=A"')

    def as_metadata(self) -> dict[str, object]:
        """Return the recipe for the metadata of the merged file."""
        options: dict[str, object] = {"scales": list(self.scales), "choose": self.choose}
        used = {key: value for key, value in options.items() if value} | self.method.options()
        return {"adapters": [path.name for path in self.adapters], "method": self.method.name, **used}


def merge(
    recipe: MergeRecipe,
    target: Target,
    manager: PluginManager,
    *,
    rank: int | None = None,
    base: str | None = None,
    track: TrackParts = iter,
) -> Outcome:
    """Merge adapters into one adapter file.

    Args:
        recipe: the adapters and the merge method.
        target: target of the result; without a dtype it has the adapters' own, see `MergeInputs.dtype`.
        manager: the plugins.
        rank: highest rank of a merged module; None: exact, or an error if that is impossible.
        base: the base model, whose weights some algorithms need.
        track: function that shows the progress.

    Raises:
        BwlabError: the adapters do not fit together, an option is wrong, no rank is given for a dense result, or the
            target exists.

    """
    recipe.check()
    if rank is not None:
        require_rank(rank)
    writer = writer_for(target, manager)
    model = None if base is None else open_model(base)
    inputs, scheme = read_inputs(recipe, manager, model)
    step = {"command": "merge", **recipe.as_metadata(), **({} if rank is None else {"rank": rank})}
    return write_merged(inputs, recipe.method, step, scheme, target, writer, rank=rank, model=model, track=track)


def write_merged(
    inputs: MergeInputs,
    method: Method,
    step: Mapping[str, object],
    scheme: BlockScheme,
    target: Target,
    writer: FormatWriter,
    *,
    rank: int | None = None,
    model: ModelWeights | None = None,
    track: TrackParts = iter,
) -> Outcome:
    """Merge the modules of adapters and write the result.

    Args:
        inputs: the adapters.
        method: the merge method.
        step: the record of the merge for the metadata.
        scheme: the scheme that names the blocks.
        target: target of the result.
        writer: the writer of the target's form.
        rank: highest rank of a merged module; None: exact, or an error if that is impossible.
        model: weights of the base, which some algorithms need.
        track: function that shows the progress.

    Raises:
        BwlabError: as for `merge`.

    """
    modules, fits = _merged(inputs, method, rank, model, track)
    target = target if target.dtype is not None else dataclasses.replace(target, dtype=inputs.dtype)
    metadata = derived_metadata(inputs.metadata(), modules, scheme, step, same_type=False)
    first = dataclasses.replace(inputs.adapters[0], architecture=inputs.architecture, embeddings=inputs.embeddings())
    files = write_adapter(first, modules, metadata, target, writer)
    return Outcome(files, len(modules), scheme, tuple(fits), tuple(notes(inputs)))


def read_inputs(
    recipe: MergeRecipe, manager: PluginManager, model: ModelWeights | None
) -> tuple[MergeInputs, BlockScheme]:
    """Return the inputs of a merge, and the scheme that names their blocks.

    Raises:
        BwlabError: as for `merge`.

    """
    adapters = read_adapters(recipe.adapters, manager, recipe.drop_unknown)
    architecture = common_architecture(adapters)
    modules = {path: module for adapter in adapters for path, module in adapter.modules.items()}
    config = model.config if model else None
    scheme = known_scheme(architecture, modules, config, manager, adapters[0].metadata if adapters else {})
    inputs = merge_inputs(adapters, recipe.scales, recipe.choose, scheme)
    if not recipe.method.linear and not inputs.shared():
        found = "the adapters share no module, so there is no conflict to resolve"
        raise BwlabError(f"--method {recipe.method.name}", found, f"Use --method {SUM}, which is exact")
    return inputs, scheme


def notes(inputs: MergeInputs) -> list[str]:
    """Return a line for each result that a user may not expect."""
    lines = []
    if len(inputs.adapters) > 1 and not inputs.makers and not inputs.shared():
        lines.append("the adapters share no module, so the modules of each are unchanged")
    unknown = sum(len(adapter.unknown) for adapter in inputs.adapters)
    if unknown:
        lines.append(f"left out: {counted(unknown, 'key')} that no reader understands")
    return lines


def _merged(
    inputs: MergeInputs, method: Method, rank: int | None, model: ModelWeights | None, track: TrackParts
) -> tuple[dict[str, ModuleWeights], list[Fit]]:
    modules: dict[str, ModuleWeights] = {}
    fits: list[Fit] = []
    for parts in track(list(every_part(inputs))):
        module, fit = combined(parts, method, rank, inputs.architecture, model)
        if module is not None:
            modules[module.path] = module
        if fit is not None:
            fits.append(fit)
    if not modules:
        found = "every delta of the result is zero"
        raise BwlabError("merging adapters", found, "Give scales or a choice of blocks that leave a delta")
    return modules, fits


@dataclass(frozen=True, eq=False)
class MergeInputs:
    """The adapters of a merge.

    Attributes:
        adapters: the adapters in the given order.
        scales: the scale of each adapter.
        makers: module of the scheme -> letters of the adapters that make it up; empty: all adapters everywhere.

    """

    adapters: tuple[AdapterContents, ...]
    scales: tuple[BlockSpec, ...]
    makers: Mapping[str, frozenset[str]]

    @property
    def architecture(self) -> str:
        """The architecture of the adapters, if an adapter determines it."""
        return common_architecture(self.adapters)

    def paths(self) -> list[str]:
        """Return the paths of the modules of all adapters, in the order of their first occurrence."""
        return list(dict.fromkeys(path for adapter in self.adapters for path in adapter.modules))

    def parts(self, path: str) -> list[ScaledModule]:
        """Return the chosen adapters' modules at a path with their scales, without those of scale 0."""
        parts = []
        for index, (adapter, spec) in enumerate(zip(self.adapters, self.scales, strict=True)):
            module = adapter.modules.get(path)
            scale = spec.value_of(path) if module is not None else 0.0
            if module is not None and scale != 0 and self._is_chosen(path, index, spec.scheme):
                require_readable(module)
                parts.append(ScaledModule(index, module, scale))
        return parts

    def shared(self) -> int:
        """Return the number of paths that more than one adapter changes."""
        return sum(len(self.parts(path)) > 1 for path in self.paths())

    def embeddings(self) -> dict[str, LazyTensor]:
        """Return the token embeddings of all adapters; `BwlabError` if two adapters have the same token."""
        embeddings: dict[str, LazyTensor] = {}
        for adapter in self.adapters:
            twice = sorted(set(embeddings) & set(adapter.embeddings))
            if twice:
                what = f"two of them have an embedding of {twice[0]}"
                raise BwlabError("merging adapters", what, "Rename the token in one of the files")
            embeddings |= adapter.embeddings
        return embeddings

    @property
    def dtype(self) -> str:
        """The dtype of the adapters, `"fp16"`, if all have the same; else `"fp32"`."""
        dtypes = {commonest_dtype(adapter.modules.values()) for adapter in self.adapters}
        names = {name: option for option, name in DTYPE_OPTIONS.items()}
        return names.get(dtypes.pop(), "fp32") if len(dtypes) == 1 else "fp32"

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the files together: equal entries, and what tags and trigger phrases they know."""
        return merged_metadata([(adapter.path.name, adapter.metadata) for adapter in self.adapters])

    def _is_chosen(self, path: str, index: int, scheme: BlockScheme) -> bool:
        module = scheme.module_of(path)
        return not self.makers or module is None or capital_letters(index + 1)[-1] in self.makers[module.path]


def read_adapters(paths: Sequence[Path], manager: PluginManager, drop_unknown: bool) -> tuple[AdapterContents, ...]:
    """Return the contents of adapter files.

    Raises:
        BwlabError: a file is broken or has unknown keys, or they were made for different architectures.

    """
    adapters = tuple(read_contents(path, manager) for path in paths)
    for adapter in adapters:
        if not drop_unknown:
            require_known(adapter)
        if not adapter.modules:
            found = "it contains only embeddings of tokens"
            raise BwlabError(f"merging {adapter.path}", found, "Give adapters that change layers")
    common_architecture(adapters)
    return adapters


def common_architecture(adapters: Sequence[AdapterContents]) -> str:
    """Return the architecture of the adapters whose architecture is known; `BwlabError` if two differ."""
    known = [adapter for adapter in adapters if adapter.architecture != "unknown"]
    for other in known[1:]:
        if other.architecture != known[0].architecture:
            raise BwlabError(
                "merging adapters",
                f"{known[0].path.name} is for {known[0].architecture}, {other.path.name} for {other.architecture}",
                "Merge adapters that were made for the same architecture",
            )
    return known[0].architecture if known else "unknown"


def merge_inputs(
    adapters: tuple[AdapterContents, ...], scales: Sequence[str], choose: str | None, scheme: BlockScheme
) -> MergeInputs:
    """Return the adapters with their scales, paired in order; missing scales are 1.

    Raises:
        BwlabError: there are more scales than adapters, or a spec or choice is wrong.

    """
    if len(scales) > len(adapters):
        found = f"{counted(len(scales), 'scale')} for {counted(len(adapters), 'adapter')}"
        raise BwlabError("--scale", found, "Give one scale for each adapter, in their order")
    texts = [*scales, *["1"] * (len(adapters) - len(scales))]
    specs = tuple(parse_spec(text, scheme, kind="scale", default=1.0) for text in texts)
    makers = parse_choice(choose, scheme, len(adapters)) if choose is not None else {}
    return MergeInputs(adapters, specs, makers)


def every_part(inputs: MergeInputs) -> Iterator[list[ScaledModule]]:
    """Return the scaled modules by path, without paths that have none."""
    return (parts for path in inputs.paths() if (parts := inputs.parts(path)))


def parse_choice(text: str, scheme: BlockScheme, count: int) -> Mapping[str, frozenset[str]]:
    """Return the letters of the adapters that make up each module of the scheme, by path.

    As in block specs, the later of two entries for one module wins, and `*` means everything that no other entry names.
    Modules that are never named are made up of all adapters.

    Args:
        text: the choice as text.
        scheme: the scheme that names the blocks.
        count: number of adapters, called A, B, ... in their order.

    Raises:
        BwlabError: an unknown block or letter, or another mistake in the text.

    """
    known = capital_letters(count)
    everything = scheme.modules_of(EVERYTHING)
    makers = dict.fromkeys(everything, frozenset(known))
    entries = [_entry(entry.strip(), text, known) for entry in text.split(",")]
    # The sort is stable: it moves "*" to the front and keeps the order of the names.
    for name, made_by in sorted(entries, key=lambda entry: entry[0] != EVERYTHING):
        makers |= dict.fromkeys(scheme.modules_of(name), made_by)
    return makers


def _entry(entry: str, text: str, known: str) -> tuple[str, frozenset[str]]:
    name, _, value = (piece.strip() for piece in entry.partition("="))
    if not name or not VALUE.fullmatch(value):
        found = f"{entry!r} does not name adapters" if entry else "an entry is empty"
        raise BwlabError(f"--choose {text!r}", found, CHOICE_FORM)
    made_by = frozenset() if value == "none" else frozenset(value.split("+"))
    strange = sorted(made_by - set(known))
    if strange:
        raise BwlabError(f"--choose {text!r}", f"there is no adapter {strange[0]}", f"There are {', '.join(known)}")
    return name, made_by
