"""A second implementation of what bwlab computes from adapter files: dense, slow, plain numpy in float64.

It reads safetensors itself and imports nothing of bwlab, so that a mistake there is not made here too. It covers LoRA,
LoCon, Tucker, LoHa, LoKr, full differences, DoRA, GLoRA, OFT and BOFT with kohya's keys, and LoRA with the keys of
diffusers and PEFT. A kernel `(k, k)` of a convolution is flattened: every delta is a matrix `(out, in * k * k)`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

PREFIXES = {
    "base_model.model.unet.": "lora_unet_",
    "base_model.model.text_model.": "lora_te_text_model_",
    "base_model.model.": "lora_unet_",
    "unet.": "lora_unet_",
    "text_encoder.": "lora_te_",
}
LEAVES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
}
KOHYA = re.compile(r"(lora_(?:unet|te)_\w+?)\.(.+)")
DOTTED = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, LEAVES))}|alpha)")
PROCESSOR = re.compile(r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
BLOCK = re.compile(r"lora_unet_(?:(down|up)_blocks_(\d+)|(mid)_block)_")
RANK_LIMIT = 1e-12
"""Singular values below this share of the largest are rounding."""


def read_tensors(path: Path) -> dict[str, Array]:
    """Return the floats of a safetensors file by key, in float64."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for key, entry in header.items():
        if key != "__metadata__":
            start, end = entry["data_offsets"]
            tensors[key] = _floats(content[8 + length + start : 8 + length + end], entry["dtype"]).reshape(
                entry["shape"]
            )
    return tensors


def _floats(content: bytes, dtype: str) -> Array:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}[dtype]).astype(np.float64)


def modules(path: Path) -> dict[str, dict[str, Array]]:
    """Return the leaves of each module by kohya's name, with the alphas of a PEFT config beside the file."""
    found: dict[str, dict[str, Array]] = {}
    for key, tensor in read_tensors(path).items():
        name, leaf = _split(key)
        found.setdefault(name, {})[leaf] = tensor
    config = path.parent / "adapter_config.json"
    if config.is_file():
        alpha = json.loads(config.read_text())["lora_alpha"]
        for leaves in found.values():
            leaves.setdefault("alpha", np.array(float(alpha)))
    return found


def _split(key: str) -> tuple[str, str]:
    """Return kohya's name of a module and kohya's leaf."""
    if match := KOHYA.fullmatch(key):
        return match[1], match[2]
    if match := PROCESSOR.fullmatch(key):
        layer = "to_out.0" if match[2] == "to_out" else match[2]
        return _kohya(f"{match[1]}.{layer}"), f"lora_{match[3]}.weight"
    if match := DOTTED.fullmatch(key):
        return _kohya(match[1]), LEAVES.get(match[2], match[2])
    raise ValueError(f"no dialect that this implementation knows has the key {key}")


def _kohya(path: str) -> str:
    prefix = next(prefix for prefix in (*PREFIXES, "") if path.startswith(prefix))
    return PREFIXES.get(prefix, "lora_unet_") + path.removeprefix(prefix).replace(".", "_")


