"""Read pickles as data: texts, numbers, containers, and where tensors are. Nothing in them is imported or called.

A pickle is a program for a small stack machine. This machine knows the operations that build containers. Of the
functions that a pickle may name, it knows what those that torch writes would return, and refuses all others.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bwlab.formats.tensors import MOST_DIMENSIONS

MOST_STEPS = 250_000
"""The operations of a pickle that are followed; 10,000 tensors need about as many."""
KEPT = re.compile(r"(SHORT_)?(BIN)?(INT|LONG|FLOAT|UNICODE|STRING|BYTES)\d?|BYTEARRAY8")
"""Operations that put their argument on the stack."""
LONGEST_NAME = 200
MOST_ARGUMENTS = 8
LARGEST_SIZE = 2**63
DICT = "collections.OrderedDict"
TENSOR, TYPED_TENSOR = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
FIRST = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.Size")
"""Functions that return their first argument here."""
UNUSED = (
    *("collections.Counter", "torch.device", "_codecs.encode"),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "set", "complex")),
)
"""Functions of values that no reader uses."""
KNOWN = frozenset((DICT, TENSOR, TYPED_TENSOR, SUBCLASS, *FIRST, *UNUSED))
NAMED = re.compile(
    r"torch\.((storage\.)?\w*Storage|(b?float|u?int|complex|bool)\w*|nn\.parameter\.Parameter|Tensor)", re.ASCII
)
"""Classes and dtypes that may be named, but not called."""


class NeedsCodeError(ValueError):
    """A pickle needs a class or a function that is no part of tensors."""


@dataclass(frozen=True)
class Named:
    """A class, function or dtype that a pickle names, such as `torch.FloatStorage`."""

    path: str


@dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors, which are stored beside the pickle.

    Attributes:
        key: the name under which they are stored.
        dtype: torch's class of the numbers, such as `torch.FloatStorage`.
        size: the number of numbers.

    """

    key: str
    dtype: str
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor: `storage[offset + i * strides[0] + j * strides[1] ...]`.

    Attributes:
        storage: its numbers.
        offset: the place of the first number.
        shape: the shape.
        strides: the number of places from an index of each dimension to the next one.
        dtype: the dtype if it is not that of the storage, such as `torch.float8_e5m2`.

    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None


class Unpickler:
    """A reader of one pickle.

    Attributes:
        storages: the storages that the pickle names, by key.

    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self, file: BytesIO) -> object:
        """Return what the next pickle in a file holds, and leave the file after its end.

        Raises:
            NeedsCodeError: it names something that is no part of tensors.
            ValueError: it is broken, or has more than `MOST_STEPS` operations.
            IndexError, KeyError, TypeError, AttributeError: it is broken.

        """
        for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if step > MOST_STEPS:
                raise ValueError(f"more than {MOST_STEPS:,} operations")
            OPERATIONS[operation.name](self, argument)
        return self._stack.pop()

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def last(self, count: int) -> tuple[Any, ...]:
        """Return the last values, and take them from the stack."""
        if len(self._stack) < count:
            raise IndexError("the stack is empty")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        return items

    def mark(self) -> None:
        """Begin a new stack, whose values `since_mark` returns."""
        self._marked.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """Return all values since the last mark, and take them from the stack."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def remember(self, place: int | None) -> None:
        """Keep the last value at a place, or at the next one."""
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        """Put a value that was kept on the stack."""
        self._stack.append(self._memo[place])

    def duplicate(self) -> None:
        """Put the last value on the stack once more."""
        self._stack.append(self._stack[-1])

    def append(self, items: Sequence[Any]) -> None:
        """Append values to the list on the stack."""
        if not isinstance(self._stack[-1], list):
            raise TypeError("items of something else than a list")
        self._stack[-1].extend(items)

    def update(self, items: Sequence[Any]) -> None:
        """Put keys and values in turn into the dict on the stack."""
        if not isinstance(self._stack[-1], dict):
            raise TypeError("entries of something else than a dict")
        self._stack[-1].update(_dict(items))

    def name(self, *parts: str) -> None:
        """Put the name of a class, function or dtype on the stack."""
        path = ".".join(parts) if sum(map(len, parts)) <= LONGEST_NAME else "a name of many letters"
        if path not in KNOWN and not NAMED.fullmatch(path):
            raise NeedsCodeError(path)
        self._stack.append(Named(path))

    def call(self) -> None:
        """Put the result of a function on the stack."""
        function, arguments = self.last(2)
        self._stack.append(_result(function.path, arguments))

    def storage(self) -> None:
        """Put a storage in place of its description."""
        match self._stack.pop():
            case ("storage", Named(dtype), str(key), _, int(size), *view) if not any(view):
                storage = Storage(key, dtype, size)
            case _:
                raise ValueError("a storage of another form")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one name")
        self._stack.append(storage)


def _dict(items: Sequence[Any]) -> dict[str | int, Any]:
    """Return the dict of keys and values in turn."""
    keys = items[::2]
    if not all(isinstance(key, str) or _is_size(key) for key in keys):
        raise TypeError("a key that is neither a text nor a whole number")
    return dict(zip(keys, items[1::2], strict=True))


def _is_size(value: object) -> bool:
    """Return whether a value is a whole number of at most 63 bits; larger ones take long to hash and to multiply."""
    return type(value) is int and 0 <= value < LARGEST_SIZE


def _result(function: str, arguments: Sequence[Any]) -> object:
    """Return what a function would return, in a time that does not depend on the arguments.

    Raises:
        NeedsCodeError: it is not known.
        ValueError, TypeError, IndexError, AttributeError: the arguments are not as torch writes them.

    """
    if function == SUBCLASS:
        function, arguments = arguments[0].path, arguments[2]
    if function in (TENSOR, TYPED_TENSOR):
        return _tensor(arguments, typed=function == TYPED_TENSOR)
    if function == DICT and not arguments:
        return {}
    if function in FIRST:
        return arguments[0]
    if function in UNUSED:
        return None
    raise NeedsCodeError(function)


def _tensor(arguments: Sequence[Any], *, typed: bool) -> StoredTensor:
    if len(arguments) > MOST_ARGUMENTS:
        raise ValueError("too many arguments")
    storage, offset, shape, strides, _, _, *more = arguments
    dtype = more.pop(0).path if typed else None
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise TypeError("a tensor of another form")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor of more than {MOST_DIMENSIONS} dimensions")
    if not all(map(_is_size, (storage.size, offset, *shape, *strides))):
        raise ValueError("sizes that are no whole numbers")
    if any(more):
        raise ValueError("a tensor whose numbers have another sign than those stored")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides), dtype)


Operation = Callable[[Unpickler, Any], None]


def _ignored(_machine: Unpickler, _argument: object) -> None:
    """Do nothing."""


OPERATIONS: Mapping[str, Operation] = {
    **{each.name: Unpickler.push for each in pickletools.opcodes if KEPT.fullmatch(each.name)},
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignored),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: _ignored(machine, machine.last(1)),
    "POP_MARK": lambda machine, _: _ignored(machine, machine.since_mark()),
    "DUP": lambda machine, _: machine.duplicate(),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "FROZENSET": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push(_dict(machine.since_mark())),
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Unpickler.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Unpickler.recall),
    "GLOBAL": lambda machine, path: machine.name(*path.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.last(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: _ignored(machine, machine.last(1)),
    "BINPERSID": lambda machine, _: machine.storage(),
}
"""What each operation does; a pickle with another one is refused."""
