"""The ComfyUI nodes, called as ComfyUI calls them, on stand-ins of its models."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bwlab.errors import BwlabError, BwlabWarning
from bwlab.formats.keys import path_of
from bwlab.formats.read import read_contents
from tests.comfyui.stand_ins import SHAPES, TEXT, UNET, Patcher, new_patcher, put

FOLDER = Path(__file__).resolve().parents[2] / "plugins" / "bwlab_comfyui"
NAMES = UNET | TEXT


def write(path: Path, seed: int, kind: Callable[[tuple[int, ...], torch.Generator], Mapping[str, Tensor]]) -> None:
    """Write an adapter of all modules that the stand-ins know."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"{k}.{leaf}": t for k, name in NAMES.items() for leaf, t in kind(SHAPES[name], generator).items()}
    safetensors.torch.save_file(tensors, path)


def lora(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Return a LoRA of rank 2 and alpha 1."""
    out, inner, *kernel = shape
    down, up = torch.randn(2, inner, *kernel, generator=generator), torch.randn(out, 2, generator=generator)
    up = up.reshape(out, 2, *(1 for _ in kernel))
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}


def lokr(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Return a LoKr of two whole matrices."""
    out, inner, *kernel = shape
    second = torch.randn(out // 2, inner, *kernel, generator=generator)
    return {"lokr_w1": torch.randn(2, 1, generator=generator), "lokr_w2": second, "alpha": torch.tensor(1.0)}


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """Return a folder with an identity, a style and a LoKr."""
    folder = tmp_path / "loras"
    folder.mkdir()
    write(folder / "fox.safetensors", 0, lora)
    write(folder / "ink.safetensors", 1, lora)
    write(folder / "kron.safetensors", 2, lokr)
    return folder


def loaded(name: str) -> ModuleType:
    """Return the folder's module, loaded under a name that is no package of ours, as ComfyUI loads it."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


Call = Callable[..., tuple[Any, ...]]


@pytest.fixture(params=["older mapping", "V3 schema"])
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, loras: Path) -> Call:
    """Return a function that runs a node through one of the two interfaces."""
    v3 = request.param == "V3 schema"
    put(monkeypatch, loras, v3=v3)
    name = f"/custom nodes/bwlab_comfyui {request.param}"
    for part in ("", ".nodes", ".node", ".older", ".schema", ".patches"):
        monkeypatch.delitem(sys.modules, name + part, raising=False)
    module = loaded(name)

    def in_v3(node: str, **inputs: Any) -> tuple[Any, ...]:
        assert module.NODE_CLASS_MAPPINGS is None
        classes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
        known = {own.define_schema().node_id: own for own in classes}
        schema = known[node].define_schema()
        assert set(inputs) <= {entry.id for entry in schema.inputs}
        assert {entry.id for entry in schema.inputs if not entry.optional} <= set(inputs)
        result: tuple[Any, ...] = known[node].execute(**inputs).result
        assert len(result) == len(schema.outputs)
        return result

    def in_older(node: str, **inputs: Any) -> tuple[Any, ...]:
        own = module.NODE_CLASS_MAPPINGS[node]
        declared = own.INPUT_TYPES()
        assert set(declared["required"]) <= set(inputs) <= {*declared["required"], *declared["optional"]}
        result: tuple[Any, ...] = getattr(own(), own.FUNCTION)(**inputs)
        assert len(result) == len(own.RETURN_TYPES) == len(own.RETURN_NAMES) == len(own.OUTPUT_TOOLTIPS)
        return result

    return in_v3 if v3 else in_older


def changes(patcher: Patcher) -> dict[str, Tensor]:
    """Return the change of each weight that its patches make: strength times what the leaves mean."""
    found: dict[str, Tensor] = {}
    for name, patches in patcher.patches.items():
        for strength, leaves in patches:
            if "lora_up.weight" in leaves:
                up, down = leaves["lora_up.weight"].flatten(1), leaves["lora_down.weight"].flatten(1)
                delta = up @ down * (leaves["alpha"] / len(down))
            else:
                delta = torch.kron(leaves["lokr_w1"], leaves["lokr_w2"].flatten(1))
            change = strength * delta.reshape(patcher.weights[name].shape)
            found[name] = found.get(name, torch.zeros_like(change)) + change
    return found


def expected(file: Path, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Return bwlab's deltas by ComfyUI's name, times a scale by kohya's module name; without those of scale 0."""
    modules = read_contents(file).modules
    return {
        NAMES[name]: scale * torch.from_numpy(modules[path_of(name)].delta()).float()
        for name, scale in scales.items()
        if scale
    }


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(found[name], change.reshape(found[name].shape), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("file", ["fox.safetensors", "kron.safetensors"])
def test_an_adapter_is_loaded_with_its_scale_in_each_block(call: Call, loras: Path, file: str) -> None:
    model, clip = new_patcher(UNET), new_patcher(TEXT)
    new_model, new_clip = call(
        "BwlabLoadAdapter", model=model, clip=clip, adapter=file, scale="in0=0.5, mid=0, out3=-1.25, te=2"
    )
    scales = dict(zip(NAMES, (0.5, 0, 1, -1.25, 2), strict=True))
    assert_same(changes(new_model) | changes(new_clip), expected(loras / file, scales))
    assert model.patches == clip.patches == {}


def test_one_number_is_the_scale_of_all_and_adapters_add_up(call: Call, loras: Path) -> None:
    model, _ = call("BwlabLoadAdapter", model=new_patcher(UNET), adapter="fox.safetensors", scale="0.5")
    both, none = call("BwlabLoadAdapter", model=model, adapter="ink.safetensors", scale="1")
    assert none is None  # without text encoders, their modules are left out
    fox, ink = (
        expected(loras / f"{name}.safetensors", dict.fromkeys(UNET, scale))
        for name, scale in (("fox", 0.5), ("ink", 1.0))
    )
    assert_same(changes(both), {name: change + ink[name] for name, change in fox.items()})
    assert_same(changes(model), fox)


def test_files_of_other_dialects_get_names_that_comfyui_reads(call: Call, loras: Path) -> None:
    tensors = safetensors.torch.load_file(loras / "fox.safetensors")
    renamed = {
        f"unet.{path_of(name)}.{theirs}": tensors[f"{name}.{ours}"]
        for name in UNET
        for ours, theirs in (("lora_down.weight", "lora_A.weight"), ("lora_up.weight", "lora_B.weight"))
    }
    safetensors.torch.save_file(renamed, loras / "diffusers.safetensors")
    model, _ = call("BwlabLoadAdapter", model=new_patcher(UNET), adapter="diffusers.safetensors", scale="1")
    assert set(model.patches) == set(UNET.values())


def test_words_in_a_file_are_named_as_they_are_not_loaded(call: Call, loras: Path) -> None:
    tensors = safetensors.torch.load_file(loras / "fox.safetensors")
    tensors["bundle_emb.foxword.string_to_param.*"] = torch.zeros(1, 768)
    safetensors.torch.save_file(tensors, loras / "words.safetensors")
    with pytest.warns(BwlabWarning, match=r"words.safetensors: its words foxword are not loaded. To use them, write"):
        model, _ = call("BwlabLoadAdapter", model=new_patcher(UNET), adapter="words.safetensors", scale="1")
    assert set(model.patches) == set(UNET.values())


@pytest.mark.parametrize(
    ("scale", "says"), [("upper5=1", "upper5"), ("in0=x", "in0"), ("", "it is empty")], ids=["block", "number", "empty"]
)
def test_a_wrong_spec_says_what_is_wrong(call: Call, scale: str, says: str) -> None:
    with pytest.raises(BwlabError, match=says):
        call("BwlabLoadAdapter", model=new_patcher(UNET), adapter="fox.safetensors", scale=scale)


def test_a_file_with_unknown_keys_is_refused(call: Call, loras: Path) -> None:
    tensors = safetensors.torch.load_file(loras / "fox.safetensors")
    safetensors.torch.save_file(tensors | {"lora_unet_strange.thing": torch.ones(1)}, loras / "odd.safetensors")
    with pytest.raises(BwlabError, match="--drop-unknown"):
        call("BwlabLoadAdapter", model=new_patcher(UNET), adapter="odd.safetensors", scale="1")


def test_the_conflict_is_an_image_and_a_text(call: Call) -> None:
    image, text = call("BwlabConflict", first="fox.safetensors", second="ink.safetensors")
    assert image.dtype == torch.float32
    assert image.dim() == 4
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert len(image.flatten(0, 2).unique(dim=0)) > 10  # bars and text
    assert "fox" in text
    assert "out_overlap" in text or "out overlap" in text


def advice(**changed: Any) -> str:
    document = {
        "schema": "bwlab.analyze.recommend",
        "specs": {"identity": "mid=1.5, *=1", "style": "out3=1.2, *=0.7"},
        "schedules": {"identity": "", "style": ""},
        "verdict": "Leave both as they are.",
    }
    return json.dumps(document | changed)


@pytest.mark.parametrize("nested", [False, True])
def test_advised_scales_are_applied(call: Call, loras: Path, nested: bool) -> None:
    text = json.dumps({"schema": "bwlab.analyze.conflict", "advice": json.loads(advice())}) if nested else advice()
    model, _, said = call(
        "BwlabApplyAdvice",
        model=new_patcher(UNET),
        identity="fox.safetensors",
        style="ink.safetensors",
        advice=text,
    )
    fox = expected(loras / "fox.safetensors", dict(zip(UNET, (1, 1.5, 1, 1), strict=True)))
    ink = expected(loras / "ink.safetensors", dict(zip(UNET, (0.7, 0.7, 0.7, 1.2), strict=True)))
    assert_same(changes(model), {name: change + ink[name] for name, change in fox.items()})
    assert "style ink.safetensors: out3=1.2, *=0.7" in said
    assert "Leave both as they are." in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "recommend A B --json"),
        ("[]", "recommend A B --json"),
        (advice(schema="bwlab.analyze.norms"), r"schema is bwlab\.analyze\.norms"),
        (advice(schedules={"identity": "", "style": "0.4-1:1"}), r"style 0\.4-1:1"),
    ],
)
def test_other_advice_is_refused(call: Call, text: str, says: str) -> None:
    with pytest.raises(BwlabError, match=says):
        call(
            "BwlabApplyAdvice",
            model=new_patcher(UNET),
            identity="fox.safetensors",
            style="ink.safetensors",
            advice=text,
        )


def test_the_older_mapping_declares_files_and_texts(monkeypatch: pytest.MonkeyPatch, loras: Path) -> None:
    put(monkeypatch, loras, v3=False)
    module = loaded("/custom nodes/bwlab_comfyui declared")
    declared = module.NODE_CLASS_MAPPINGS["BwlabLoadAdapter"].INPUT_TYPES()
    assert declared["required"]["adapter"][0] == ["fox.safetensors", "ink.safetensors", "kron.safetensors"]
    assert declared["required"]["scale"] == ("STRING", {**declared["required"]["scale"][1], "default": "1"})
    assert declared["optional"]["clip"][0] == "CLIP"
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    assert {own.CATEGORY for own in module.NODE_CLASS_MAPPINGS.values()} == {"bwlab"}
