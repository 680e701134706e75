"""The commands on single-file checkpoints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from bwlab.base.architectures import PUBLISHED
from bwlab.base.names import base_unet
from bwlab.blocks.configs import KNOWN, OF_FAMILY
from bwlab.cli import generate
from tests.base.checkpoints import published_file


def test_blocks_of_a_checkpoint_need_no_torch(tmp_path: Path) -> None:
    file = published_file(tmp_path / "any.safetensors", "sd1")
    script = (
        f"import sys; from bwlab.cli.blocks import command; command({str(file)!r});"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "blocks of the scheme" in done.stdout
    assert "859,520,964" in done.stdout


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_a_checkpoint_has_its_family_s_unet(family: str, tmp_path: Path) -> None:
    unet = base_unet(str(published_file(tmp_path / "x.safetensors", family)))
    assert (unet.known, unet.config) == (OF_FAMILY[family], KNOWN[OF_FAMILY[family]])


@pytest.mark.usefixtures("small_published")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_images_from_a_checkpoint(family: str, small_files: Mapping[str, Path], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(generate.command)
    given = ["--prompt", "a cat", "--base", str(small_files[family]), "--steps", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.png")
    with Image.open(path) as image:
        assert image.size == (64, 64)
