"""Blame as shares of effects, and block scales in the notations of other tools."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.blocks.notations.translate import translate_from
from bwlab.blocks.spec import parse_spec
from bwlab_analysis.activations.losses import BlockLoss, Loss, LossReport, blame_of_losses
from bwlab_analysis.measures import BlockBlame, worst_first
from bwlab_analysis.report.advice import commands_to_copy, notations_of

BLAME = (
    BlockBlame("b", "out3", 0.40, 0.05),
    BlockBlame("a", "out2", 0.30, 0.67),
    BlockBlame("b", "in1", 0.20, 0.15),
    BlockBlame("a", "mid", 0.10, None),
    BlockBlame("b", "mid", 0.01, 0.0),
)


def loss_report(adapter: str, base: float, own: float, blame: dict[str, float], need: dict[str, float]) -> LossReport:
    def losses(values: dict[str, float]) -> tuple[BlockLoss, ...]:
        return tuple(BlockLoss(block, Loss(value, 0.0)) for block, value in values.items())

    harm = Loss(sum(blame.values()), 0.0)
    without, alone, both, gain = (Loss(value, 0.0) for value in (base, own, own + harm.value, base - own))
    return LossReport(adapter, "made up", without, alone, both, gain, harm, (), 0.0, losses(blame), losses(need))


def test_losses_become_shares_of_the_adapters_effects() -> None:
    of_a = loss_report("a", 0.5, 0.1, {"out3": 0.2, "in0": 0.04}, {"mid": 0.08})
    of_b = loss_report("b", 1.0, 0.2, {"mid": 0.4}, {"out3": 0.08, "in0": 0.4})
    blame = blame_of_losses([of_a, of_b])
    assert [(one.adapter, one.block) for one in blame] == [("b", "out3"), ("a", "mid"), ("b", "in0")]
    assert [one.gain for one in blame] == pytest.approx([0.5, 0.5, 0.1])
    assert [one.loss for one in blame] == pytest.approx([0.1, 0.2, 0.5])
    assert [one.loss for one in blame_of_losses([of_a])] == [None, None]
    assert blame_of_losses([loss_report("a", 0.1, 0.2, {"mid": 1.0}, {})]) == ()
    assert worst_first(BLAME)[0].block == "out3"


def test_a_spec_is_told_to_other_tools() -> None:
    scheme = scheme_for(SD14)
    found = notations_of("out3=0, in1=0.5, *=1", scheme)
    assert found["LoRA Block Weight"].text == "1,1,1,1,1,0.5,0.5,0.5,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,0,0"
    kohya = translate_from("kohya", found["kohya's list of blocks"].text, scheme, "scale").text
    numbers = parse_spec(kohya, scheme, kind="scale").by_block()
    assert (numbers["out3"], numbers["in1"], numbers["mid"]) == (0, 0.5, 1)
    assert "block_3" in found["diffusers' set_adapters"].text


def test_what_another_tool_does_otherwise_is_told() -> None:
    scheme = scheme_for(SD14)
    convolutions = notations_of("out0=0, *=1", scheme)["diffusers' set_adapters"]
    assert convolutions.notes == (
        "diffusers gives the convolutions of out0 other scales: use it with LoRA files, which have none",
    )
    assert notations_of("*=1", scheme) == {}
    assert notations_of("*=0.5", scheme)["LoRA Block Weight"].notes == ()


@pytest.mark.parametrize(
    ("learned", "lines"), [(("identity", "style"), 1), (("style", "identity"), 1), (("style",), 0)]
)
def test_scales_that_helped_other_pairs_are_a_line_to_copy(learned: tuple[str, ...], lines: int) -> None:
    costs = tuple(SimpleNamespace(of=of, adapter=letter) for of, letter in zip(learned, "ab", strict=False))
    settings = SimpleNamespace(base="emoji", clip_skip=2, data={}, prompts=None)
    in_base: Any = SimpleNamespace(settings=settings, measured=SimpleNamespace(costs=costs, cfg=3.0))
    weights: Any = SimpleNamespace(file_a=Path("a.safetensors"), file_b=Path("b.safetensors"))
    found = commands_to_copy(weights, in_base)
    assert len(found) == lines
    if lines:
        first, second = ("a", "b") if learned[0] == "identity" else ("b", "a")
        assert found[0] == (
            f"bwlab generate --base emoji --clip-skip 2 --adapter {first}.safetensors --scale 'middle=1.5, *=1' "
            f"--adapter {second}.safetensors --scale 'upper=1.2, *=0.7' --cfg 3 --prompt PROMPT --out OUT"
        )


@pytest.mark.parametrize("learned", [("identity", "style"), ("style", "identity"), ("style", "likeness")])
def test_the_search_to_copy_has_the_roles_that_were_measured(learned: tuple[str, str]) -> None:
    costs = tuple(SimpleNamespace(of=of, adapter=letter) for of, letter in zip(learned, "ab", strict=True))
    files = {letter: Path(f"{letter}.safetensors") for letter in "ab"}
    data = {file: Path(f"images/{letter}") for letter, file in files.items()}
    settings = SimpleNamespace(base="emoji-dit", clip_skip=1, data=data, prompts=Path("prompts.txt"))
    in_base: Any = SimpleNamespace(settings=settings, measured=SimpleNamespace(costs=costs, cfg=3.0))
    weights: Any = SimpleNamespace(file_a=files["a"], file_b=files["b"])
    identity, style = ("a", "b") if learned[0] == "identity" else ("b", "a")
    assert commands_to_copy(weights, in_base) == (
        f"bwlab analyze recommend {identity}.safetensors {style}.safetensors --base emoji-dit "
        f"--id-images=images/{identity} --style-images=images/{style} --prompts=prompts.txt --cfg 3",
    )
