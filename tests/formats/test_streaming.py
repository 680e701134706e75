"""Reading holds one module at a time, and small floats are exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file

# Linux tells of mapped files too, which tracemalloc does not see.
WALK = """
import re, sys, tracemalloc
from pathlib import Path
import numpy.linalg
from bwlab.formats.read import read_contents
import bwlab.linalg.factored

def resident(field):
    status = Path("/proc/self/status")
    return int(re.search(field + r":\\s+(\\d+)", status.read_text())[1]) * 1024 if status.exists() else 0

tracemalloc.start()
before = resident("VmRSS")
for module in read_contents(sys.argv[1]).modules.values():
    {each}
print(max(tracemalloc.get_traced_memory()[1], resident("VmHWM") - before))
"""


def big_file(folder: Path, modules: int, width: int, rank: int) -> Path:
    """float16 factors of square layers: `modules * 4 * width * rank` bytes, with the data never all in memory twice."""
    path = folder / "big.safetensors"
    header, start = {}, 0
    for number in range(modules):
        name = f"lora_unet_up_blocks_1_attentions_{number % 3}_transformer_blocks_{number // 3}_attn1_to_q"
        for leaf, shape in (("lora_down", (rank, width)), ("lora_up", (width, rank))):
            header[f"{name}.{leaf}.weight"] = {
                "dtype": "F16", "shape": shape, "data_offsets": [start, start + 2 * width * rank]
            }  # fmt: skip
            start += 2 * width * rank
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        row = np.random.default_rng(0).standard_normal(width * rank).astype(np.float16).tobytes()
        for _ in range(2 * modules):
            file.write(row)
    return path


@pytest.mark.parametrize("each", ["module.factors().norm()", "[tensor.read() for tensor in module.leaves.values()]"])
def test_peak_memory_is_that_of_a_module_not_of_the_file(tmp_path: Path, each: str) -> None:
    path = big_file(tmp_path, modules=60, width=3200, rank=128)
    size = path.stat().st_size
    assert size > 90_000_000
    code = WALK.format(each=each)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.4 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_small_float_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = 16 if dtype.itemsize == 2 else 8
    every = torch.arange(2**bits, dtype=torch.int32).to(torch.int16 if bits == 16 else torch.uint8).view(dtype)
    save_file({"lora_unet_conv_in.diff": every}, tmp_path / "a.safetensors")
    read = open_adapter_file(tmp_path / "a.safetensors").read("lora_unet_conv_in.diff")
    np.testing.assert_array_equal(read.astype(np.float32), every.float().numpy())


def test_the_dtype_of_the_file_is_told(tmp_path: Path) -> None:
    tensors = {"diff": torch.ones(3, 5, dtype=torch.float8_e4m3fn), "diff_b": torch.ones(3, dtype=torch.bfloat16)}
    save_file({f"lora_unet_conv_in.{leaf}": tensor for leaf, tensor in tensors.items()}, tmp_path / "a.safetensors")
    leaves = read_contents(tmp_path / "a.safetensors").modules["conv_in"].leaves
    assert {leaf: tensor.dtype for leaf, tensor in leaves.items()} == {"diff": "F8_E4M3", "diff_b": "BF16"}
