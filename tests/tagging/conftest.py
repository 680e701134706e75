"""Images to tag, and small real models that tag them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)

TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 24, "head_width": 12, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with a red, a green and a blue image, the last in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name, colour in (("a.png", RED), ("b.jpg", GREEN), ("below/c.png", BLUE)):
        Image.new("RGB", (37, 37), colour).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny open_clip model with random weights, as open_clip's own files in a folder."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


ROWS = [
    (1, "general", 9),
    (2, "explicit", 9),
    (3, "red_colour", 0),
    (4, "green_colour", 0),
    (5, "blue_colour", 0),
    (6, "captain_blue_(sea)", 4),
    (7, "^_^", 0),
]


@pytest.fixture
def wd14(tmp_path: Path) -> Callable[..., Path]:
    """Write a real ONNX model whose tags are the mean of each channel of the middle, and its selected_tags.csv."""

    def write(size: int | str = 6, batch: int | str = "batch", rows: list[tuple[int, str, int]] = ROWS) -> Path:
        folder = tmp_path / "wd14"
        folder.mkdir(exist_ok=True)
        lines = ["tag_id,name,category,count", *(f"{number},{name},{kind},9" for number, name, kind in rows)]
        (folder / "selected_tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_model(folder / "model.onnx", size, batch)
        return folder / "model.onnx"

    return write


def write_model(path: Path, size: int | str, batch: int | str) -> None:
    """`mean over pixels of (B, G, R) / 255`, then a matrix to the seven tags of `ROWS`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # Rows are the channels as the model gets them: blue, green, red.
    weight = np.zeros((3, len(ROWS)), np.float32)
    weight[2, 2] = weight[1, 3] = weight[0, 4] = 1
    weight[0, 5], weight[:, 6] = 0.95, 0.2
    weight[:, 0], weight[:, 1] = 0.9, 0.1
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "white"], ["share"]),
            helper.make_node("MatMul", ["share", "weight"], ["scores"]),
        ],
        "wd14",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, size, size, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, len(ROWS)])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(255, np.float32), "white"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
