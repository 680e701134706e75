"""Reading adapter files: scale, shapes, what is left out and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bwlab.errors import BwlabError
from bwlab_analysis.weights import open_weights
from tests.analysis.kohya import SHAPES, adapter_tensors, dense, kohya, module_tensors, write

FIRST = next(iter(SHAPES))


@pytest.mark.parametrize("alpha", [None, 2.0, 0.0])
def test_deltas_have_alpha_over_rank_folded_in(tmp_path: Path, alpha: float | None) -> None:
    tensors = adapter_tensors(0, alpha=alpha)
    weights = open_weights(write(tmp_path / "a.safetensors", tensors))
    assert set(weights.names) == set(SHAPES)
    assert weights.left_out == ()
    for path in SHAPES:
        delta = weights.delta(path)
        assert delta.shape == weights.shapes[path]
        np.testing.assert_allclose(delta.dense(), dense(tensors, path), rtol=1e-12, atol=1e-12)


def test_modules_come_in_the_order_of_blocks(tmp_path: Path) -> None:
    tensors = dict(reversed(adapter_tensors(0).items()))
    weights = open_weights(write(tmp_path / "a.safetensors", tensors))
    blocks = [weights.scheme.block_of(path) for path in weights.names]
    assert list(dict.fromkeys(blocks)) == ["in0", "mid", "out3"]


def test_bfloat16_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {key: torch.from_numpy(value).bfloat16() for key, value in adapter_tensors(0).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    widened = {key: value.float().numpy() for key, value in tensors.items()}
    weights = open_weights(tmp_path / "a.safetensors")
    np.testing.assert_allclose(weights.delta(FIRST).dense(), dense(widened, FIRST), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("leaf", "algorithm"),
    [
        ("lokr_w1", "LoKr"),
        ("hada_w1_a", "LoHa"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "Tucker"),
        ("oft_blocks", "OFT"),
        ("on_input", "IA3"),
        ("a1.weight", "GLoRA"),
        ("diff_b", "full-matrix"),
        ("w_norm", "norm-layer"),
        ("strange", "a module of strange"),
    ],
)
def test_other_algorithms_are_named_alone_and_beside_lora(tmp_path: Path, leaf: str, algorithm: str) -> None:
    other = "mid_block.attentions.0.proj_out"
    foreign = {f"{kohya(other)}.{leaf}": np.ones((3, 5), dtype=np.float32)}
    with pytest.raises(BwlabError, match=f"{algorithm}.*not read yet"):
        open_weights(write(tmp_path / "alone.safetensors", foreign))
    beside = open_weights(write(tmp_path / "beside.safetensors", adapter_tensors(0) | foreign))
    assert set(beside.names) == set(SHAPES)
    assert [part.keys for part in beside.left_out] == [(kohya(other),)]
    assert algorithm in beside.left_out[0].reason


def test_a_module_without_its_down_is_listed(tmp_path: Path) -> None:
    tensors = adapter_tensors(0)
    del tensors[f"{kohya(FIRST)}.lora_down.weight"]
    (left_out,) = open_weights(write(tmp_path / "a.safetensors", tensors)).left_out
    assert left_out.line == f"a module of alpha, lora_up.weight, whose norms are not read yet: {kohya(FIRST)}"


def test_unknown_keys_beside_known_ones_are_listed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    unknown = module_tensors("no_such_block.0.to_q", (5, 7), 2, 1.0, draw) | {"emb_params": np.ones(3)}
    weights = open_weights(write(tmp_path / "a.safetensors", adapter_tensors(0) | unknown))
    assert {part.reason: part.keys for part in weights.left_out} == {
        "no module of a known UNet or text encoder": (kohya("no_such_block.0.to_q"),),
        "no kohya key": ("emb_params",),
    }


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    flux = module_tensors("double_blocks.0.img_attn.qkv", (7, 5), 2, 1.0, draw)
    with pytest.raises(BwlabError, match="no module of a known UNet"):
        open_weights(write(tmp_path / "a.safetensors", flux))


def test_keys_of_another_dialect_are_refused(tmp_path: Path) -> None:
    peft = {"base_model.model.layers.0.q_proj.lora_A.weight": np.ones((2, 3))}
    with pytest.raises(BwlabError, match="'PEFT'"):
        open_weights(write(tmp_path / "a.safetensors", peft))


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "empty"), (b"GIF89a and so on", "no safetensors"), (save(adapter_tensors(0))[:-7], "cut short")],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BwlabError, match=found):
        open_weights(tmp_path / "a.safetensors")


def test_a_missing_file_and_one_without_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="No such file"):
        open_weights(tmp_path / "none.safetensors")
    with pytest.raises(BwlabError, match="no tensors"):
        open_weights(write(tmp_path / "a.safetensors", {}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: float, leaf: str) -> None:
    tensors = adapter_tensors(0)
    tensors[f"{kohya(FIRST)}.{leaf}"].reshape(-1)[:1] = value
    weights = open_weights(write(tmp_path / "a.safetensors", tensors))
    with pytest.raises(BwlabError, match=rf"1 of the \d+ numbers of {kohya(FIRST)}.{leaf} are NaN or infinite"):
        weights.delta(FIRST)


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [("lora_up.weight", (61, 2)), ("lora_up.weight", (61, 3, 3, 3)), ("lora_up.weight", (0, 3)), ("alpha", (2,))],
)
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, leaf: str, shape: tuple[int, ...]) -> None:
    tensors = adapter_tensors(0)
    tensors[f"{kohya(FIRST)}.{leaf}"] = np.ones(shape, dtype=np.float32)
    with pytest.raises(BwlabError, match=f"{kohya(FIRST)} has up .* which do not make one delta"):
        open_weights(write(tmp_path / "a.safetensors", tensors))


def test_a_module_that_the_scheme_does_not_have_is_listed(tmp_path: Path) -> None:
    nowhere = "down_blocks.3.attentions.0.proj_in"
    draw = np.random.default_rng(0)
    tensors = adapter_tensors(0) | module_tensors(nowhere, (7, 5), 2, 1.0, draw)
    weights = open_weights(write(tmp_path / "a.safetensors", tensors))
    assert nowhere not in weights.names
    assert weights.left_out[0].keys == (kohya(nowhere),)
