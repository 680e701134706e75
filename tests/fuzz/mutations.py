"""Changes of files: each takes a file and a source of choices, and returns a file that is broken in one more way."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.raw import WIDTHS, RawFile, RawTensor, copied

DTYPES = (*WIDTHS, "F8_E5M2", "F4", "C64", "", "f32")
SIZES = (0, 1, 2, 3, 5, 64, 320, 4096, 10**5, 10**9, 2**31, 2**63 - 1, 2**64, 10**30, -1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-40, 65504.0, 1e30, 3e38, 1e200, 1.7e308)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "1e400",
    "9" * 400,
    "9" * 5000,
    "\x1b]0;owned\x07",
    "a\nbwlab: error: forged",
    "\u202egnp",
    "\ud800",
    "[red]bold[/red]",
    "[/]",
    "<script>alert(1)</script>",
    "../../outside",
    "/etc/passwd",
    "NUL\x00",
    "x" * 100_000,
    "None",
    "{}",
    "[]",
    "null",
    "true",
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": 1, "a": 2}',
)
JSON_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1.5, 10**400, "text", [], {}, [[[]]], {"a": {"b": []}}, [0] * 70)
LEAVES = (
    "alpha", "lora_down.weight", "lora_up.weight", "lora_mid.weight", "dora_scale", "hada_w1_a", "lokr_w1", "lokr_w2_b",
    "oft_blocks", "oft_diag", "diff", "diff_b", "scalar", "magnitude", "w_norm", "on_input", "a1.weight", "weight",
)  # fmt: skip
NAMES = (
    "lora_unet_input_blocks_0_0_op",
    "lora_unet_down_blocks_99_attentions_0_proj_in",
    "lora_te_text_model_encoder_layers_99_mlp_fc1",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    "unet.down_blocks.0.attentions.0.proj_in",
    "transformer.single_transformer_blocks.0.attn.to_q",
    "diffusion_model.double_blocks.0.img_attn.qkv",
    "lora_unet_double_blocks_0_img_attn_qkv",
    "base_model.model.unet.mid_block.attentions.0.proj_in",
    "..",
    "a/b",
)

Mutation = Callable[[RawFile, Random], RawFile]


def _key(file: RawFile, random: Random) -> str | None:
    return random.choice(list(file.tensors)) if file.tensors else None


def _on_tensor(change: Callable[[RawTensor, Random], RawTensor]) -> Mutation:
    def mutation(file: RawFile, random: Random) -> RawFile:
        changed, key = copied(file), _key(file, random)
        if key is not None:
            changed.tensors[key] = change(changed.tensors[key], random)
        return changed

    mutation.__name__ = change.__name__
    return mutation


def numbers(tensor: RawTensor, random: Random) -> RawTensor:
    """Return the tensor with one or all of its numbers replaced by an extreme one."""
    code = {"F64": "d", "F32": "f", "F16": "e"}.get(tensor.dtype)
    if code is None or not tensor.data:
        return flipped_bits(tensor, random)
    value = random.choice(FLOATS + NOT_FINITE)
    try:
        encoded = struct.pack(f"<{code}", value)
    except OverflowError:
        encoded = struct.pack(f"<{code}", 1.0)
    if random.random() < 0.5:
        return RawTensor(tensor.dtype, tensor.shape, encoded * (len(tensor.data) // len(encoded)))
    at = random.randrange(len(tensor.data) // len(encoded)) * len(encoded)
    return RawTensor(tensor.dtype, tensor.shape, tensor.data[:at] + encoded + tensor.data[at + len(encoded) :])


def flipped_bits(tensor: RawTensor, random: Random) -> RawTensor:
    """Return the tensor with some bits of its numbers flipped."""
    data = bytearray(tensor.data)
    for _ in range(random.randint(1, 4) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return RawTensor(tensor.dtype, tensor.shape, bytes(data))


def another_dtype(tensor: RawTensor, random: Random) -> RawTensor:
    """Return the tensor with another dtype; the bytes fit or not."""
    changed = RawTensor(random.choice(DTYPES), tensor.shape, tensor.data)
    return changed.filled() if random.random() < 0.7 and _is_small(tensor.shape) else changed


def another_shape(tensor: RawTensor, random: Random) -> RawTensor:
    """Return the tensor in another shape, with the bytes for it where they are few."""
    shape = list(tensor.shape) if isinstance(tensor.shape, list) else []
    shape = [size if isinstance(size, int) else 3 for size in shape]
    way = random.randrange(7)
    if way == 0:
        shape = [*shape[::-1]]
    elif way == 1:
        shape = [*shape, *[1] * random.randint(1, 70)]
    elif way == 2:
        shape = []
    elif way == 3 and shape:
        shape[random.randrange(len(shape))] = random.choice(SIZES)
    elif way == 4 and shape:
        shape[random.randrange(len(shape))] += random.choice((-1, 1, 2))
    elif way == 5:
        shape = [len(tensor.data) // WIDTHS.get(tensor.dtype, 4)]
    else:
        shape = shape[: random.randint(0, len(shape))]
    changed = RawTensor(tensor.dtype, shape, tensor.data)
    return changed.filled() if _is_small(shape) else changed


def wild_shape(tensor: RawTensor, random: Random) -> RawTensor:
    """Return the tensor with a shape or offsets that the format forbids."""
    way = random.randrange(4)
    size = len(tensor.data)
    if way == 0:
        return RawTensor(tensor.dtype, random.choice(JSON_VALUES), tensor.data)
    if way == 1:
        return RawTensor(tensor.dtype, [random.choice((1.5, "3", None, True, [2]))], tensor.data)
    if way == 2:
        return RawTensor(tensor.dtype, [random.choice(SIZES)] * random.choice((1, 2, 5, 1000)), tensor.data)
    offsets = random.choice(([0, size + 1], [size, 0], [-4, size - 4], [0], [0, size, size], ["0", size], None, 7))
    return RawTensor(tensor.dtype, tensor.shape, tensor.data, offsets)


def _is_small(shape: object) -> bool:
    """Return whether a shape is one, and asks for so few bytes that they can be written."""
    if not isinstance(shape, list) or not all(isinstance(size, int) and 0 <= size < 10**5 for size in shape):
        return False
    return math.prod(shape) < 10**5


def removed_keys(file: RawFile, random: Random) -> RawFile:
    """Return the file without some of its tensors."""
    share = random.choice((0.1, 0.5, 1.0))
    kept = {key: tensor for key, tensor in file.tensors.items() if random.random() > share}
    return RawFile(kept, file.metadata)


def renamed_key(file: RawFile, random: Random) -> RawFile:
    """Return the file with another name or leaf in place of that of one key."""
    key = _key(file, random)
    if key is None:
        return file
    name, dot, leaf = key.partition(".")
    renamed = random.choice(
        (
            f"{name}.{random.choice(LEAVES)}",
            f"{random.choice(NAMES)}{dot}{leaf}",
            random.choice(TEXTS),
            f"{key}{random.choice(TEXTS[:20])}",
            key.replace("lora_unet", "lora_te"),
            key.replace("_0_", f"_{random.choice((-1, 7, 10**6))}_"),
        )
    )
    return RawFile({renamed if each == key else each: tensor for each, tensor in file.tensors.items()}, file.metadata)


def added_key(file: RawFile, random: Random) -> RawFile:
    """Return the file with one more leaf of a module, or of a module that it lacks."""
    changed, key = copied(file), _key(file, random)
    name = random.choice((key or "a.b").split(".")[:1] + list(NAMES))
    shape = random.choice(((), (1,), (3, 3), (61, 67), (2, 4, 4), (1, 1, 3, 3)))
    changed.tensors[f"{name}.{random.choice(LEAVES)}"] = RawTensor("F32", list(shape), b"").filled()
    return changed


def mixed(file: RawFile, random: Random) -> RawFile:
    """Return the file with the tensors of two keys exchanged."""
    changed = copied(file)
    if len(file.tensors) > 1:
        one, other = random.sample(list(file.tensors), 2)
        changed.tensors[one], changed.tensors[other] = changed.tensors[other], changed.tensors[one]
    return changed


def metadata(file: RawFile, random: Random) -> RawFile:
    """Return the file with another text in one entry of its metadata, or in a new one."""
    changed = copied(file)
    if not isinstance(changed.metadata, dict):
        return changed
    known = [
        *changed.metadata,
        "ss_tag_frequency",
        "ss_network_args",
        "ss_dataset_dirs",
        "bwlab.config",
        "lora_adapter_metadata",
    ]
    key = random.choice((random.choice(known), random.choice(TEXTS[:20])))
    changed.metadata[key] = random.choice((random.choice(TEXTS), json.dumps(random.choice(JSON_VALUES))))
    return changed


def wild_metadata(file: RawFile, random: Random) -> RawFile:
    """Return the file with metadata that the format forbids."""
    return RawFile(file.tensors, random.choice((*JSON_VALUES, {"a": 1}, {"a": None}, {"a": {"b": []}})))


def broken_header(file: RawFile, random: Random) -> RawFile:
    """Return the file with a header that is no header."""
    text = RawFile(file.tensors, file.metadata).to_bytes()
    length = int.from_bytes(text[:8], "little")
    header = text[8 : 8 + length]
    way = random.randrange(6)
    if way == 0:
        header = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    elif way == 1:
        header = header[: random.randint(0, len(header))]
    elif way == 2:
        at = random.randrange(max(len(header), 1))
        header = header[:at] + bytes([random.randrange(256)]) + header[at + 1 :]
    elif way == 3:
        header += b" " * random.randint(1, 9)
    elif way == 4:
        header = header[:-1] + b',"x":' + random.choice(TEXTS).encode("utf-8", "surrogatepass") + b"}"
    else:
        header = b'{"__metadata__":{"a":"' + b"x" * random.choice((10, 10**6)) + b'"},' + header[1:]
    return RawFile(file.tensors, file.metadata, header)


MUTATIONS: tuple[Mutation, ...] = (
    _on_tensor(numbers),
    _on_tensor(numbers),
    _on_tensor(flipped_bits),
    _on_tensor(another_dtype),
    _on_tensor(another_shape),
    _on_tensor(another_shape),
    _on_tensor(wild_shape),
    removed_keys,
    renamed_key,
    renamed_key,
    added_key,
    mixed,
    metadata,
    metadata,
    wild_metadata,
    broken_header,
)


def mutated(file: RawFile, random: Random) -> bytes:
    """Return the bytes of a file after one to four changes, sometimes cut short or with bytes changed."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        file = random.choice(MUTATIONS)(file, random)
        if file.header is not None:
            break
    content = file.to_bytes()
    return damaged(content, random) if random.random() < 0.05 else content


