"""Installing made-up packages for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest


class FakePackages:
    """A folder on `sys.path` with modules and `dist-info` folders, as pip would have left them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, distribution: str, version: str, plugins: Mapping[str, str]) -> None:
        """Install a distribution with one plugin for each item: entry-point name -> source of its module."""
        lines = ["[bwlab]"]
        for name, source in plugins.items():
            module = f"{distribution.replace('-', '_')}_{name.replace('-', '_')}"
            (self.folder / f"{module}.py").write_text(dedent(source), encoding="utf-8")
            self.modules.append(module)
            lines.append(f"{name} = {module}")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePackages]:
    """Return a place to install made-up packages; all is gone after the test."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    fake = FakePackages(folder)
    yield fake
    for module in fake.modules:
        sys.modules.pop(module, None)
