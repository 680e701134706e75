"""The tables of docs/real-adapters.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from benchmarks.real_files import adapter_files, as_safetensors, pair_table, real_pairs, summary, tables
from bwlab.errors import BwlabError
from tests.analysis.kohya import SHAPES, adapter_tensors, write

ROOT = Path(__file__).resolve().parents[2]
LORAS = ROOT.parent / "shared" / "loras"
PAGE = ROOT / "docs" / "real-adapters.md"
SAMPLED = 45  # all pairs take minutes: `python -m benchmarks.real_files` prints them
IN0 = [path for path in SHAPES if path.startswith("down_blocks.0.")]
OUT3 = [path for path in SHAPES if path.startswith("up_blocks.3.")]


@pytest.mark.slow
def test_the_page_has_the_numbers_of_the_files() -> None:
    if not LORAS.is_dir():
        pytest.skip("../shared/loras is not there")
    lines = pair_table(list(real_pairs(LORAS, every=SAMPLED)))
    assert len(lines) > 3
    assert [line for line in lines if line not in PAGE.read_text().splitlines()] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters of one seed's down, one of another, and one that shares no module with them."""
    a, b = adapter_tensors(0, IN0), adapter_tensors(1, IN0)
    write(tmp_path / "a.safetensors", a)
    write(tmp_path / "b.safetensors", b | {key: tensor for key, tensor in a.items() if "lora_down" in key})
    write(tmp_path / "c.safetensors", adapter_tensors(2, IN0))
    write(tmp_path / "d.safetensors", adapter_tensors(3, OUT3))
    (tmp_path / "README.md").write_text("nothing to compare")
    return tmp_path


def test_pairs_that_share_modules_are_compared(folder: Path) -> None:
    pairs = list(real_pairs(folder))
    assert [(pair.a, pair.b, pair.one_seed) for pair in pairs] == [
        ("a", "b", True),
        ("a", "c", False),
        ("b", "c", False),
    ]
    lines = summary(pairs)
    assert lines[2].startswith("| \\|cosine\\| | ")
    assert all(line.count(" | ") == 4 for line in lines if not line.startswith("|---"))
    ordered = pair_table(pairs)
    assert len(ordered) == 2 + len(pairs)
    assert sum("| yes |" in line for line in ordered) == 1
    assert tables(pairs)[0] == "3 pairs with modules in common; 1 of them share an initialisation."


def test_pickles_are_read_without_running_them(folder: Path, tmp_path: Path) -> None:
    tensors = {key: torch.from_numpy(np.array(values)) for key, values in adapter_tensors(0, IN0).items()}
    torch.save(tensors, folder / "e.pt")
    copy = load_file(as_safetensors(folder / "e.pt", tmp_path))
    assert {key: values.tolist() for key, values in copy.items()} == {
        key: values.tolist() for key, values in adapter_tensors(0, IN0).items()
    }


def test_a_folder_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="two or more"):
        adapter_files(tmp_path)
