"""`.pt` and `.bin` files: read through the weights-only loader, when asked for, and never run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bwlab.errors import BwlabError
from bwlab.formats.dialects.lora_diffusion import UNetOrder
from bwlab.formats.read import read_contents


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_list_of_ups_and_downs(tmp_path: Path) -> None:
    layers = list(UNetOrder().layers())
    tensors = []
    for number, (_, (out, inner, _)) in enumerate(layers):
        tensors += [torch.full((out, 2), float(number)), torch.ones(2, inner or 1024, dtype=torch.bfloat16)]
    torch.save(tensors, tmp_path / "a.pt")
    contents = read_contents(tmp_path / "a.pt", pickles=True)
    assert (contents.dialect, contents.architecture, len(contents.modules)) == ("lora-diffusion-list", "sd2", 128)
    last = contents.modules["mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"]
    np.testing.assert_array_equal(last.delta(), np.full((1280, 1280), 2 * 127.0))
    assert last.leaves["lora_down.weight"].dtype == "BF16"


@pytest.mark.parametrize(("shapes", "found"), [([(3, 2)] * 3, "a list of 3 tensors"), ([(3, 2)] * 4, "its 2 pairs")])
def test_a_list_of_something_else_is_an_error(tmp_path: Path, shapes: list[tuple[int, int]], found: str) -> None:
    torch.save([torch.ones(shape) for shape in shapes], tmp_path / "a.pt")
    with pytest.raises(BwlabError, match=found):
        read_contents(tmp_path / "a.pt", pickles=True)


def test_a_dict_and_one_in_a_dict(tmp_path: Path) -> None:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    tensors = {f"{path}.down.weight": torch.ones(3, 5), f"{path}.up.weight": torch.ones(7, 3).half()}
    for saved in (tensors, {"state_dict": tensors}):
        torch.save(saved, tmp_path / "a.bin")
        contents = read_contents(tmp_path / "a.bin", pickles=True)
        assert contents.dialect == "diffusers-oldest"
        (module,) = contents.modules.values()
        np.testing.assert_array_equal(module.delta(), np.full((7, 5), 3.0))


def test_an_embedding_of_a1111_has_the_name_that_it_says(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}, "name": "cat", "step": 5}, tmp_path / "a.pt")
    contents = read_contents(tmp_path / "a.pt", pickles=True)
    assert {token: tensor.shape for token, tensor in contents.embeddings.items()} == {"cat": (2, 768)}


def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    torch.save([Hostile(tmp_path / "made")], tmp_path / "a.pt")
    with pytest.raises(BwlabError, match="that could run code, so it was not loaded"):
        read_contents(tmp_path / "a.pt", pickles=True)
    assert not (tmp_path / "made").exists()


def test_other_commands_than_convert_do_not_read_pickles(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "a.pt")
    with pytest.raises(BwlabError, match=r"reads only to convert it\. Run: bwlab convert .*a\.pt .*a\.safetensors"):
        read_contents(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 cut"])
def test_a_broken_one_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BwlabError, match=r"it is broken|it is no file that torch wrote"):
        read_contents(tmp_path / "a.pt", pickles=True)


def test_a_missing_one_and_one_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="No such file"):
        read_contents(tmp_path / "a.pt", pickles=True)
    torch.save({"a": 3}, tmp_path / "a.pt")
    with pytest.raises(BwlabError, match="it holds no tensors"):
        read_contents(tmp_path / "a.pt", pickles=True)
