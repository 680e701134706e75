"""Writers of the files that options are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bwlab.adapters.save import save_adapter
from bwlab.base.load import load_base
from bwlab.benchmark import load_benchmark
from bwlab.plugins.manager import build_manager
from tests.generation.conftest import strong_adapter


def adapters(folder: Path, base: str | Path, **specs: str) -> dict[str, Path]:
    """Write an adapter with random weights for each name, with the ranks of its block spec, and return the files.

    A name that ends in `_locon` makes a LoCon, and any other a LoRA.
    """
    pipe, manager = load_base(base), build_manager()
    files = {}
    for seed, (name, spec) in enumerate(specs.items()):
        kind = "locon" if name.endswith("_locon") else "lora"
        adapter = strong_adapter(pipe, manager, spec, seed, text="te" in spec or "all" in spec, kind=kind)
        files[name] = folder / f"{name}.safetensors"
        save_adapter(adapter, files[name])
    return files


def images(folder: Path, identities: tuple[str, ...], style: str) -> Path:
    """Write captioned images of the benchmark and return their folder."""
    folder.mkdir(parents=True)
    benchmark = load_benchmark()
    for name in identities:
        benchmark.image(name, style).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{style}, {name}, white background\n")
    return folder


def text_file(path: Path, *lines: str) -> Path:
    """Write lines of text and return the file."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def embedding(path: Path, width: int, vectors: int = 1) -> Path:
    """Write a textual-inversion file with random vectors and return it."""
    generator = torch.Generator().manual_seed(0)
    save_file({"emb_params": torch.randn(vectors, width, generator=generator)}, path)
    return path


def perturbed_pipeline(base: Path, folder: Path, seed: int = 7) -> Path:
    """Write a pipeline whose UNet and text encoder differ from those of `base` by random numbers, and return it."""
    pipe: Any = load_base(base)
    generator = torch.Generator().manual_seed(seed)
    for model in (pipe.unet, pipe.text_encoder):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    pipe.save_pretrained(folder)
    return folder