def damaged(content: bytes, random: Random) -> bytes:
    """Return bytes cut short, repeated, or with some of them changed."""
    way = random.randrange(4)
    if way == 0:
        return content[: random.randint(0, len(content))]
    if way == 1:
        return content + content[: random.randint(0, 100)]
    changed = bytearray(content)
    for _ in range(random.randint(1, 8) if changed else 0):
        changed[random.randrange(min(len(changed), 4000) if way == 2 else len(changed))] = random.randrange(256)
    return bytes(changed)


def mutated_text(text: str, random: Random) -> bytes:
    """Return a text after some changes: values replaced, lines lost or repeated, bytes damaged."""
    for _ in range(random.choice((1, 1, 2, 3))):
        lines = text.splitlines(keepends=True) or [""]
        at = random.randrange(len(lines))
        way = random.randrange(6)
        value = random.choice(
            (random.choice(TEXTS), json.dumps(random.choice(JSON_VALUES)), json.dumps(random.choice(TEXTS)))
        )
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif way == 2:
            lines.insert(at, value + "\n")
        elif way in (3, 4):
            mark = "=" if "=" in lines[at] else ":"
            head, found, _ = lines[at].partition(mark)
            lines[at] = f"{head}{found}{value}\n" if found else value
        else:
            start = random.randrange(max(len(lines[at]), 1))
            lines[at] = lines[at][:start] + random.choice(TEXTS[:20]) + lines[at][start:]
        text = "".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    return damaged(content, random) if random.random() < 0.15 else content
