"""``bwlab convert``: one adapter file into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents, read_contents
from bwlab.formats.convert import Modules, Track, require_known, resized, scaled_blocks, weighed
from bwlab.formats.derived_metadata import derived_metadata
from bwlab.formats.fits import Fit
from bwlab.merging.model_weights import ModelWeights, open_model
from bwlab.merging.outcome import Outcome, counted
from bwlab.merging.target import Target, known_scheme, write_adapter, writer_for

if TYPE_CHECKING:
    from bwlab.plugins import PluginManager


@dataclass(frozen=True)
class Conversion:
    """What is asked of a conversion.

    Attributes:
        source: the file to read, of any dialect; `.pt` and `.bin` too.
        target: where and how to write.
        rank: highest rank of a module; None: as they are.
        blocks: a block spec of scales, those not named 1; None: all as they are.
        base: model that the adapter was made for; needed for few algorithms.
        drop_unknown: whether keys that nobody understands may be left out.
    """

    source: Path
    target: Target
    rank: int | None = None
    blocks: str | None = None
    base: str | None = None
    drop_unknown: bool = False


def convert(job: Conversion, manager: PluginManager, track: Track = iter) -> Outcome:
    """Converts a file.

    Raises:
        BwlabError: the file is broken or has unknown keys, an option is wrong, the form cannot hold the adapter,
            or the target is taken.
    """
    writer = writer_for(job.target, manager)
    dtype = job.target.file_dtype
    contents = read_contents(job.source, manager, pickles=True)
    if not job.drop_unknown:
        require_known(contents)
    base = None if job.base is None else open_model(job.base)
    scheme = known_scheme(contents.architecture, base.config if base else None, manager)
    modules, fits = _changed(job, contents, base, scheme, dtype, track)
    metadata = derived_metadata(contents.metadata, modules, scheme, _step(job, contents), same_type=not fits)
    files = write_adapter(contents, modules, metadata, job.target, writer)
    dropped = len(contents.modules) - len(modules) - sum(fit.after == 0 for fit in fits)
    return Outcome(files, len(modules), scheme, tuple(fits), tuple(_notes(contents, dropped)))


def _changed(
    job: Conversion,
    contents: AdapterContents,
    base: ModelWeights | None,
    scheme: BlockScheme,
    dtype: str | None,
    track: Track,
) -> tuple[Modules, list[Fit]]:
    modules: Modules = contents.modules
    spec = None if job.blocks is None else parse_spec(job.blocks, scheme, kind="scale", default=1.0)
    # What is dropped need not be approximated first; what can only be scaled as LoRA is scaled afterwards.
    fits: list[Fit] = []
    if spec is not None and job.rank is not None:
        modules = {path: module for path, module in modules.items() if spec.value_of(path) != 0}
    if job.rank is not None:
        require_rank(job.rank)
        if modules:
            modules, fits = resized(
                modules, job.rank, architecture=contents.architecture, base=base, dtype=dtype, track=track
            )
    return (modules if spec is None else scaled_blocks(modules, spec)), weighed(fits, spec)


def require_rank(rank: int) -> None:
    """Raises `BwlabError` unless a rank is 1 to 4096."""
    if not 1 <= rank <= 4096:
        raise BwlabError(f"--rank {rank}", "out of range", "Give 1 to 4096")


def _step(job: Conversion, contents: AdapterContents) -> dict[str, object]:
    asked = {"rank": job.rank, "blocks": job.blocks, "base": job.base, "dtype": job.target.dtype}
    given = {key: value for key, value in asked.items() if value is not None}
    told = {"command": "convert", "from": contents.path.name, "dialect": contents.dialect, "to": job.target.form}
    return {**told, **given}


def _notes(contents: AdapterContents, dropped: int) -> list[str]:
    notes = []
    if dropped:
        notes.append(f"left out: {counted(dropped, 'module')} of {len(contents.modules)} in blocks with the scale 0")
    if contents.unknown:
        unknown = counted(len(contents.unknown), "key")
        notes.append(f"left out: {unknown} that nobody understands, first {contents.unknown[0]}")
    return notes
