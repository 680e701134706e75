"""Folders of small bases and images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families.pipelines import LATE_BLOCKS, save_tiny_sd3, tiny_flux, tiny_qwen_image, tiny_z_image


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


@pytest.fixture(scope="session")
def flux_dev_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny FLUX.1 dev."""
    folder = tmp_path_factory.mktemp("flux_dev")
    tiny_flux(guidance=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Qwen-Image."""
    folder = tmp_path_factory.mktemp("qwen_image")
    tiny_qwen_image().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def z_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Z-Image."""
    folder = tmp_path_factory.mktemp("z_image")
    tiny_z_image().save_pretrained(folder)
    return folder


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make images of 32 px: nothing in most pipelines says for which size they were made."""
    from bwlab.base.families.transformer import SizedFamily

    monkeypatch.setattr(SizedFamily, "base_side", lambda self, pipe: 32)


@pytest.fixture(params=LATE_BLOCKS)
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of each family."""
    name: str = request.param
    return name


@pytest.fixture
def base(request: pytest.FixtureRequest, small_images: None, family: str) -> Path:
    """Return the folder of a tiny base of a family, by default of each one in turn."""
    names = {"flux": "flux_dev_folder", "sdxl": "tiny_xl_pipeline"}
    folder: Path = request.getfixturevalue(names.get(family, f"{family.replace('-', '_')}_folder"))
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
