"""The conflict table by a second, dense implementation, on random pairs of every algorithm and dialect."""

from __future__ import annotations

import ast
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.truth import conflict_table, dense, drawn

ALGORITHMS = st.sampled_from(sorted(drawn.WITHOUT_BASE))
SEEDS = st.integers(0, 2**32 - 1)


def test_the_second_implementation_uses_nothing_of_the_first() -> None:
    tree = ast.parse(Path(dense.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} == {
        *("__future__", "collections", "dataclasses", "json", "math", "numpy", "pathlib", "re", "typing"),
    }


@settings(max_examples=12)
@given(kinds=st.tuples(ALGORITHMS, ALGORITHMS), seed=SEEDS, ranks=st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
def test_random_pairs(kinds: tuple[str, str], seed: int, ranks: tuple[int, int]) -> None:
    """Every second draw leaves the text encoder out of one of the two."""
    some = dict(list(drawn.LAYERS.items())[: -1 if seed % 2 else None])
    with TemporaryDirectory() as folder:
        a = drawn.write_adapter(Path(folder) / "a.safetensors", seed, kinds[0], ranks[0])
        b = drawn.write_adapter(Path(folder) / "b.safetensors", seed + 1, kinds[1], ranks[1], some)
        found = conflict_table.differences(a, b)
    assert [one for one in found if one.is_too_large] == []
    assert {one.group for one in found} == {"all", "in0", "mid", "out3", "te"}


@pytest.mark.parametrize(
    "rename", ["unet.{}.lora_A.weight", "base_model.model.{}.lora_A.weight", "{}.lora.down.weight"]
)
def test_other_dialects(tmp_path: Path, rename: str) -> None:
    names = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (22, 35),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (26, 15),
    }
    draw = np.random.default_rng(0)
    tensors: drawn.Leaves = {}
    for name, (out, inner) in names.items():
        down = rename.format(name)
        tensors[down] = drawn.numbers(draw, 3, inner)
        tensors[down.replace("lora_A", "lora_B").replace("down.weight", "up.weight")] = drawn.numbers(draw, out, 3)
    save_file(tensors, tmp_path / "a.safetensors")
    b = drawn.write_adapter(tmp_path / "b.safetensors", 1, "lora", 2)
    found = conflict_table.differences(tmp_path / "a.safetensors", b)
    assert [one for one in found if one.is_too_large] == []
    assert {one.group for one in found if one.measure == "cosine"} == {"all", "in0"}


def test_a_difference_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the second implementation is wrong in one number, the command says so."""
    a, b = (drawn.write_adapter(tmp_path / f"{seed}.safetensors", seed, "lora", 3) for seed in (0, 1))
    assert conflict_table.main([str(a), str(b)]) == 0
    true = dense.conflict_table

    def wrong(a: dict[str, dense.Array], b: dict[str, dense.Array]) -> dense.Table:
        table = true(a, b)
        table["mid"]["cosine"] += 1e-6
        return table

    monkeypatch.setattr(dense, "conflict_table", wrong)
    capsys.readouterr()
    assert conflict_table.main([str(a), str(b)]) == 1
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.endswith("too large")] == [
        ["mid", "cosine"]
    ]
