"""The built-in writers; light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bwlab.registry import FormatWriter

if TYPE_CHECKING:
    from pathlib import Path

    from bwlab.formats.contents import AdapterContents
    from bwlab.formats.module_weights import ModuleWeights


def _anything(module: ModuleWeights) -> bool:
    return True


def _plain_lora(module: ModuleWeights) -> bool:
    from bwlab.formats.writers.peft import expresses

    return expresses(module)


def _kohya(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.writers.kohya import write_kohya

    write_kohya(contents, path, dtype)


def _ldm(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.writers.kohya import write_ldm

    write_ldm(contents, path, dtype)


def _diffusers(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.writers.peft import write_diffusers

    write_diffusers(contents, path, dtype)


def _peft(contents: AdapterContents, path: Path, dtype: str | None) -> None:
    from bwlab.formats.writers.peft import write_peft

    write_peft(contents, path, dtype)


BUILT_IN = (
    FormatWriter(
        "kohya", "kohya's keys; A1111, Forge, ComfyUI, kohya's trainer and diffusers read it", _anything, _kohya
    ),
    FormatWriter(
        "ldm", "kohya's keys with the original code's names, as kohya's trainer has them for SDXL", _anything, _ldm
    ),
    FormatWriter("diffusers", "one file as save_lora_weights writes it; LoRA and LoCon only", _plain_lora, _diffusers),
    FormatWriter(
        "peft", "a folder with PEFT's own for each model; LoRA and LoCon only", _plain_lora, _peft, folder=True
    ),
)
