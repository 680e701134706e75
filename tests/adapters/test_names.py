"""Short names of adapter files, which never say the same of two files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.adapters.names import adapter_names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["runs/fox/adapter.safetensors", "loras/ink.safetensors"], ["fox", "ink"]),
        (["one/fox.safetensors", "two/fox.safetensors", "ink.safetensors"], ["one/fox", "two/fox", "ink"]),
        (["one/x/fox.safetensors", "two/x/fox.safetensors"], ["one/x/fox", "two/x/fox"]),
        (["old/fox/adapter.safetensors", "new/fox/adapter.safetensors"], ["old/fox", "new/fox"]),
        (["a/fox.safetensors", "a/fox.pt", "ink.pt"], ["fox (a)", "fox (b)", "ink"]),
        (["fox.safetensors", "ink.safetensors", "./fox.safetensors"], ["fox (a)", "ink", "fox (c)"]),
    ],
)
def test_names_tell_files_apart(files: list[str], names: list[str]) -> None:
    assert adapter_names([Path(file) for file in files]) == names
