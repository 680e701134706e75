"""A small base and adapters that visibly act."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bwlab.plugins.manager import PluginManager, build_manager

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from bwlab.adapters.adapter import Adapter
    from bwlab.base.architectures import Pipeline


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    """Return the manager of the installed plugins."""
    return build_manager()


@pytest.fixture(scope="session")
def pipe(tiny_pipeline: Path) -> StableDiffusionPipeline:
    """Return the tiny base; tests must leave it as it is."""
    from bwlab.base.load import load_base

    return load_base(tiny_pipeline)


def strong_adapter(
    pipe: Pipeline, manager: PluginManager, blocks: str, seed: int, *, text: bool = False, kind: str = "lora"
) -> Adapter:
    """Return an adapter with random weights, large enough to change images."""
    import torch

    from bwlab.adapters.adapter import create_adapter
    from bwlab.base.load import base_scheme
    from bwlab.base.models import text_encoders
    from bwlab.blocks.spec import parse_spec

    scheme = base_scheme(pipe, manager.block_schemes())
    adapter = create_adapter(
        pipe.unet,
        manager.adapter_type(kind),
        parse_spec(blocks, scheme, kind="rank"),
        None,
        scheme=scheme,
        text_encoder=text_encoders(pipe) if text else None,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapter.eval()


@pytest.fixture(scope="session")
def adapter_files(
    pipe: StableDiffusionPipeline, manager: PluginManager, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return the files of two adapters, on all blocks and on the upper ones."""
    from bwlab.adapters.save import save_adapter

    folder = tmp_path_factory.mktemp("adapters")
    files = folder / "all.safetensors", folder / "upper.safetensors"
    save_adapter(strong_adapter(pipe, manager, "all=2", seed=1), files[0])
    save_adapter(strong_adapter(pipe, manager, "upper=3", seed=2), files[1])
    return files


@pytest.fixture(scope="session")
def xl_pipe(tiny_xl_pipeline: Path) -> Pipeline:
    """Return the tiny SDXL base; tests must leave it as it is."""
    from bwlab.base.load import load_base

    return load_base(tiny_xl_pipeline)
