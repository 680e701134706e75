"""The option `--adapter FILE:SPEC` of `bwlab generate`: an adapter file with its scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bwlab.blocks.spec import NOT_FINITE, NUMBER
from bwlab.errors import BwlabError
from bwlab.files import exists, is_file
from bwlab.terminal import counted


def adapters_with_scales(texts: Sequence[str], scales: Sequence[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the adapter files and their scales.

    Args:
        texts: the values of `--adapter`, each `FILE` or `FILE:SPEC`.
        scales: the values of `--scale`, each for the adapter at the same position.

    Raises:
        BwlabError: an adapter has two scales, or there are more scales than adapters.

    """
    given = [split_adapter(text) for text in texts]
    if len(scales) > len(given):
        found = f"{counted(len(scales), 'scale')} for {counted(len(given), 'adapter')}"
        raise BwlabError("bwlab generate", found, "Give at most one --scale for each --adapter, in order")
    for (file, own), scale in zip(given, scales, strict=False):
        if own is not None:
            found = f"{file.name} at the same position has the scale {own} after its colon already"
            raise BwlabError(f"--scale {scale}", found, "Leave out --scale, and write every scale after its file")
    padded = [*scales, *["1"] * (len(given) - len(scales))]
    chosen = (scale if own is None else own for (_, own), scale in zip(given, padded, strict=True))
    return tuple(file for file, _ in given), tuple(chosen)


def split_adapter(text: str) -> tuple[Path, str | None]:
    """Return the file of `FILE` or `FILE:SPEC`, and the spec or None.

    A colon belongs to the name of a file that exists, and to the letter of a Windows drive. Where no file exists, the
    text after the last colon counts as a spec if it has the form of one.

    >>> [split_adapter(text)[1] for text in ("fox.safetensors:upper=1", "C:/fox.safetensors")]
    ['upper=1', None]
    """
    file, colon, spec = text.rpartition(":")
    if not colon or exists(Path(text)) or _is_drive(file, spec):
        return Path(text), None
    if not (is_file(Path(file)) or _looks_like_spec(spec)):
        return Path(text), None
    if not spec.strip():
        fix = "Write a scale or a block spec after the colon, as in fox.safetensors:0.8"
        raise BwlabError(f"--adapter {text}", "there is no scale after the colon", fix)
    return Path(file), spec.strip()


def _is_drive(file: str, rest: str) -> bool:
    return len(file) == 1 and file.isalpha() and (rest[:1] in ("/", "\\") or not is_file(Path(file)))


def _looks_like_spec(text: str) -> bool:
    number = text.strip()
    return bool(NUMBER.fullmatch(number) or NOT_FINITE.fullmatch(number)) or ("=" in text and "/" not in text)
