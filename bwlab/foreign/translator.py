"""What the translations from all trainers share: values of options, settings with their sources, and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bwlab.base.quantisation import Quantisation
from bwlab.config.foreign.rows import Place, Row, Takes
from bwlab.config.options import is_number
from bwlab.config.sources import Setting
from bwlab.errors import BwlabError, did_you_mean

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
Value = TypeVar("Value")

SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".gguf")
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Translation:
    """Settings of bwlab that mean what a command or a config of another trainer means.

    Attributes:
        program: the trainer.
        settings: the settings, each with its source there.
        warnings: one line for each option that has no counterpart and would change what is learned.
        notes: one line for each option that is not needed, and for each difference worth knowing.
        dataset: a dataset file as TOML, where the data are several folders or have several sizes; None otherwise.

    """

    program: str
    settings: Sequence[Setting]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    dataset: str | None = None


@dataclass
class Translator:
    """Collects what the options of another trainer mean.

    Attributes:
        program: the trainer, for messages.
        rows: its table.
        values: the options that are given, by the names of the table.
        shown: (name, value) -> the option as its user wrote it.

    """

    program: str
    rows: Mapping[str, Row]
    values: Mapping[str, object]
    shown: Callable[[str, object], str]
    settings: dict[str, Setting] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dataset: str | None = None

    def result(self) -> Translation:
        """Return all that was collected."""
        return Translation(
            self.program, tuple(self.settings.values()), tuple(self.warnings), tuple(self.notes), self.dataset
        )

    def has(self, name: str) -> bool:
        """Return whether an option is given and has a value."""
        return self.values.get(name) not in (None, "")

    def number(self, name: str, default: float | None = None) -> float | None:
        """Return the value of an option as a number; BwlabError if it is none."""
        return self._read(name, as_number, "a number") if self.has(name) else default

    def whole(self, name: str, default: int | None = None) -> int | None:
        """Return the value of an option as a whole number; BwlabError if it is none."""
        return self._read(name, as_whole, "a whole number") if self.has(name) else default

    def text(self, name: str, default: str = "") -> str:
        """Return the value of an option as a text."""
        return str(self.values[name]) if self.has(name) else default

    def texts(self, name: str) -> list[str]:
        """Return the value of an option as texts: those of a list, or one."""
        value = self.values.get(name)
        return [str(entry) for entry in value] if isinstance(value, list) else [str(value)] if self.has(name) else []

    def switch(self, name: str, default: bool = False) -> bool:
        """Return whether an option is switched on; BwlabError if its value is no truth value."""
        return self._read(name, as_switch, "true or false") if self.has(name) else default

    def _read(self, name: str, convert: Callable[[object], Value], wanted: str) -> Value:
        try:
            return convert(self.values[name])
        except ValueError:
            raise BwlabError(self.asked(name), f"not {wanted}", f"Give {wanted}") from None

    def put(self, key: str, value: object, *names: str) -> None:
        """Set one of bwlab's settings, because of these options; without any that is given it is their default."""
        given = [self.show(name) for name in names if self.has(name)]
        source = ", ".join(given) if given else f"default of {self.shown(names[0], True)}"
        self.settings[key] = Setting(key, value, f"{self.program}'s {source}")

    def put_quantisation(self, form: Quantisation, *names: str) -> None:
        """Quantise the base, because of these options; a single file cannot be, and a warning says so instead.

        The base has to be set before.
        """
        base = self.settings.get("base")
        if base is not None and str(base.value).endswith(SINGLE_FILES):
            self.warn(names[0], "a single file is not quantised", "Give the folder of a diffusers pipeline with --base")
        else:
            self.put("training.quantize", form, *names)

    def show(self, name: str) -> str:
        """Return an option as its user wrote it, cut if it is long; or as its default, if it is not given."""
        if name not in self.values:
            return f"default of {name}"
        text = " ".join(self.shown(name, self.values[name]).split())
        return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."

    def asked(self, name: str) -> str:
        """Return what an option asks for, for messages."""
        return f"{self.program}'s {self.show(name)}"

    def warn(self, name: str, why: str, fix: str) -> None:
        """Say that an option has no counterpart and that the training goes on without it."""
        self.warnings.append(f"{self.asked(name)} is not translated: {why}. {fix}")

    def note(self, name: str, says: str) -> None:
        """Say what an option means here."""
        self.notes.append(f"{self.asked(name)}: {says}")

    def general(self) -> None:
        """Translate all that depends on one option alone, and say what is not needed or not available."""
        unneeded: dict[str, list[str]] = {}
        for name, value in self.values.items():
            row = self.rows.get(name)
            if row is None or value in (None, "") or (row.takes is Takes.SWITCH and not self.switch(name)):
                self._switched_off(row, name)
            elif row.place is Place.HERE:
                if row.key:
                    self.put(row.key, self._as_taken(row), name)
            elif not same(value, row.default):
                if row.place is Place.LACKING:
                    self.warn(name, row.says, row.fix)
                else:
                    unneeded.setdefault(row.says, []).append(self.shown(name, True))
        for why, names in unneeded.items():
            self.notes.append(f"{self.program}'s {', '.join(names)}: not needed, {why}")

    def _switched_off(self, row: Row | None, name: str) -> None:
        """Say that a switch is off that is on by default and has no counterpart."""
        if row is not None and row.place is Place.LACKING and row.default is True and self.has(name):
            self.warn(name, row.says, row.fix)

    def _as_taken(self, row: Row) -> object:
        name = row.name
        if row.takes is Takes.SWITCH:
            return self.switch(name)
        if row.takes is Takes.WHOLE:
            return self.whole(name)
        return self.number(name) if row.takes is Takes.NUMBER else self.text(name)

    def unknown(self) -> list[str]:
        """Return the given options that the table lacks, each with the nearest one."""
        names = {name.rpartition(".")[2]: name for name in self.rows}
        near = {name: did_you_mean(name.rpartition(".")[2], names).strip() for name in self.values}
        return [
            f"{self.shown(name, True)} ({near[name].lower()})".replace(" ()", "")
            for name in self.values
            if name not in self.rows
        ]

    def unknown_notes(self, what: str = "a key that bwlab does not know") -> list[str]:
        """Return a note for each given option that the table lacks."""
        return [f"{self.program}'s {option} is {what}; it is left out" for option in self.unknown()]

    def choose(self, key: str, name: str, known: Mapping[str, str], default: str, fold: Callable[[str], str]) -> str:
        """Set a setting that is one of several words; a word without a counterpart is kept, for bwlab to refuse.

        So an option beside the translation may still give another one.

        Returns:
            The word of bwlab.

        """
        word = self.text(name, default)
        ours = known.get(fold(word), word)
        self.put(key, ours, name)
        return ours


