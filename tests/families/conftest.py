"""Folders of small bases and images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families.pipelines import save_tiny_sd3, tiny_flux


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Stable Diffusion 3 without a T5."""
    return save_tiny_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session", params=[False, True], ids=["schnell", "dev"])
def flux_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny FLUX.1, like schnell or dev."""
    folder = tmp_path_factory.mktemp("flux")
    tiny_flux(guidance=request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def dev_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a tiny FLUX.1 dev, which trains on images of 32 px unless another size is asked for."""
    from bwlab.base.families.flux import Flux

    monkeypatch.setattr(Flux, "base_side", lambda self, pipe: 32)
    folder = tmp_path_factory.mktemp("flux_dev")
    tiny_flux(guidance=True).save_pretrained(folder)
    return folder


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Return a folder of two captioned images."""
    from PIL import Image

    folder = tmp_path / "two"
    folder.mkdir()
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 40, 210))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{name} square")
    return folder
