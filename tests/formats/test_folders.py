"""Making folders, and the one line where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwlab.errors import BwlabError
from bwlab.files import make_folder


def test_a_folder_is_made_with_those_above_it_and_may_exist(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BwlabError, match=r"^--out here: a file of that name is in the way"):
        make_folder(tmp_path / "file", "--out here")
    with pytest.raises(BwlabError, match=r"^folder .*deeper: Not a directory"):
        make_folder(tmp_path / "file" / "deeper")
