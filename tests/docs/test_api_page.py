"""docs/api.md: its examples run on the embedded base, and it names all that `bwlab` offers."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bwlab
from bwlab.blocks.spec import parse_spec
from bwlab.plugins.manager import build_manager
from bwlab_analysis import analyze

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def maker(folder: Path) -> Callable[..., Path]:
    """Return what makes a LoCon file of random numbers with these ranks."""

    def make(ranks: str, name: str = "random") -> Path:
        import torch

        from bwlab.adapters.adapter import create_adapter
        from bwlab.adapters.save import save_adapter
        from bwlab.base.load import base_scheme
        from bwlab.base.models import text_encoders

        pipe, manager = bwlab.load_base(), build_manager()
        scheme = base_scheme(pipe, manager.block_schemes())
        adapter = create_adapter(
            pipe.unet,
            manager.adapter_type("locon"),
            parse_spec(ranks, scheme, kind="rank"),
            None,
            scheme=scheme,
            text_encoder=text_encoders(pipe),
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_adapter(adapter, folder / f"{name}.safetensors")
        return folder / f"{name}.safetensors"

    return make


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path) -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, globs={"make_adapter": maker(tmp_path)})
    assert found.attempted > 15
    assert found.failed == 0


def test_the_page_names_everything() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in bwlab.__all__ if f"`bwlab.{name}" not in page] == []


def test_the_page_names_every_analysis_and_its_arguments() -> None:
    page = PAGE.read_text(encoding="utf-8")
    functions = [value for name in analyze.__all__ if inspect.isfunction(value := getattr(analyze, name))]
    assert len(functions) == 6
    assert [function.__name__ for function in functions if f"`{function.__name__}(" not in page] == []


def test_importing_bwlab_is_light() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, bwlab; assert bwlab.attach; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