def as_number(value: object) -> float:
    """Return a value as a finite number; ValueError if it is none."""
    number = float(value) if isinstance(value, str) else value
    if not is_number(number):
        raise ValueError
    return number  # type: ignore[return-value]


def as_whole(value: object) -> int:
    """Return a value as a whole number; ValueError if it is none."""
    number = as_number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def as_switch(value: object) -> bool:
    """Return a value as a truth value; ValueError if it is none.

    >>> as_switch("True"), as_switch(0)
    (True, False)
    """
    word = str(value).lower()
    if word not in TRUE + FALSE:
        raise ValueError
    return word in TRUE


def same(value: object, default: object) -> bool:
    """Return whether a value is the default, as a number if it is one.

    >>> same("1.0", 1), same("l1", "l2"), same(0.0, False)
    (True, False, True)
    """
    if default is None:
        return False
    try:
        return as_number(value) == as_number(int(default) if isinstance(default, bool) else default)
    except (ValueError, TypeError):
        return value == default


def rounded(number: float) -> float:
    """Return a product of two numbers that people wrote, without the last digits that binary numbers add.

    >>> rounded(1e-4 * 0.3)
    3e-05
    """
    return float(f"{number:.9g}")


def table_of(rows: Iterable[Row]) -> dict[str, Row]:
    """Return rows by name."""
    return {row.name: row for row in rows}


def flattened_dict(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested tables as one, with dotted keys; lists stay as they are.

    >>> flattened_dict({"network": {"linear": 16}, "name": "fox"})
    {'network.linear': 16, 'name': 'fox'}
    """
    flat: dict[str, object] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        flat |= flattened_dict(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return flat
