"""The drawing of a model's blocks."""

from __future__ import annotations

import re

from bwlab_analysis.report.block_map import ROWS, block_map


def boxes(drawing: str) -> dict[str, tuple[int, int]]:
    """Return block -> (x, y) of its box."""
    found = re.findall(r'data-block="([^"]+)"><title></title><rect x="(\d+)" y="(\d+)"', drawing)
    return {block: (int(x), int(y)) for block, x, y in found}


def test_a_unet_is_a_u() -> None:
    drawn = boxes(block_map({"effect": {"in0": 0.1, "in1": 0.2, "mid": 0.3, "out0": 0.2, "out1": 0.1, "te": 1.0}}))
    assert set(drawn) == {"in0", "in1", "mid", "out0", "out1"}
    assert drawn["in0"][1] == drawn["out1"][1] < drawn["in1"][1] == drawn["out0"][1] < drawn["mid"][1]
    assert drawn["in0"][0] < drawn["mid"][0] < drawn["out1"][0]


def test_a_transformer_is_columns_in_the_order_of_its_blocks() -> None:
    effects = {f"double{number}": 0.1 for number in range(19)} | {f"single{number}": 0.2 for number in range(38)}
    drawn = boxes(block_map({"effect": {**effects, "te": 1.0, "rest": 1.0}}))
    assert list(drawn) == list(effects)
    in_order = sorted(effects, key=lambda block: drawn[block])
    assert in_order == list(effects)
    assert len(set(drawn.values())) == 57
    assert len({y for _, y in drawn.values()}) == ROWS
    assert drawn["double18"][0] < drawn["single0"][0]


def test_nothing_is_drawn_of_text_encoders_alone() -> None:
    assert block_map({"effect": {"te": 1.0}}) == ""
