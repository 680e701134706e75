"""Small pipelines are read from their files once in a process; later loads of the same files are copies.

diffusers takes ten times as long to read a tiny pipeline as to copy it, and a third of the time of a tiny training goes
into that. Tests of loading itself, in tests/base, read the files each time.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bwlab.base.families.builtin import FAMILIES
from bwlab.base.families.family import ModelFamily

if TYPE_CHECKING:
    import torch

Load: TypeAlias = Callable[..., Any]
Files: TypeAlias = tuple[tuple[str, int, int], ...]

MOST_BYTES = 64_000_000
"""Size of the largest pipeline that is kept."""
MOST_KEPT = 8


class KeptPipeline:
    """A pipeline from which copies are made; what a copy does never reaches the others.

    Raises:
        pickle.PicklingError: a tensor is of a class of its own, such as that of a quantised weight.

    """

    def __init__(self, pipe: Any) -> None:
        self._shared: list[Any] = []
        file = io.BytesIO()
        _Pickler(file, self._shared).dump(pipe)
        self._pickled = file.getvalue()

    def copy(self) -> Any:
        """Return a new copy."""
        return _Unpickler(io.BytesIO(self._pickled), self._shared).load()


class _Pickler(pickle.Pickler):
    """Leaves tensors, tokenizers (whose pickles decode otherwise) and model families out of the bytes, for a list."""

    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        from torch import Tensor, nn
        from transformers import PreTrainedTokenizerBase

        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared, self._places = shared, dict[int, int]()
        self._tensor, self._plain = Tensor, (Tensor, nn.Parameter)
        self._left_out = Tensor, ModelFamily, PreTrainedTokenizerBase

    def persistent_id(self, value: Any) -> int | None:
        """Return the place in the list of what is left out."""
        if not isinstance(value, self._left_out):  # asked of every object, so that imports here would take longest
            return None
        if isinstance(value, self._tensor) and type(value) not in self._plain:
            raise pickle.PicklingError(f"a tensor of class {type(value).__name__}")
        if id(value) not in self._places:
            self._places[id(value)] = len(self._shared)
            self._shared.append(_copied(value))
        return self._places[id(value)]


class _Unpickler(pickle.Unpickler):
    """Puts a copy of each tensor and tokenizer, one however often it is used, and the families themselves back in."""

    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared, self._made = shared, dict[int, Any]()

    def persistent_load(self, place: int) -> Any:
        """Return what was left out."""
        if place not in self._made:
            self._made[place] = _copied(self._shared[place])
        return self._made[place]


def _copied(value: Any) -> Any:
    """Return a copy of a tensor; a tokenizer, read again from its files; or what else it is."""
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    if isinstance(value, PreTrainedTokenizerBase):
        read = type(value).from_pretrained(value.name_or_path, local_files_only=True)
        read.padding_side = value.padding_side  # which some pipelines set
        return read
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone()
    return nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy


class Loads:
    """`load_folder`, which returns copies of small pipelines whose files have not changed.

    Args:
        load: the true function.

    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self._kept: OrderedDict[tuple[object, ...], KeptPipeline | None] = OrderedDict()

    def __call__(
        self,
        folder: Path,
        asked: str,
        dtype: torch.dtype,
        families: Iterable[ModelFamily] = FAMILIES,
        file: object = None,
        quantise: str = "none",
    ) -> Any:
        """Return the pipeline in a folder; see `bwlab.base.load.load_folder`."""
        families = tuple(families)
        arguments = folder, asked, dtype, families, file, quantise
        files = files_of(folder)
        if file is not None or quantise != "none" or sum(size for _, size, _ in files) > MOST_BYTES:
            return self.load(*arguments)
        key = folder, files, dtype, families
        if key in self._kept:
            self._kept.move_to_end(key)
            kept = self._kept[key]
            return self.load(*arguments) if kept is None else kept.copy()
        pipe = self.load(*arguments)
        try:
            self._kept[key] = KeptPipeline(pipe)
        except pickle.PicklingError:
            self._kept[key] = None
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return pipe


def files_of(folder: Path) -> Files:
    """Return the name, size and time of change of every file in a folder and those in it."""
    stats = {str(path): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
