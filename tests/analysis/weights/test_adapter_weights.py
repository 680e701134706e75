"""Reading adapter files: scale, shapes, what is left out and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bwlab.errors import BwlabError
from bwlab.linalg.factored import Spectrum
from bwlab_analysis.weights.adapter_weights import open_weights
from tests.analysis.kohya import SHAPES, adapter_tensors, dense, kohya, module_tensors, write

FIRST = next(iter(SHAPES))


@pytest.mark.parametrize("alpha", [None, 2.0, -0.5])
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


def test_alpha_0_is_refused_as_tools_read_it_differently(tmp_path: Path) -> None:
    weights = open_weights(write(tmp_path / "a.safetensors", adapter_tensors(0, alpha=0.0)))
    with pytest.raises(BwlabError, match="kohya's trainer reads 0 as the rank, other tools as no effect"):
        weights.delta(FIRST)


@pytest.mark.parametrize(
    ("leaves", "reason"),
    [
        ({"oft_blocks": (3, 5, 5)}, "oft, whose deltas need the base model's weights"),
        ({"oft_blocks": (2, 3, 4, 4)}, "boft, whose deltas need"),
        ({"weight": (7,), "on_input": ()}, "ia3, whose deltas need"),
        ({"lora_down.weight": (2, 5), "lora_up.weight": (7, 2), "dora_scale": (7, 1)}, "dora, whose deltas need"),
        ({"w_norm": (7,)}, "changes of norms, which are not matrices"),
        ({"q_layer.weight": (3, 5)}, "keys that no reader understands"),
    ],
)
def test_what_the_file_alone_does_not_tell_is_named_alone_and_beside_lora(
    tmp_path: Path, leaves: dict[str, tuple[int, ...]], reason: str
) -> None:
    other = "mid_block.attentions.0.proj_out"
    foreign = {f"{kohya(other)}.{leaf}": np.ones(shape, dtype=np.float32) for leaf, shape in leaves.items()}
    with pytest.raises(BwlabError, match=f"{reason}|none of its 1 tensors"):
        open_weights(write(tmp_path / "alone.safetensors", foreign))
    beside = open_weights(write(tmp_path / "beside.safetensors", adapter_tensors(0) | foreign))
    assert set(beside.names) == set(SHAPES)
    assert len(beside.left_out) == 1
    assert beside.left_out[0].line.startswith(f"{reason}")


@pytest.mark.parametrize("name", ["loha", "tucker loha", "lokr", "lokr of two pairs", "tucker lokr", "tucker", "full"])
def test_deltas_of_other_algorithms_are_matrices(tmp_path: Path, name: str) -> None:
    made = pytest.importorskip("tests.formats.lycoris_made")
    case = next(case for case in made.CASES if case.name == name)
    weights = open_weights(made.write_case(case, tmp_path))
    assert len(weights.names) == len(case.layers)
    for path in weights.names:
        expected = weights.contents.modules[path].delta()
        matrix = weights.delta(path)
        delta = Spectrum(matrix)
        np.testing.assert_allclose(matrix.dense(), expected.reshape(weights.shapes[path]), rtol=0, atol=1e-12)
        values = np.linalg.svd(expected.reshape(weights.shapes[path]), compute_uv=False)
        np.testing.assert_allclose(delta.singular_values(), values[: matrix.inner_rank], rtol=1e-9, atol=1e-9)
        assert delta.out_basis().shape[1] == delta.rank()


def test_a_module_without_its_down_is_refused(tmp_path: Path) -> None:
    tensors = adapter_tensors(0)
    del tensors[f"{kohya(FIRST)}.lora_down.weight"]
    with pytest.raises(BwlabError, match=f"{FIRST}: it has lora_up.weight, but no lora_down.weight"):
        open_weights(write(tmp_path / "a.safetensors", tensors))


def test_unknown_keys_beside_known_ones_are_listed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    unknown = module_tensors("no_such_block.0.to_q", (5, 7), 2, None, draw) | {"strange": np.ones((3, 3, 3))}
    weights = open_weights(write(tmp_path / "a.safetensors", adapter_tensors(0) | unknown))
    name = kohya("no_such_block.0.to_q")
    assert {part.reason: set(part.keys) for part in weights.left_out} == {
        "keys that no reader understands": {f"{name}.lora_down.weight", f"{name}.lora_up.weight", "strange"},
    }


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    video = module_tensors("double_blocks.0.img_attn_fused", (7, 5), 2, 1.0, draw)
    with pytest.raises(BwlabError, match="it is an adapter for a transformer model that bwlab does not know"):
        open_weights(write(tmp_path / "a.safetensors", video))


def test_other_dialects_are_read_too(tmp_path: Path) -> None:
    leaves = {"lora_down": "lora_A", "lora_up": "lora_B"}
    kohyas = adapter_tensors(0, alpha=None)
    peft = {
        f"unet.{path}.{new}.weight": kohyas[f"{kohya(path)}.{old}.weight"]
        for path in SHAPES
        for old, new in leaves.items()
    }
    weights = open_weights(write(tmp_path / "a.safetensors", peft))
    assert weights.contents.dialect == "diffusers"
    assert set(weights.names) == set(SHAPES)
    np.testing.assert_allclose(weights.delta(FIRST).dense(), dense(kohyas, FIRST), rtol=1e-12, atol=1e-12)


def test_keys_of_no_dialect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"none of the known dialects has keys such as 'a\.b\.c'"):
        open_weights(write(tmp_path / "a.safetensors", {"a.b.c": np.ones((2, 3))}))


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
    infinite = rf"1 of the \d+ numbers of {kohya(FIRST)}.{leaf} are NaN or infinite"
    with pytest.raises(BwlabError, match=rf"{infinite}|alpha of {FIRST} is (nan|inf): no number"):
        weights.delta(FIRST)


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [("lora_up.weight", (61, 2)), ("lora_up.weight", (61, 3, 3, 3)), ("lora_up.weight", (0, 3)), ("alpha", (2,))],
)
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, leaf: str, shape: tuple[int, ...]) -> None:
    tensors = adapter_tensors(0)
    tensors[f"{kohya(FIRST)}.{leaf}"] = np.ones(shape, dtype=np.float32)
    with pytest.raises(BwlabError, match=f"{FIRST}: (up .* do not make one delta|its alpha has the shape)"):
        open_weights(write(tmp_path / "a.safetensors", tensors))


def test_a_module_that_the_scheme_does_not_have_is_listed(tmp_path: Path) -> None:
    nowhere = "down_blocks.3.attentions.0.proj_in"
    draw = np.random.default_rng(0)
    tensors = adapter_tensors(0) | module_tensors(nowhere, (7, 5), 2, 1.0, draw)
    weights = open_weights(write(tmp_path / "a.safetensors", tensors))
    assert nowhere not in weights.names
    assert weights.left_out[0].keys == (nowhere,)
