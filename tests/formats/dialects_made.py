"""One adapter's factors under the keys of any dialect, and what has to be read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bwlab.formats.contents import AdapterContents
from bwlab.formats.read import read_contents

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
PATHS = (f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", "te.encoder.layers.3.mlp.fc1")
SHAPES = {PATHS[0]: (11, 7), PATHS[1]: (13, 5), PATHS[2]: (17, 19)}
RANK = 3


def factors() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Path -> (down, up)."""
    draw = np.random.default_rng(0)
    return {
        path: (draw.standard_normal((RANK, inner)), draw.standard_normal((out, RANK)))
        for path, (out, inner) in SHAPES.items()
    }


def read(folder: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> AdapterContents:
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "a.safetensors", metadata)
    return read_contents(folder / "a.safetensors")


def keyed(name: Callable[[str, bool], str]) -> dict[str, np.ndarray]:
    """Return the factors under the keys that `name(path, is_down)` gives."""
    return {name(path, down): pair[0 if down else 1] for path, pair in factors().items() for down in (True, False)}


def assert_holds(contents: AdapterContents, dialect: str, scale: float = 1.0) -> None:
    """Return the contents hold all factors, with this scale, and nothing else."""
    assert (contents.dialect, contents.unknown) == (dialect, ())
    assert set(contents.modules) == set(PATHS)
    for path, (down, up) in factors().items():
        np.testing.assert_allclose(contents.modules[path].delta(), scale * up @ down, rtol=1e-12, atol=1e-12)


def part_of(path: str) -> str:
    """Diffusers' name of a module."""
    text = path.removeprefix("te.")
    return f"text_encoder.text_model.{text}" if text != path else f"unet.{path}"


def alphas(name: Callable[[str], str]) -> dict[str, np.ndarray]:
    return {f"{name(path)}.alpha": np.array(1.5) for path in PATHS}