def deltas(path: Path, base: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Return the delta of every module as a matrix, by kohya's name; `base` has the weights of DoRA, GLoRA and OFT."""
    return {name: delta(leaves, None if base is None else base[name]) for name, leaves in modules(path).items()}


def delta(leaves: Mapping[str, Array], weight: Array | None = None) -> Array:
    """Return the delta of one module as a matrix, from its leaves, and from the base weight where it needs that."""
    if "oft_blocks" in leaves:
        assert weight is not None
        return _rotated(leaves, flat(weight)) - flat(weight)
    if "a1.weight" in leaves:
        assert weight is not None
        a1, a2, b1, b2 = (flat(leaves[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
        scale = _scale(leaves, a2.shape[0])
        kernel = weight.reshape(*weight.shape[:2], -1)
        multiplied: Array = np.einsum("oik,ir,rj->ojk", kernel, a1, a2)
        return scale * (multiplied.reshape(len(weight), -1) + b1 @ b2)
    change = _plain(leaves)
    if "dora_scale" not in leaves:
        return change
    assert weight is not None
    changed = (flat(weight) + change).reshape(weight.shape)
    magnitude = leaves["dora_scale"]
    by_row = len(magnitude) == len(weight)
    moved = changed if by_row else changed.swapaxes(0, 1)
    lengths = np.sqrt((moved.reshape(len(moved), -1) ** 2).sum(axis=1)) + float(np.finfo(np.float32).eps)
    moved = moved * (magnitude.ravel() / lengths).reshape(-1, *(1 for _ in moved.shape[1:]))
    return flat(moved if by_row else moved.swapaxes(0, 1)) - flat(weight)


def _plain(leaves: Mapping[str, Array]) -> Array:
    """Return the delta of an algorithm that does not need the base weight."""
    if "diff" in leaves:
        return flat(leaves["diff"])
    if "hada_w1_a" in leaves:
        first, second = (_product(leaves, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in "12")
        return np.asarray(flat(first * second) * _scale(leaves, leaves["hada_w1_b"].shape[0]), np.float64)
    if any(leaf.startswith("lokr") for leaf in leaves):
        first, second = (
            leaves[f"lokr_w{n}"]
            if f"lokr_w{n}" in leaves
            else _product(leaves, f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")
            for n in "12"
        )
        low = [leaves[leaf].shape[0] for leaf in ("lokr_w2_b", "lokr_w1_b") if leaf in leaves]
        return np.asarray(np.kron(flat(first), flat(second)) * (_scale(leaves, low[0]) if low else 1.0), np.float64)
    down = leaves["lora_down.weight"]
    rank, up = len(down), flat(leaves["lora_up.weight"])
    core = leaves.get("lora_mid.weight")
    inner = flat(down) if core is None else flat(np.einsum("abhw,bi->aihw", core, flat(down)))
    return np.asarray(_scale(leaves, rank) * (up @ inner), np.float64)


def _product(leaves: Mapping[str, Array], a: str, b: str, core: str) -> Array:
    """Return one of the matrices of LoHa and LoKr: `a b`, or with a core the Tucker product of all three."""
    if core not in leaves:
        return leaves[a] @ flat(leaves[b])
    product: Array = np.einsum("pqhw,po,qi->oihw", leaves[core], leaves[a], flat(leaves[b]))
    return product


def _rotated(leaves: Mapping[str, Array], weight: Array) -> Array:
    """Return a weight that OFT (blocks `(n, b, b)`) or BOFT (`(stages, n, b, b)`) has rotated."""
    blocks = leaves["oft_blocks"]
    out = len(weight)
    skew = blocks - np.swapaxes(blocks, -1, -2)
    limit = float(leaves["alpha"]) * out if "alpha" in leaves else 0.0
    norm = math.sqrt(float((skew**2).sum())) + 1e-8
    skew = skew * (limit / norm if 0 < limit < norm else 1.0)
    eye = np.eye(blocks.shape[-1])
    turns = (eye + skew) @ np.linalg.inv(eye - skew)
    for stage in range(len(turns) if turns.ndim == 4 else 1):
        own = turns[stage] if turns.ndim == 4 else turns
        # Stage s of BOFT rotates rows together that lie 2^s b / 2 apart; OFT rotates rows that lie side by side.
        half = 2**stage * own.shape[-1] // 2 if turns.ndim == 4 else 0
        order = np.arange(out) if not half else np.arange(out).reshape(-1, 2, half).transpose(0, 2, 1).ravel()
        whole = np.zeros((out, out))
        size = own.shape[-1]
        for number, block in enumerate(own):
            rows = order[number * size : (number + 1) * size]
            whole[np.ix_(rows, rows)] = block if half else block.T  # LyCORIS transposes the blocks of OFT alone
        weight = whole @ weight
    return weight * leaves["rescale"].reshape(-1, 1) if "rescale" in leaves else weight


def _scale(leaves: Mapping[str, Array], rank: int) -> float:
    return float(leaves["alpha"].ravel()[0]) / rank if "alpha" in leaves else 1.0


def flat(array: Array) -> Array:
    """Return an array as a matrix, with all dimensions after the first flattened."""
    return array.reshape(len(array), -1)


@dataclass(frozen=True)
class Decomposed:
    """A delta and its singular vectors: `left` `(out, rank)`, `values` `(rank,)`, `right` `(in, rank)`."""

    delta: Array
    left: Array
    values: Array
    right: Array


def decomposed(matrix: Array) -> Decomposed:
    """Return a matrix with its singular vectors, without those that are rounding."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(values > RANK_LIMIT * values[0])) if values.size else 0
    return Decomposed(matrix, left[:, :rank], values[:rank], right[:rank].T)


def block_of(name: str) -> str:
    """Return the block of a module of Stable Diffusion 1 or 2: `te`, `in0`.., `mid`, `out0`.., `rest`."""
    if name.startswith("lora_te_"):
        return "te"
    match = BLOCK.match(name)
    if match is None:
        return "rest"
    return "mid" if match[3] else f"{'in' if match[1] == 'down' else 'out'}{match[2]}"


Table: TypeAlias = dict[str, dict[str, float]]
"""Group (a block, or `all`) -> measure -> value."""


def conflict_table(a: Mapping[str, Array], b: Mapping[str, Array]) -> Table:
    """Return the measures of the conflict of two adapters, given as their deltas, for every block and for all.

    A group without a module that both change has only its energies, and a cosine of 0.
    """
    singular = [{name: decomposed(matrix) for name, matrix in of.items() if name in a and name in b} for of in (a, b)]
    names = [*a, *(name for name in b if name not in a)]
    groups: dict[str, list[str]] = {"all": names}
    for name in names:
        groups.setdefault(block_of(name), []).append(name)
    return {group: _measures(members, a, b, *singular) for group, members in groups.items()}


def _measures(
    names: Sequence[str],
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    singular_a: Mapping[str, Decomposed],
    singular_b: Mapping[str, Decomposed],
) -> dict[str, float]:
    total_a, total_b = (sum(float((matrix**2).sum()) for matrix in of.values()) for of in (a, b))
    energy_a, energy_b = (sum(float((of[name] ** 2).sum()) for name in names if name in of) for of in (a, b))
    measures = {"energy_share_a": energy_a / total_a, "energy_share_b": energy_b / total_b}
    shared = [name for name in names if name in a and name in b]
    measures["shared"] = float(len(shared))
    if not shared:
        return measures
    pairs = [(singular_a[name], singular_b[name]) for name in shared]
    norms = math.sqrt(sum((x.delta**2).sum() for x, _ in pairs) * sum((y.delta**2).sum() for _, y in pairs))
    measures["cosine"] = sum(float((x.delta * y.delta).sum()) for x, y in pairs) / norms
    spread = sum(float((x.delta**2).sum() * (y.delta**2).sum()) / x.delta.size for x, y in pairs)
    measures["cosine_random_sd"] = math.sqrt(spread) / norms
    for name, side, axis in (("out_overlap", "left", 0), ("in_overlap", "right", 1)):
        bases = [(getattr(x, side), getattr(y, side), x.delta.shape[axis]) for x, y in pairs]
        directions = sum(float(((u.T @ v) ** 2).sum()) for u, v, _ in bases)
        measures[name] = directions / sum(u.shape[1] * v.shape[1] / width for u, v, width in bases)
    cosines = [np.linalg.norm(x.left.T @ y.left, 2) for x, y in pairs]
    measures["smallest_angle"] = math.degrees(math.acos(min(1.0, float(max(cosines)))))
    signs = [np.sign(x.delta) * np.sign(y.delta) for x, y in pairs]
    opposed = sum(int((sign < 0).sum()) for sign in signs)
    measures["sign_conflict"] = opposed / sum(int((sign != 0).sum()) for sign in signs)
    return measures


def truncated(matrix: Array, rank: int) -> Array:
    """Return the nearest matrix of a rank (Eckart and Young 1936)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((left[:, :rank] * values[:rank]) @ right[:rank], np.float64)


def ties(matrices: Sequence[Array], density: float) -> Array:
    """Return the TIES merge (arXiv 2306.01708, section 4), entry by entry."""
    trimmed = []
    for matrix in matrices:
        kept = np.zeros(matrix.size)
        largest = np.argsort(-np.abs(matrix), axis=None, kind="stable")[: max(1, round(density * matrix.size))]
        kept[largest] = matrix.ravel()[largest]
        trimmed.append(kept)
    merged = np.zeros(matrices[0].size)
    for place in range(merged.size):
        entries = [kept[place] for kept in trimmed if kept[place]]
        sign = math.copysign(1.0, sum(entries)) if sum(entries) else 0.0
        agreeing = [entry for entry in entries if entry * sign > 0]
        merged[place] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged.reshape(matrices[0].shape)
