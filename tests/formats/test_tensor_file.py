"""Files written tensor by tensor: dtypes, rounding, order, and nothing left behind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwlab.errors import BwlabError
from bwlab.formats.safetensors import open_adapter_file, write_tensors
from bwlab.formats.tensors import LazyTensor, cast, encoded, exactly, in_dtype, narrowed, round_bfloat16
from bwlab.formats.torch_tensors import file_bytes, lazy_tensor

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1))
def test_bfloat16_rounds_as_torch_does(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    expected = torch.from_numpy(values).bfloat16()
    assert np.array_equal(round_bfloat16(values), expected.view(torch.int16).numpy().view(np.uint16))


def tensors_of_all_kinds() -> dict[str, torch.Tensor]:
    return {
        "b": torch.randn(3, 5),
        "a": torch.randn(7).half(),
        "d": torch.randn(2, 3).double(),
        "c": torch.randn(5, 1, 1).bfloat16(),
        "alpha": torch.tensor(2.5),
        "flag": torch.tensor([True, False]),
        "count": torch.tensor([3, 4], dtype=torch.int64),
        "none": torch.zeros(0),
    }


def test_a_whole_file_in_memory_is_that_of_the_safetensors_library() -> None:
    tensors = tensors_of_all_kinds() | {"broken": torch.tensor([math.nan, math.inf])}
    expected = safetensors.torch.save(tensors, {"x": "ü"})
    assert file_bytes(tensors, {"x": "ü"}) == expected
    turned = tensors | {"b": tensors["b"].T.contiguous().T.requires_grad_()}
    assert not turned["b"].is_contiguous()
    assert file_bytes(turned, {"x": "ü"}) == expected
    assert file_bytes(tensors) == safetensors.torch.save(tensors)


def test_bytes_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = tensors_of_all_kinds()
    write_tensors(tmp_path / "a", {key: lazy_tensor(tensor, key) for key, tensor in tensors.items()}, {"x": "ü"})
    found = safetensors.torch.load_file(tmp_path / "a")
    assert set(found) == set(tensors)
    for key, tensor in tensors.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)
    assert open_adapter_file(tmp_path / "a").metadata == {"x": "ü"}
    one = {"b": lazy_tensor(tensors["b"]), "a": lazy_tensor(tensors["a"])}
    write_tensors(tmp_path / "b", one, {"k": "v"})
    expected = safetensors.torch.save({"b": tensors["b"], "a": tensors["a"]}, {"k": "v"})
    assert (tmp_path / "b").read_bytes() == expected


def test_a_dtype_is_for_all_floats_but_single_numbers(tmp_path: Path) -> None:
    tensors = {
        "w": in_dtype(np.array([1.0, 1 / 3]), "F64"),
        "alpha": in_dtype(np.array(1 / 3), "F32"),
        "n": LazyTensor.of(np.array([1, 2], np.int32)),
    }
    tensors["n"] = LazyTensor("n", "I32", (2,), lambda: np.array([1, 2], np.int32))
    write_tensors(tmp_path / "a", tensors, {}, "F16")
    file = open_adapter_file(tmp_path / "a")
    assert {key: entry.dtype for key, entry in file.entries.items()} == {"w": "F16", "alpha": "F32", "n": "I32"}
    assert np.array_equal(file.read("w"), np.array([1.0, 1 / 3], np.float16))


def test_eight_bit_floats_become_half_precision() -> None:
    numbers = np.array([0.5, -448.0], np.float32)
    assert encoded(LazyTensor("w", "F8_E4M3", (2,), lambda: numbers)) == numbers.astype(np.float16).tobytes()


def test_a_number_too_large_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        BwlabError, match=r"writing w as F16: its largest number, 70000, does not fit\. Write it as fp32"
    ):
        write_tensors(tmp_path / "a", {"w": in_dtype(np.array([1.0, -7e4]), "F16", "w")}, {})
    with pytest.raises(BwlabError, match="1 of the 2 numbers of w are NaN or infinite"):
        write_tensors(tmp_path / "a", {"w": in_dtype(np.array([1.0, np.nan]), "F32", "w")}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "dtype", "expected"),
    [
        ([0.5, 3.0], "F16", "F16"),
        ([1 / 3], "F16", "F32"),
        ([1e6], "F16", "F32"),
        ([1 / 3], "BF16", "F32"),
        ([256.0], "BF16", "BF16"),
        ([1 / 3], "F64", "F64"),
        ([0.5], "F8_E5M2", "F16"),
    ],
)
def test_what_a_dtype_would_round_is_kept_exactly(numbers: list[float], dtype: str, expected: str) -> None:
    assert exactly(np.array(numbers, np.float32), dtype).dtype == expected


def test_casting_leaves_whole_numbers_alone() -> None:
    flag = LazyTensor("n", "BOOL", (1,), lambda: np.array([True]))
    assert cast(flag, "F16") is flag
    assert cast(in_dtype(np.zeros(2), "F32"), "BF16").dtype == "BF16"
    assert narrowed(np.zeros(2), "F16").dtype == np.float16
