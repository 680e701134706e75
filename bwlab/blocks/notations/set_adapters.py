"""Block scales as the dict that diffusers' `pipe.set_adapters(name, dict)` takes.

diffusers reads such a dict for transformers only. Everything else gets a scale by rules that its users rarely expect
(measured with 0.42.1; `set_weights_and_activate_adapters` in utils/peft_utils.py): a resnet follows the transformer
beside it, a resampler follows the first transformer of its block, and convolutions of blocks without transformers, and
of the mid block, stay at 1. So a LoRA is scaled as asked and a LoCon is not; what differs is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from bwlab.blocks.notations.lists import Translation
from bwlab.blocks.scheme import BlockScheme, short_names
from bwlab.blocks.spec import BlockSpec, number_text, parse_number, spec_from_values
from bwlab.errors import BwlabError
from bwlab.text import parse_json

TRANSFORMER = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)")
FOLLOWER = re.compile(r"((?:down|up)_blocks\.\d+)\.(?:resnets|downsamplers|upsamplers)\.(\d+)")
ENCODERS = {"te": "text_encoder", "te2": "text_encoder_2"}
UNTOUCHED = 1.0

Transformers = dict[str, dict[int, list[str]]]


def to_set_adapters(spec: BlockSpec) -> Translation:
    """Return the dict as JSON, with a note on the modules that diffusers will scale otherwise.

    Raises:
        BwlabError: the model has no transformers that bwlab knows.

    """
    scales = as_dict(spec)
    again = from_dict(scales, spec.scheme)
    other = [module for module in spec.scheme.modules if again[module.path] != spec.values[module.path]]
    names = ", ".join(short_names(spec.scheme, other))
    note = f"diffusers gives the convolutions of {names} other scales: use it with LoRA files, which have none"
    return Translation(json.dumps(scales), (note,) if other else ())


def as_dict(spec: BlockSpec) -> dict[str, object]:
    """Return the dict: `{"text_encoder": 1.0, "unet": {"down": {"block_0": [1.0, 0.5]}, "mid": 1.0, "up": {}}}`."""
    transformers = _transformers(spec.scheme)
    unet: dict[str, object] = {}
    for side in ("down", "up"):
        levels = transformers[side].items()
        unet[side] = {f"block_{level}": _shortest([spec.values[path] for path in paths]) for level, paths in levels}
        if side == "down":
            unet["mid"] = spec.values["mid_block.attentions.0"]
    encoders = {key: spec.values[path] for path, key in ENCODERS.items() if path in spec.values}
    return {**encoders, "unet": unet}


def from_set_adapters(text: str, scheme: BlockScheme) -> BlockSpec:
    """Return the spec that scales every layer as diffusers does with this dict, given as JSON.

    Raises:
        BwlabError: it is no such dict, or has a key that diffusers ignores or refuses.

    """
    try:
        scales = parse_json(text)
    except ValueError as error:
        raise _bad(text, f"it is no JSON ({error})") from None
    return spec_from_values(from_dict(scales, scheme), scheme, "scale")


def from_dict(scales: object, scheme: BlockScheme) -> dict[str, float]:
    """Return the scale that diffusers gives each module, by path; `BwlabError` if the dict is none of its kind."""
    if not isinstance(scales, Mapping):
        raise _bad(scales, "it is no dict")
    encoders = {path: key for path, key in ENCODERS.items() if any(m.path == path for m in scheme.modules)}
    _only(scales, ("unet", *encoders.values()), "")
    transformers = _unet_scales(scales.get("unet", UNTOUCHED), scheme)
    given = {path: _number(scales.get(key, UNTOUCHED), key) for path, key in encoders.items()}
    if not isinstance(transformers, dict):
        return {module.path: given.get(module.path, transformers) for module in scheme.modules}
    given |= transformers
    return {module.path: given.get(module.path, _followed(module.path, transformers)) for module in scheme.modules}


def _followed(path: str, transformers: Mapping[str, float]) -> float:
    follower = FOLLOWER.fullmatch(path)
    leader = f"{follower[1]}.attentions.{follower[2]}" if follower else ""
    return transformers.get(leader, UNTOUCHED)


def _unet_scales(scales: object, scheme: BlockScheme) -> float | dict[str, float]:
    """One number for all, or the number of each transformer by its path."""
    if not isinstance(scales, Mapping):
        return _number(scales, "unet")
    _only(scales, ("down", "mid", "up"), "unet: ")
    values = {"mid_block.attentions.0": _number(_alone(scales.get("mid", UNTOUCHED)), "mid")}
    for side, levels in _transformers(scheme).items():
        values |= _side_scales(side, scales.get(side, UNTOUCHED), levels)
    return values


def _side_scales(side: str, scales: object, levels: Mapping[int, list[str]]) -> dict[str, float]:
    blocks = scales if isinstance(scales, Mapping) else {f"block_{level}": scales for level in levels}
    _only(blocks, tuple(f"block_{level}" for level in levels), f"unet: {side}: ")
    values: dict[str, float] = {}
    for level, paths in levels.items():
        where = f"{side}: block_{level}"
        given = blocks.get(f"block_{level}", UNTOUCHED)
        numbers = given if isinstance(given, list) and len(given) > 1 else [_alone(given)] * len(paths)
        if len(numbers) != len(paths):
            raise _bad(given, f"{where} has {len(numbers)} numbers for {len(paths)} transformers")
        values |= {path: _number(number, where) for path, number in zip(paths, numbers, strict=True)}
    return values


def _transformers(scheme: BlockScheme) -> Transformers:
    paths: Transformers = {"down": {}, "up": {}}
    for module in scheme.modules:
        match = TRANSFORMER.fullmatch(module.path)
        if match is not None and match[1]:
            paths[match[1]].setdefault(int(match[2]), []).append(module.path)
    if not (paths["down"] and paths["up"]):
        raise _bad(scheme.name, "diffusers has no scales per block for such a model")
    return paths


def _shortest(numbers: list[float]) -> float | list[float]:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _alone(given: object) -> object:
    return given[0] if isinstance(given, list) and len(given) == 1 else given


def _number(given: object, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise _bad(given, f"{where} is no number")
    text = number_text(float(given)) if abs(given) < float("inf") else str(given)
    return parse_number(text, "scale", where)


def _only(scales: Mapping[object, object], known: tuple[str, ...], where: str) -> None:
    for key in scales:
        if key not in known:
            raise _bad(scales, f"{where}diffusers ignores or refuses {key!r}; it has {', '.join(known)}")


def _bad(given: object, found: str) -> BwlabError:
    shown = given if isinstance(given, str) else repr(given)
    return BwlabError(
        f"set_adapters dict {shown[:80]}",
        found,
        'Give JSON such as {"unet": {"down": 0.5, "mid": 1, "up": {"block_1": [1, 0, 1]}}}',
    )
