"""What a page sends: the settings of an image and the scales of each adapter, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bwlab.adapters.schedule import parse_schedule
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec, number_text, parse_spec, spec_from_values
from bwlab.errors import BwlabError

MOST = 2.0
"""The highest number of a slider."""
DIGITS = 4

Slider = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Checked = TypeVar("Checked", bound=BaseModel)


class ImageSettings(BaseModel):
    """The settings of an image beside the scales."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(default="", max_length=4000)
    seed: int = Field(default=0, ge=0, lt=2**53)  # whole numbers of JavaScript
    steps: int = Field(default=10, ge=1, le=150)
    cfg: float = Field(default=3.0, ge=0, le=50, allow_inf_nan=False)


class AdapterScales(BaseModel):
    """The scales of one adapter.

    Attributes:
        whole: number that multiplies all others.
        blocks: number of each block; 1 where a block is not named.
        cells: number of single cells in place of that of their block.
        schedule: factors over the steps, as `bwlab generate --schedule` takes them; empty: none.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    whole: Slider = 1.0
    blocks: Mapping[str, Slider] = Field(default_factory=dict)
    cells: Mapping[str, Slider] = Field(default_factory=dict)
    schedule: str = Field(default="", max_length=500)

    def spec(self, scheme: BlockScheme) -> BlockSpec:
        """Return the scale of every module, all sliders multiplied; `BwlabError` for a name that the scheme lacks."""
        for name in (*self.blocks, *self.cells):
            scheme.modules_of(name)
        parse_schedule(self.schedule or None)
        values = {
            module.path: round(self.whole * self.cells.get(module.cell, self.blocks.get(module.block, 1.0)), DIGITS)
            for module in scheme.modules
        }
        return spec_from_values(values, scheme, "scale")

    @classmethod
    def of_spec(cls, text: str, schedule: str, scheme: BlockScheme) -> AdapterScales:
        """Return the sliders that mean a block spec; blocks whose cells differ keep a number for each cell.

        Raises:
            BwlabError: the spec is wrong, or has a number that sliders cannot reach.

        """
        by_block = parse_spec(text, scheme, kind="scale", default=1.0).by_block()
        numbers = [number for value in by_block.values() for number in _numbers(value)]
        whole = _whole(numbers)
        if not 0 <= whole <= MOST or min(numbers) < 0:
            fix = f"Sliders reach {number_text(MOST * MOST)}; use the spec with bwlab generate"
            raise BwlabError(f"sliders for {text!r}", "a scale is out of their range", fix)
        blocks: dict[str, float] = {}
        cells: dict[str, float] = {}
        for block, value in by_block.items():
            if isinstance(value, dict):
                cells |= {name: round(number / whole, 2 * DIGITS) for name, number in value.items()}
            else:
                blocks[block] = round(value / whole, 2 * DIGITS)
        return cls(whole=whole, blocks=blocks, cells=cells, schedule=schedule)


def _numbers(value: float | Mapping[str, float]) -> list[float]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _whole(numbers: list[float]) -> float:
    """Return the number of the slider of the whole adapter: the commonest one, if the others are in reach from it."""
    commonest = Counter(numbers).most_common(1)[0][0]
    most = max(numbers)
    return commonest if 0 < commonest <= MOST and most / commonest <= MOST else max(1.0, most / MOST)


def checked(kind: type[Checked], value: object, asked: str) -> Checked:
    """Return a value that a page sent as a model; `BwlabError` that names the first field that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or asked
        says = first["msg"].replace("Input should", "it should")
        raise BwlabError(f"{asked}: {place}", says, "Correct it, or reload the page") from error
