"""Reading without torch: the same numbers as safetensors' own reader, and one clear error for a broken file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bwlab.errors import BwlabError
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab.formats.tensors import LazyTensor, widen_bfloat16

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def written(path: Path, header: object, data: bytes = b"") -> Path:
    """Return a file with this JSON header."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_as_safetensors_writes_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 5, 7) * 10).to(dtype)
    save_file({"a": tensor, "scalar": torch.tensor(2.5)}, tmp_path / "x.safetensors", metadata={"key": "value"})
    file = open_adapter_file(tmp_path / "x.safetensors")
    expected = (tensor.float() if dtype == torch.bfloat16 else tensor).numpy()
    np.testing.assert_array_equal(file.read("a"), expected)
    assert file.read("a").dtype == expected.dtype
    assert file.read("scalar") == 2.5
    assert file.metadata == {"key": "value"}


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(100), "none": torch.ones(0, 3)}, path)
    file = open_adapter_file(path)
    assert file.read("none").shape == (0, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BwlabError, match="a is cut short since the file was opened"):
        file.read("a")


@pytest.mark.parametrize("padding", ["", " "])
def test_large_tensors_are_the_readers_own(tmp_path: Path, padding: str) -> None:
    """Wherever the file has them, at odd places too: writing leaves the file as it is."""
    first, second = (np.arange(start, start + 40_009, dtype=np.float32) for start in (0, 7))
    size = first.nbytes
    header = {
        name: {"dtype": "F32", "shape": [40_009], "data_offsets": [place * size, (place + 1) * size]}
        for place, name in enumerate(("a", "b"))
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8) + padding.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + first.tobytes() + second.tobytes())
    file = open_adapter_file(path)
    found = file.read("b")
    np.testing.assert_array_equal(found, second)
    assert found.flags.aligned
    found[:] = 0
    np.testing.assert_array_equal(file.read("b"), second)
    np.testing.assert_array_equal(file.read("a"), first)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("wanted", [None, np.float32, np.float64])
def test_what_is_no_number_is_found(bad: float, dtype: str, wanted: type[np.floating] | None) -> None:
    values = np.array([[0.0, -0.0, 65504.0], [-65504.0, 2**-24, -(2**-24)]], dtype)
    np.testing.assert_array_equal(LazyTensor.of(values).numbers(wanted), values)
    values[1, 2] = bad
    with pytest.raises(BwlabError, match="1 of the 6 numbers of w are NaN or infinite"):
        LazyTensor.of(values, "w").numbers(wanted)


def test_numbers_keep_their_own_floats_if_asked_to() -> None:
    for dtype, expected in (("float16", "float16"), ("float64", "float64"), ("int8", "float64"), ("bool", "float64")):
        assert LazyTensor.of(np.ones(3, dtype)).numbers(None).dtype == expected


def test_every_bfloat16_is_widened_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen_bfloat16(bits), expected)


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    save_file({"lora_unet_conv_in.diff": torch.ones(3, 5, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    code = (
        "import sys; from bwlab.formats.read import read_contents; import bwlab.plugins.builtin;"
        "print(read_contents(sys.argv[1]).modules['conv_in'].delta()[2, 4], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1.0 False\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"\x00\x01", "no safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 100, "a zip archive or a pickle of torch"),
        (b"QK\x03\x04" + b"\x00" * 100, "cut short or no safetensors"),
        (b"<!DOCTYPE html><html>Log in</html>", "it is a web page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS.*git lfs pull"),
        (b"\xff" * 64, "no safetensors file"),
        ((5).to_bytes(8, "little") + b"nojsn", "no safetensors header"),
        ((2).to_bytes(8, "little") + b"[]", "no safetensors header"),
    ],
)
def test_what_is_no_safetensors_file_is_said_so(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BwlabError, match=found):
        open_adapter_file(path)


@pytest.mark.parametrize("length", [1, 7, 8, 40, 200, 5000])
def test_a_file_cut_anywhere_is_an_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_conv_in.lora_up.weight": torch.randn(40, 33)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BwlabError, match=r"x\.safetensors: it is"):
        read_contents(path)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"dtype": "F4_E2M1", "shape": [4], "data_offsets": [0, 4]}, "F4_E2M1, which bwlab does not read"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, r"shape \(2,\) but 4 bytes"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "no safetensors header"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "no safetensors header"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "no safetensors header"),
        ({"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}, "no safetensors header"),
        ({"shape": [1], "data_offsets": [0, 4]}, "no safetensors header"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}, "no safetensors header"),
        ("F32", "no safetensors header"),
    ],
)
def test_a_header_that_lies_is_an_error(tmp_path: Path, entry: object, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        open_adapter_file(written(tmp_path / "x.safetensors", {"a": entry}, b"\x00" * 4))


@pytest.mark.parametrize(
    "key", ["9" * 5000, f"unet:{'9' * 5000}:up", f"lora_unet_input_blocks_{'9' * 5000}_1_proj_in.lora_up.weight"]
)
def test_a_key_with_more_digits_than_python_reads_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "long.safetensors"
    save_file({key: torch.ones(2, 3)}, path)
    with pytest.raises(BwlabError, match=rf"the key {re.escape(key[:40])}\.\.\. has 5,0\d\d characters"):
        read_contents(path)


@pytest.mark.parametrize("header", [b'{"a": {}, "a": {}}', b"[" * 100_000])
def test_keys_that_occur_twice_and_depths_without_end_are_errors(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BwlabError, match="its header is no safetensors header"):
        open_adapter_file(path)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_an_error_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BwlabError):
        read_contents(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="No such file"):
        open_adapter_file(tmp_path / "none.safetensors")
    with pytest.raises(BwlabError, match="Is a directory"):
        open_adapter_file(tmp_path)


def test_a_file_without_tensors_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="it holds no tensors"):
        read_contents(written(tmp_path / "x.safetensors", {}))
