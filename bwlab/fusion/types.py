"""Fusion methods, as plugins register them and users choose them.

A `FusionType` is a description that costs nothing to import; `load` imports torch when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from bwlab.config.options import Converter, checked_options
from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from bwlab.adapters.attach import ActingLayers
    from bwlab.adapters.layer import AdaptedLayer
    from bwlab.fusion.method import FusionMethod, FusionPlan

SUM = "sum"
Evaluations: TypeAlias = Literal["one", "two", "one for each adapter"]
FORM = "Write NAME or NAME:key=value,key=value, such as switch:steps=3"


@dataclass(frozen=True)
class FusionType:
    """A fusion method, selected with `bwlab generate --fusion NAME`.

    Attributes:
        name: e.g. `"switch"`; unique among all installed plugins.
        summary: one line for lists.
        load: imports and returns its class, which takes the options as arguments.
        source: where its formulas come from, such as `"arXiv 2402.16843"`; empty for a method without a paper.
        options: names of the options that a user may give, each with a converter, which raises ValueError.
        defaults: the value of each option that a user does not give.
        ordered: whether the order of the adapters matters.
        most: highest number of adapters; None: any number.
        evaluations: evaluations of the UNet in each step.

    """

    name: str
    summary: str
    load: Callable[[], type[FusionMethod]]
    source: str = ""
    options: Mapping[str, Converter] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    ordered: bool = False
    most: int | None = None
    evaluations: Evaluations = "one"

    def with_options(self, options: Mapping[str, object]) -> Fusion:
        """Return the fusion with the options that a user gives and the defaults of the others.

        Raises:
            BwlabError: it lacks an option, or a value is invalid.

        """
        given = checked_options(
            self.name, self.options, options, lambda option, value: f"--fusion {self.name}:{option}={value}"
        )
        return Fusion(self, {**self.defaults, **given})

    def check_count(self, count: int) -> None:
        """Raise `BwlabError` if the method does not take so many adapters with a scale other than 0."""
        if self.most is not None and count > self.most:
            found = f"{count} adapters act, and it takes {self.most}"
            raise BwlabError(f"--fusion {self.name}", found, "Give fewer adapters, or scale 0 to some of them")


@dataclass(frozen=True)
class Fusion:
    """A fusion method with all of its options.

    Attributes:
        type: the method.
        options: the value of each option.

    """

    type: FusionType
    options: Mapping[str, object]

    def mixes_samples(self) -> bool:
        """Return whether the samples of a batch may have different adapters."""
        return self.type.load().mixes_samples

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return how adapters act together while their scales do not change; one adapter alone acts as it is.

        Args:
            layers: the adapter layers with their scales at each path of the UNet, without those of scale 0.
            bases: the frozen layers of the UNet by path.

        Raises:
            BwlabError: the method takes fewer adapters, or does not fit the model or the adapters.

        """
        from bwlab.fusion.method import adapter_numbers, same_at_every_step

        count = len(adapter_numbers(layers))
        self.type.check_count(count)
        if count < 2:
            return same_at_every_step(layers)
        return self.type.load()(**self.options).plan(layers, bases)


def split_fusion(text: str) -> tuple[str, dict[str, object]]:
    """Return the name and the options of `NAME` or `NAME:key=value,key=value`; values as in TOML.

    >>> split_fusion("k-lora:alpha=2, balance=false")
    ('k-lora', {'alpha': 2, 'balance': False})
    """
    from bwlab.config.sources import parse_value  # imports pydantic

    name, colon, rest = text.partition(":")
    options: dict[str, object] = {}
    for entry in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in entry.partition("="))
        if not (key and equals and value):
            raise BwlabError(f"--fusion {text}", f"{entry.strip()!r} is not of the form key=value", FORM)
        if key in options:
            raise BwlabError(f"--fusion {text}", f"{key} is given twice", "Give it once")
        options[key] = parse_value(value, float)
    return name.strip(), options
