"""Reading without torch: the same numbers as safetensors' own reader, and one clear error for a broken file."""

from __future__ import annotations

import json
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
from bwlab.formats.files import open_adapter_file, read_modules
from bwlab.formats.small_floats import widen_bfloat16

SHARED = Path(__file__).resolve().parents[3] / "shared" / "loras"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def shared_file(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name} in ../shared/loras")
    return path


def written(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with this JSON header."""
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


def test_every_bfloat16_is_widened_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen_bfloat16(bits), expected)


def test_modules_are_grouped_by_name(tmp_path: Path) -> None:
    down, up = torch.randn(2, 5), torch.randn(3, 2)
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    modules = read_modules(tmp_path / "x.safetensors")
    assert set(modules) == {name}
    np.testing.assert_array_equal(modules[name]["lora_up.weight"], up.numpy())
    assert modules[name]["alpha"] == 1.0


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    save_file({"lora_unet_conv_in.alpha": torch.tensor(1, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    code = (
        "import sys; from bwlab.formats.files import read_modules; import bwlab.formats.atomic, bwlab.formats.plugin;"
        "print(read_modules(sys.argv[1])['lora_unet_conv_in']['alpha'], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1.0 False\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"\x00\x01", "no safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 100, "cut short or no safetensors"),
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
        read_modules(path)


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
        ("F32", "no safetensors header"),
    ],
)
def test_a_header_that_lies_is_an_error(tmp_path: Path, entry: object, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        open_adapter_file(written(tmp_path / "x.safetensors", {"a": entry}, b"\x00" * 4))


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_an_error_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BwlabError):
        read_modules(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="No such file"):
        open_adapter_file(tmp_path / "none.safetensors")
    with pytest.raises(BwlabError, match="Is a directory"):
        open_adapter_file(tmp_path)


def test_a_file_without_tensors_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="it holds no tensors"):
        read_modules(written(tmp_path / "x.safetensors", {}))


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("thuyptt__models_pytorch_lora_weights.safetensors", "diffusers, older"),
        ("catundchat__pytorch_lora_weights.safetensors", "diffusers, oldest"),
        ("cloneofsimo__lora_disney.safetensors", "lora_diffusion"),
        ("hansjohn819-commits__weights_sd15_text_encoder_adapter_model.safetensors", "PEFT"),
    ],
)
def test_real_files_of_other_tools_are_named_by_their_dialect(name: str, dialect: str) -> None:
    with pytest.raises(BwlabError, match=f"dialect '{dialect}'"):
        read_modules(shared_file(name))


@pytest.mark.parametrize("name", ["catundchat__pytorch_lora_weights.bin", "cloneofsimo__lora_pop.pt"])
def test_real_pickles_are_no_safetensors(name: str) -> None:
    with pytest.raises(BwlabError, match="no safetensors file"):
        read_modules(shared_file(name))


def test_a_real_kohya_style_file_reads_whole() -> None:
    modules = read_modules(shared_file("lycorisfork__smart_falcon_4_lokr.safetensors"))
    assert len(modules) == 350
    assert all(np.isfinite(values).all() for leaves in modules.values() for values in leaves.values())
