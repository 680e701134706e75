"""Adapters of a plugin's family: saved, read, converted and merged under the family's own names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bwlab import hookimpl
from bwlab.adapters.adapter import create_adapter
from bwlab.adapters.save import save_adapter
from bwlab.blocks.configs import KNOWN
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import ALL, BlockScheme, Module
from bwlab.blocks.spec import parse_spec
from bwlab.cli import app as command_line
from bwlab.errors import BwlabError
from bwlab.formats.architecture import scheme_of
from bwlab.formats.own_scheme import NAMES_KEY, scheme_in
from bwlab.formats.read import read_contents
from bwlab.formats.safetensors import open_adapter_file
from bwlab.plugins.manager import build_manager
from tests.families import toy_family
from tests.families.commands import run

CONFIG = {"_class_name": "ToyDenoiser", "depth": 3}


@pytest.fixture(autouse=True)
def toy_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command find the plugin."""
    monkeypatch.setattr(command_line, "build_manager", lambda *given, **named: build_manager([toy_family]))


def saved(path: Path, spec: str = "toy1=2, toy2=1", denoiser: str = "transformer", kind: str = "lora") -> Path:
    """Save a random adapter for the toy model, whose scheme calls the denoiser so."""
    scheme = toy_family.find_toy(CONFIG)
    assert scheme is not None
    scheme = replace(scheme, denoiser=denoiser)
    ranks = parse_spec(spec, scheme, kind="rank")
    adapter_type = build_manager().adapter_type(kind)
    generator = torch.Generator().manual_seed(0)
    adapter = create_adapter(toy_family.ToyDenoiser(), adapter_type, ranks, None, scheme=scheme, generator=generator)
    for parameter in adapter.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    save_adapter(adapter, path)
    return path


class Known(toy_family.Toy):
    """A family for models that a built-in block scheme knows."""

    kinds = ("KnownPipeline",)

    def __init__(self, name: str) -> None:
        self.name = name

    def scheme(self, config: Mapping[str, object]) -> BlockScheme | None:
        """Return a scheme of one block for Lumina 2."""
        if config.get("_class_name") != KNOWN["lumina2"]["_class_name"]:
            return None
        return BlockScheme(self.name, (Module("layers", "own", "own"),), ((ALL, ("own",)),))


@pytest.mark.parametrize(("name", "blocks"), [("mine", {"own"}), ("lumina2", {"layer0", "layer1"})])
def test_the_scheme_of_a_family_comes_before_those_of_bwlab_of_other_names(name: str, blocks: set[str]) -> None:
    plugin = ModuleType("known")
    vars(plugin)["bwlab_register_model_families"] = hookimpl(lambda: [Known(name)])
    finders = build_manager([plugin]).block_schemes()
    assert blocks <= set(scheme_for(KNOWN["lumina2"], finders).blocks())
    assert scheme_for(KNOWN["flux"], finders).name == "flux"


@pytest.mark.parametrize("denoiser", ["transformer", "UNet", "toy denoiser"])
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_files_are_read_with_the_blocks_of_the_scheme(tmp_path: Path, denoiser: str, kind: str) -> None:
    file = saved(tmp_path / "a.safetensors", denoiser=denoiser, kind=kind)
    assert {key.partition(".")[0] for key in open_adapter_file(file).entries} == {"toy"}
    contents = read_contents(file, build_manager([toy_family]))
    scheme = scheme_of(contents.architecture, contents.shapes, contents.metadata)
    assert {path: scheme.block_of(path) for path in contents.modules} == {
        f"blocks.{number}.{layer}": f"toy{number}" for number in (1, 2) for layer in (0, 2)
    }
    assert scheme.name == "toy"


def test_spoilt_names_are_not_used(tmp_path: Path) -> None:
    metadata = dict(open_adapter_file(saved(tmp_path / "a.safetensors")).metadata)
    names = json.loads(metadata[NAMES_KEY])
    assert scheme_in(metadata, ["blocks.1.0", "enter"]) is not None
    assert scheme_in(metadata, ["elsewhere"]) is None
    for spoilt in (
        "",
        "[]",
        "{}",
        "[" * 10_000,
        json.dumps(names | {"modules": [["blocks.1", "toy1"]]}),
        json.dumps(names | {"modules": [["blocks.1", "\x1b[2J", "toy1"]]}),
        json.dumps(names | {"modules": [1, 2]}),
        json.dumps(names | {"parts": {}}),
        json.dumps(names | {"parts": {"all": ["nothing"]}}),
        json.dumps(names | {"denoiser": "a\nb"}),
    ):
        assert scheme_in(metadata | {NAMES_KEY: spoilt}, []) is None


def test_they_are_converted_and_merged_under_their_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path / "a.safetensors")
    run("convert", file, tmp_path / "half.safetensors", "--to", "toy", "--blocks", "toy1=0.5, *=1")
    run("merge", file, tmp_path / "half.safetensors", "--to", "toy", "--out", tmp_path / "both.safetensors")
    capsys.readouterr()
    manager = build_manager([toy_family])
    whole, both = (read_contents(one, manager) for one in (file, tmp_path / "both.safetensors"))
    assert whole.modules.keys() == both.modules.keys()
    run("inspect", tmp_path / "both.safetensors", "--json")
    assert {block["name"] for block in json.loads(capsys.readouterr().out)["files"][0]["blocks"]} == {"toy1", "toy2"}
    for form in ("kohya", "ldm", "comfyui"):
        with pytest.raises(SystemExit) as ended:
            command_line.main(["convert", str(file), str(tmp_path / "other.safetensors"), "--to", form])
        assert ended.value.code == 2
        assert "Give --to toy, or --to diffusers" in capsys.readouterr().err


def test_text_encoders_need_no_name_in_the_scheme() -> None:
    scheme = toy_family.find_toy(CONFIG)
    assert scheme is not None
    encoder = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    ranks = parse_spec("all=1", scheme, kind="rank")
    given = toy_family.ToyDenoiser(), build_manager().adapter_type("lora"), ranks, None
    assert set(create_adapter(*given, scheme=scheme, text_encoder=encoder).blocks()) == {"toy0", "toy1", "toy2"}


def test_options_that_a_type_cannot_use_end_in_one_line() -> None:
    scheme = toy_family.find_toy(CONFIG)
    assert scheme is not None
    ranks, lora = parse_spec("all=1", scheme, kind="rank"), build_manager().adapter_type("lora")

    def load() -> type:
        class Seeded(lora.load()):  # type: ignore[misc]
            @classmethod
            def create(cls, layer, rank, alpha, generator, **options):  # type: ignore[no-untyped-def]
                int(options["seed"])
                return super().create(layer, rank, alpha, generator)

        return Seeded

    seeded = replace(lora, name="seeded", load=load, options=("seed",))
    with pytest.raises(BwlabError, match=r"adapter\.options\.seed = 'x': seeded refuses them: invalid literal"):
        create_adapter(toy_family.ToyDenoiser(), seeded, ranks, None, scheme=scheme, options={"seed": "x"})
    create_adapter(toy_family.ToyDenoiser(), seeded, ranks, None, scheme=scheme, options={"seed": "3"})
