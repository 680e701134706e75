"""`bwlab doctor`: whether this installation works on this machine."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bwlab.errors import BwlabError, first_line
from bwlab.terminal import echo

if TYPE_CHECKING:
    from bwlab.plugins.manager import PluginManager

State = Literal["ok", "warning", "broken"]
STEPS = 2
"""Steps of the self-test's training and of its sampling."""
MARKS = {"ok": "ok", "warning": "warning", "broken": "BROKEN"}


@dataclass(frozen=True)
class Finding:
    """What was found about one part of the installation.

    Attributes:
        part: name of the part.
        found: what was found, in one line.
        state: whether it works; a warning names what is missing for some commands.
        fix: what to do; empty if nothing.

    """

    part: str
    found: str
    state: State = "ok"
    fix: str = ""


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the self-test of some 10 seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, devices, caches and plugins, and train and generate a little on the embedded base.

    The exit code is 1 if something is broken.
    """
    from bwlab.plugins.manager import installed_manager

    findings = []
    for finding in examine(installed_manager(), self_test=not quick):
        findings.append(finding)
        if not as_json:
            line = f"{MARKS[finding.state]:8} {finding.part}: {finding.found}"
            echo(f"{line}. {finding.fix}" if finding.fix else line)
    if as_json:
        echo(json.dumps([asdict(finding) for finding in findings], indent=2), exact=True)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def examine(manager: PluginManager, self_test: bool = True) -> Iterator[Finding]:
    """Yield a finding for each part of the installation, as they are found."""
    yield from _versions()
    yield _checked("device", _device)
    yield _cache()
    yield from _plugins(manager)
    yield from _bases()
    if self_test:
        yield _self_test(manager)


def _checked(name: str, find: Callable[[], Finding]) -> Finding:
    """Return a finding, or that the part is broken: what is missing may raise anything."""
    try:
        return find()
    except Exception as error:
        return Finding(name, f"{type(error).__name__}: {first_line(error)}", "broken", "Install PyTorch again")


def _versions() -> Iterator[Finding]:
    from bwlab.cli.app import versions

    for line in versions():
        name, _, version = line.partition(" ")
        missing = version == "is not installed"
        yield Finding(name, version, "broken", f"Install it: pip install {name}") if missing else Finding(name, version)


def _device() -> Finding:
    import torch

    from bwlab.base.device import chosen_device, gpu_multiplies_bf16

    name = chosen_device()
    if name == "cuda":
        properties = torch.cuda.get_device_properties(0)
        half = "bfloat16" if gpu_multiplies_bf16() else "float16"
        others = f", and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        return Finding("device", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB{others}; trains in {half}")
    what = "Apple's GPU (mps)" if name == "mps" else f"CPU, {torch.get_num_threads()} threads"
    return Finding("device", f"{what}; trains in float32, large models in bfloat16 where the CPU multiplies it")


def _cache() -> Finding:
    from bwlab.files import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"bwlab")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        fix = "Name another folder in the environment variable BWLAB_CACHE"
        return Finding("cache", f"{folder}: {error.strerror or error}", "broken", fix)
    return Finding("cache", f"{folder}, {size / 1e6:,.1f} MB")


def _plugins(manager: PluginManager) -> Iterator[Finding]:
    names = ", ".join(record.name for record in manager.loaded)
    yield Finding("plugins", f"{len(manager.loaded)} are loaded: {names}")
    for record in manager.failed:
        fix = "Repair or uninstall it; bwlab --debug plugins shows where it failed"
        yield Finding(f"plugin {record.name}", f"of {record.source}: {record.error}", "broken", fix)
    for clash in manager.clashes:
        yield Finding(clash.asked, clash.found, "warning", clash.fix)


def _bases() -> Iterator[Finding]:
    from bwlab.base.names import EMBEDDED_FOLDERS, base_path

    for name in EMBEDDED_FOLDERS:
        try:
            yield Finding(f"base {name}", str(base_path(name)))
        except BwlabError as error:
            yield Finding(f"base {name}", error.found, "warning", error.fix)


def _self_test(manager: PluginManager) -> Finding:
    """Train an adapter, save it, load it and generate with it; all in a temporary folder."""
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="bwlab-doctor-") as folder:
            changed = _trained_and_used(Path(folder), manager)
    except Exception as error:  # Whatever is broken is what is looked for.
        fix = "bwlab --debug train with the same base shows where it failed"
        return Finding("self-test", f"{type(error).__name__}: {first_line(error)}", "broken", fix)
    seconds = time.perf_counter() - began
    if not changed:
        fix = "Please report it, with the output of bwlab doctor --json"
        return Finding("self-test", "an adapter was trained, and images with it are those of the base", "broken", fix)
    return Finding("self-test", f"trained, saved, loaded and generated in {seconds:.1f} s")


def _trained_and_used(folder: Path, manager: PluginManager) -> bool:
    """Return whether a trained adapter changes an image of the embedded base."""
    import io

    from rich.console import Console

    import bwlab
    from bwlab.benchmark import load_benchmark
    from bwlab.training import train
    from bwlab.training.run_folder import ExistingRun
    from bwlab.training.settings import read_config

    benchmark = load_benchmark()
    benchmark.write_dataset(folder / "data", benchmark.identity_pairs("fox"))
    sets = ("training.batch_size=2", "training.lr=0.01", "preview.enabled=false", "checkpoint.every=0")
    folders = (f"data.folder={folder / 'data'}", f"data.cache={folder / 'cache'}", f"out={folder / 'run'}")
    config = read_config(sets=[*sets, *folders, f"training.steps={STEPS}"])
    file = train(config, manager, Console(file=io.StringIO(), width=80), ExistingRun.REFUSE)
    pipe, prompt = bwlab.load_base(), benchmark.caption("fox", "flat")
    plain, adapted = (
        bwlab.generate(pipe, prompt, seeds=[0], steps=STEPS, adapters=adapters)[0] for adapters in ([], [file])
    )
    return plain.tobytes() != adapted.tobytes()
