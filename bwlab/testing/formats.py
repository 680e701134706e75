"""The contract of file formats, clause by clause: a reader, a writer, or both of one name, on a small adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from bwlab.errors import BwlabError
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects import READERS, WRITERS
from bwlab.formats.modules import ModuleWeights
from bwlab.formats.read import contents_of, read_keys
from bwlab.formats.safetensors import AdapterFile, open_adapter_file
from bwlab.formats.tensors import LazyTensor, is_float
from bwlab.formats.types import FormatReader, FormatWriter
from bwlab.linalg.factored import FactoredMatrix
from bwlab.testing.bench import ContractBroken, require

NEAR = 1e-5
STRANGE_KEY = "a_key.of_no_tool.at_all"
OLD = b"what was there before"
METADATA = {"ss_output_name": "caf\u00e9", "note": "two\nlines"}
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"


class DiskError(RuntimeError):
    """Stands for a disk that fails while a file is written."""


@dataclass(frozen=True)
class FormatBench:
    """The material of a clause: a reader and a writer of one name, either of which may be missing.

    Attributes:
        reader, writer: what is checked.
        example: a file in the format, for a reader without a writer.

    """

    reader: FormatReader | None
    writer: FormatWriter | None
    example: Path | None = None

    @property
    def contents(self) -> AdapterContents:
        """A small adapter with the modules that the writer can express: of SD 1.x, or of FLUX.1 if it refuses that."""
        for whole in (small_adapter(), small_transformer_adapter()):
            expressed = {
                path: module
                for path, module in whole.modules.items()
                if self.writer is None or self.writer.expresses(module)
            }
            contents = replace(whole, modules=expressed)
            if self.writer is None or _takes(self.writer, contents):
                return contents
        raise ContractBroken("write() refuses an adapter of Stable Diffusion 1.x and one of FLUX.1")

    @property
    def readers(self) -> tuple[FormatReader, ...]:
        """The reader that is checked, and the built-in ones of other names."""
        own = () if self.reader is None else (self.reader,)
        return (*own, *(reader for reader in READERS if reader.name not in {one.name for one in own}))

    @contextmanager
    def file(self) -> Iterator[AdapterFile | None]:
        """Yield a file in the format: one that the writer has written, or the example; None if there is neither."""
        with TemporaryDirectory() as folder:
            if self.writer is None:
                yield None if self.example is None else open_adapter_file(self.example)
            else:
                yield open_adapter_file(self.written(Path(folder))[0])

    def written(self, folder: Path, dtype: str | None = None, name: str = "adapter") -> list[Path]:
        """Write the adapter and return its file; in a format of folders, those in the folder, the largest first."""
        assert self.writer is not None
        path = folder / (name if self.writer.folder else f"{name}.safetensors")
        self.writer.write(self.contents, path, dtype)
        files = path.rglob("*.safetensors") if self.writer.folder else [path]
        return sorted(files, key=lambda file: (-file.stat().st_size, file))

    def read(self, file: AdapterFile) -> AdapterContents:
        """Return what the reader says of a file."""
        assert self.reader is not None
        return read_keys(file, [self.reader]) if self.reader.read is None else self.reader.read(file)

    def recognises(self, file: AdapterFile) -> bool:
        """Return whether the reader claims a file."""
        assert self.reader is not None
        return bool(self.reader.recognises(file.entries.keys(), file.metadata))


FormatClause: TypeAlias = Callable[[FormatBench], None]


def names_can_be_typed(bench: FormatBench) -> None:
    """The name is one word of lower-case letters, digits, `-` and `_`, and the summary one line."""
    for given in (bench.reader, bench.writer):
        if given is not None:
            require(NAME.fullmatch(given.name) is not None, f"the name {given.name!r} is no such word")
            require(given.summary.strip() != "" and "\n" not in given.summary, "the summary is not one line")


def what_is_written_is_read_back(bench: FormatBench) -> None:
    """Writing an adapter and reading the file gives the same modules, the same deltas and the same metadata."""
    if bench.writer is None:
        return
    contents = bench.contents
    require(len(contents.modules) > 0, "expresses() is false for every module of LoRA, LoHa and whole deltas")
    with TemporaryDirectory() as folder:
        read = [contents_of(open_adapter_file(file), bench.readers) for file in bench.written(Path(folder))]
        _require_same_modules({path: one for part in read for path, one in part.modules.items()}, contents.modules)
        for part in read:
            lost = next((key for key, text in METADATA.items() if part.metadata.get(key) != text), None)
            require(lost is None, f"the metadata {lost} is lost or another one")


def own_files_are_recognised(bench: FormatBench) -> None:
    """The reader claims a file of its format, whatever the order of the keys."""
    with bench.file() as file:
        if bench.reader is not None and file is not None:
            require(bench.recognises(file), "recognises() is false for a file of the format")
            require(bench.recognises(_backwards(file)), "recognises() is false with the keys in reverse order")


def files_of_others_are_not_claimed(bench: FormatBench) -> None:
    """The reader claims no file that bwlab writes in another format, and no file of a whole model.

    A fallback that reads key by key may, since it takes turns with the others.
    """
    if bench.reader is None or (bench.reader.fallback and bench.reader.keys is not None):
        return
    whole = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight")
    require(not bench.reader.recognises(whole, {}), "recognises() is true for the keys of a whole model")
    with TemporaryDirectory() as folder:
        for name, path in _files_of_others(Path(folder), bench.reader.name):
            claimed = bench.recognises(open_adapter_file(path))
            require(not claimed, f"recognises() is true for a file of the format {name}")


def the_order_of_keys_does_not_matter(bench: FormatBench) -> None:
    """A file whose tensors come in another order means the same."""
    with bench.file() as file:
        if bench.reader is not None and file is not None:
            _require_same_modules(bench.read(_backwards(file)).modules, bench.read(file).modules)


def keys_that_are_not_understood_are_listed(bench: FormatBench) -> None:
    """A key that the reader does not understand is in `unknown`, unless it refuses the file."""
    with bench.file() as file:
        if bench.reader is None or file is None:
            return
        entries = {**file.entries, STRANGE_KEY: next(iter(file.entries.values()))}
        with_strange = replace(file, entries=entries)
        if bench.recognises(with_strange):
            unknown = bench.read(with_strange).unknown
            require(STRANGE_KEY in unknown, f"the key {STRANGE_KEY} is lost without a word")


def reading_leaves_the_file(bench: FormatBench) -> None:
    """Not a byte of a file changes when it is read."""
    with bench.file() as file:
        if bench.reader is not None and file is not None:
            before = file.path.read_bytes()
            for module in bench.read(file).modules.values():
                for leaf in module.leaves.values():
                    leaf.read()
            require(file.path.read_bytes() == before, "the file has other bytes afterwards")


def the_dtype_is_that_asked_for(bench: FormatBench) -> None:
    """With a dtype, all floats but single numbers such as alpha are written in it."""
    if bench.writer is None:
        return
    for dtype in ("F32", "F16", "BF16"):
        with TemporaryDirectory() as folder:
            entries = open_adapter_file(bench.written(Path(folder), dtype)[0]).entries
            wrong = [key for key, own in entries.items() if own.shape and is_float(own.dtype) and own.dtype != dtype]
            require(wrong == [], f"{len(wrong)} tensors are not in the dtype {dtype} that was asked for")


def writing_twice_gives_the_same_bytes(bench: FormatBench) -> None:
    """The same adapter gives the same file."""
    if bench.writer is None:
        return
    with TemporaryDirectory() as folder:
        files = [bench.written(Path(folder), name=name)[0].read_bytes() for name in ("one", "two")]
        require(files[0] == files[1], "the bytes differ")


def a_failed_write_leaves_what_was_there(bench: FormatBench) -> None:
    """If a tensor cannot be read while the file is written, the old file stays, and nothing else is left."""
    if bench.writer is None or bench.writer.folder:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        path.write_bytes(OLD)
        try:
            bench.writer.write(_failing(bench.contents), path, None)
        except DiskError:
            pass
        else:
            require(False, "a tensor that cannot be read is left out without a word")
        require(path.is_file() and path.read_bytes() == OLD, "the old file is damaged")
        left = sorted(other.name for other in Path(folder).iterdir() if other != path)
        require(left == [], f"files are left over: {', '.join(left)}")


FORMAT_CLAUSES: tuple[FormatClause, ...] = (
    names_can_be_typed,
    what_is_written_is_read_back,
    own_files_are_recognised,
    files_of_others_are_not_claimed,
    the_order_of_keys_does_not_matter,
    keys_that_are_not_understood_are_listed,
    reading_leaves_the_file,
    the_dtype_is_that_asked_for,
    writing_twice_gives_the_same_bytes,
    a_failed_write_leaves_what_was_there,
)
OF_A_READER = (files_of_others_are_not_claimed,)
OF_A_WRITER = (
    what_is_written_is_read_back,
    the_dtype_is_that_asked_for,
    writing_twice_gives_the_same_bytes,
    a_failed_write_leaves_what_was_there,
)
OF_A_FILE = (
    own_files_are_recognised,
    the_order_of_keys_does_not_matter,
    keys_that_are_not_understood_are_listed,
    reading_leaves_the_file,
)


def left_out(clause: FormatClause, bench: FormatBench) -> str:
    """Return why a clause says nothing about a format; empty if it does."""
    if clause in OF_A_WRITER and bench.writer is None:
        return "no writer has this name"
    if clause in (*OF_A_READER, *OF_A_FILE) and bench.reader is None:
        return "no reader has this name"
    if clause in OF_A_READER and bench.reader is not None and bench.reader.fallback and bench.reader.keys is not None:
        return "it is a fallback that reads key by key"
    if clause in OF_A_FILE and bench.writer is None and bench.example is None:
        return "no writer has this name, and no example file is given"
    if clause is a_failed_write_leaves_what_was_there and bench.writer is not None and bench.writer.folder:
        return "it writes a folder"
    return ""


def small_adapter() -> AdapterContents:
    """Return an adapter of Stable Diffusion 1.x: LoRA of three kinds of layers, a LoHa and a whole delta."""
    hada = {"hada_w1_a": (7, 2), "hada_w1_b": (2, 5), "hada_w2_a": (7, 2), "hada_w2_b": (2, 5)}
    return _adapter(
        "sd1",
        _lora(f"{ATTENTION}.attn2.to_k", 3, 2.0, 320, 768),
        _lora(f"{ATTENTION}.attn1.to_q", 5, 5.0, 320, 320),
        _lora("down_blocks.0.resnets.0.conv1", 2, 1.0, 320, 320, 3, 3),
        _lora("te.encoder.layers.0.self_attn.q_proj", 4, 3.0, 768, 768),
        _module("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "loha", 1.0, hada),
        _module("down_blocks.1.resnets.0.time_emb_proj", "full", None, {"diff": (7, 11)}),
    )


def small_transformer_adapter() -> AdapterContents:
    """Return an adapter of FLUX.1: LoRA of two layers of its blocks."""
    return _adapter(
        "flux",
        _lora("transformer_blocks.0.attn.to_q", 3, 2.0, 3072, 3072),
        _lora("single_transformer_blocks.1.proj_out", 2, 2.0, 3072, 15360),
    )


def _adapter(architecture: str, *modules: ModuleWeights) -> AdapterContents:
    by_path = {module.path: module for module in modules}
    return AdapterContents(Path("small.safetensors"), "kohya", architecture, by_path, {}, METADATA, ())


def _module(path: str, algorithm: str, alpha: float | None, shapes: Mapping[str, tuple[int, ...]]) -> ModuleWeights:
    generator = np.random.default_rng(len(path))
    leaves = {
        leaf: LazyTensor.of(generator.standard_normal(shape).astype(np.float32), leaf) for leaf, shape in shapes.items()
    }
    return ModuleWeights(path, algorithm, leaves, alpha)


def _lora(path: str, rank: int, alpha: float, out: int, *inner: int) -> ModuleWeights:
    ones = tuple(1 for _ in inner[1:])
    shapes = {"lora_down.weight": (rank, *inner), "lora_up.weight": (out, rank, *ones)}
    return _module(path, "lora", alpha, shapes)


def _takes(writer: FormatWriter, contents: AdapterContents) -> bool:
    """Return whether a writer writes an adapter rather than refusing it."""
    with TemporaryDirectory() as folder:
        try:
            writer.write(contents, Path(folder) / ("adapter" if writer.folder else "adapter.safetensors"), None)
        except BwlabError:
            return False
    return True


def _files_of_others(folder: Path, own: str) -> Iterator[tuple[str, Path]]:
    """Write the LoRA modules of the small adapters in every built-in format of files but `own`, where it takes them."""
    for writer in (writer for writer in WRITERS if writer.name != own and not writer.folder):
        for whole in (small_adapter(), small_transformer_adapter()):
            modules = {path: module for path, module in whole.modules.items() if module.is_lora}
            path = folder / f"{writer.name}-{whole.architecture}.safetensors"
            if _takes(writer, replace(whole, modules=modules)):
                writer.write(replace(whole, modules=modules), path, None)
                yield writer.name, path


def _backwards(file: AdapterFile) -> AdapterFile:
    return replace(file, entries=dict(reversed(list(file.entries.items()))))


def _failing(contents: AdapterContents) -> AdapterContents:
    """Return an adapter the last tensor of which cannot be read."""
    modules = dict(contents.modules)
    path, module = list(modules.items())[-1]
    leaf, tensor = list(module.leaves.items())[-1]

    def fetch() -> np.ndarray:
        raise DiskError("the disk fails")

    modules[path] = replace(module, leaves={**module.leaves, leaf: replace(tensor, fetch=fetch)})
    return replace(contents, modules=modules)


def _require_same_modules(got: Mapping[str, ModuleWeights], expected: Mapping[str, ModuleWeights]) -> None:
    lost = sorted(expected.keys() - got.keys())
    require(lost == [], f"{len(lost)} modules are lost, first {lost[0] if lost else ''}")
    # Tools that join layers write zeros for those that an adapter leaves alone.
    new = [path for path in sorted(got.keys() - expected.keys()) if not _is_zero(got[path])]
    require(new == [], f"there are modules that were not in it, first {new[0] if new else ''}")
    for path, module in expected.items():
        error = _relative_error(got[path], module)
        require(error is not None, f"the delta of {path} has another shape")
        require((error or 0.0) <= NEAR, f"the delta of {path} is off by {error:.2g} of its norm (allowed {NEAR:g})")


def _is_zero(module: ModuleWeights) -> bool:
    factors = module.factors()
    return factors.norm() == 0.0 if factors is not None else not np.asarray(module.delta()).any()


def _relative_error(got: ModuleWeights, expected: ModuleWeights) -> float | None:
    """Return the norm of the difference of two deltas by that of the expected one; None if the shapes do not fit."""
    one, other = got.factors(), expected.factors()
    if one is not None and other is not None:
        if one.shape != other.shape:
            return None
        up, down = np.concatenate([one.up, -other.up], axis=1), np.concatenate([one.down, other.down])
        return FactoredMatrix(up, down).norm() / other.norm()
    found, wanted = np.asarray(got.delta()), np.asarray(expected.delta())
    if found.size != wanted.size:
        return None
    return float(np.linalg.norm((found.reshape(wanted.shape) - wanted).ravel()) / np.linalg.norm(wanted.ravel()))
