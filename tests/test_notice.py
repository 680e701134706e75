"""NOTICE names the source and the licence of every picture that ships, and no weight or image ships unseen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
DATA = ROOT / "bwlab" / "data"
SOURCES = {
    (style["package"].removeprefix("@iconify-json/"), style["licence"])
    for style in json.loads((DATA / "benchmark" / "manifest.json").read_text(encoding="utf-8"))["styles"]
}
WEIGHTS = {
    "emoji_base/text_encoder/model.safetensors",
    "emoji_base/unet/diffusion_pytorch_model.safetensors",
    "emoji_base/vae/diffusion_pytorch_model.safetensors",
    "emoji_dit/text_encoder/model.safetensors",
    "emoji_dit/text_encoder_2/model.safetensors",
    "emoji_dit/transformer/diffusion_pytorch_model.safetensors",
    "emoji_dit/vae/diffusion_pytorch_model.safetensors",
    "emoji_controlnet/diffusion_pytorch_model.safetensors",
    "emoji_scorer/open_clip_model.safetensors",
}
TEXT = {".json", ".txt"}


def stated() -> dict[str, str]:
    """Return what NOTICE says of each set of drawings, in one line."""
    listed = NOTICE[NOTICE.index("64 x 64 pixels:") : NOTICE.index("The pictures in bwlab/data")]
    entries: list[tuple[str, str]] = []
    for line in listed.splitlines()[2:]:
        left, right = line[:31].strip(), line[31:].strip()
        if not entries or (left and not entries[-1][0].endswith(",")):
            entries.append((left, right))
        else:
            entries[-1] = (f"{entries[-1][0]} {left}".strip(), f"{entries[-1][1]} {right}")
    return {name: says for names, says in entries for name in re.split(r", *", names)}


@pytest.mark.parametrize(("package", "licence"), sorted(SOURCES))
def test_every_set_of_drawings_is_named_with_its_licence(package: str, licence: str) -> None:
    says = re.sub(r"[ -]|License", "", stated()[package])
    assert licence.replace("-", "") in says
    assert "https://" in stated()[package]


def test_nothing_ships_but_pictures_of_the_manifest_and_weights_of_ours() -> None:
    shipped = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    pictures = {name for name in shipped if name.startswith("benchmark/pictures/") and name.endswith(".png")}
    others = {name for name in shipped - pictures if Path(name).suffix not in TEXT and "__pycache__" not in name}
    assert others == WEIGHTS
    assert len(pictures) > 500


def test_no_config_names_a_folder_of_the_machine_it_was_made_on() -> None:
    configs = {path: json.loads(path.read_text(encoding="utf-8")) for path in DATA.rglob("*config.json")}
    assert len(configs) > 10
    assert [path for path, config in configs.items() if config.get("_name_or_path")] == []


def test_the_text_of_licences_that_ask_for_it_is_there() -> None:
    assert "Permission is hereby granted, free of charge" in NOTICE
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "https://creativecommons.org/licenses/by/4.0/" in NOTICE
