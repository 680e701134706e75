"""What a page hands out: adjusted adapter files, and the scales as text for bwlab, the web UIs and ComfyUI."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bwlab.adapters.names import RUN_FILE
from bwlab.blocks.notations.translate import translate_to
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import BlockSpec
from bwlab.errors import BwlabError
from bwlab.merging.convert import Conversion, convert
from bwlab.merging.output import Target
from bwlab.plugins.manager import PluginManager
from bwlab_analysis.report.advice import generate_words
from bwlab_analysis.report.block_map import is_of_unet
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.uploads import UNSAFE
from bwlab_ui.work import Json

NOTATIONS = {
    "lbw": "LoRA Block Weight",
    "a1111": "prompt tag",
    "diffusers": "diffusers' set_adapters",
}
LOADER = "BwlabLoadAdapter"
"""The node of plugins/bwlab_comfyui that loads an adapter with a block spec."""


def adapter_file(source: Path, scales: AdapterScales, scheme: BlockScheme, out: Path, manager: PluginManager) -> Path:
    """Write an adapter with its scales folded in, so that it acts at scale 1 as it does now, and return the file.

    Raises:
        BwlabError: every scale is 0, a schedule cannot be folded in, or the file cannot be converted.

    """
    if scales.schedule:
        fix = "Remove the schedule, or copy the bwlab generate line, which keeps it"
        raise BwlabError(f"exporting {source.name}", "its scales change over the steps, and a file's cannot", fix)
    spec = scales.spec(scheme).canonical()
    convert(Conversion(source, Target(out, overwrite=True), blocks=spec), manager)
    return out


def texts(
    base: str,
    files: Sequence[Path],
    names: Sequence[str],
    scales: Sequence[AdapterScales],
    settings: ImageSettings,
    scheme: BlockScheme,
    side: int,
    words: Mapping[Path, Sequence[str]] | None = None,
    uploads: Collection[Path] = (),
) -> Json:
    """Return the scales in every notation, as JSON: the lines and notes of each adapter, the command, and the workflow.

    The workflow is None for a transformer.

    Args:
        base, files, names, scales, settings: what the page shows.
        scheme: the blocks of the base.
        side: side of the images in pixels.
        words: the new words that a file holds.
        uploads: the files that were uploaded, and are deleted with the server.

    """
    specs = [scale.spec(scheme) for scale in scales]
    called = _file_names(files, names)
    given = [Path(file.name) if file in uploads else file for file in files]
    adapters: list[Json] = []
    for number, (name, file, spec, scale) in enumerate(zip(names, files, specs, scales, strict=True)):
        notes = _notes(given[number], called[number], scale.schedule, (words or {}).get(file, ()), file in uploads)
        adapters.append({"name": name, "lines": _lines(spec, Path(called[number]).stem), "notes": notes})
    return {
        "adapters": adapters,
        "command": command(base, given, specs, [scale.schedule for scale in scales], settings),
        "workflow": workflow(base, called, specs, settings, side) if is_of_unet(scheme.blocks()) else None,
    }


def _file_names(files: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return a different file name for each adapter: that of its file, or its own where several have the same.

    Runs call their files `adapter.safetensors`, so those are called by the name of the run.
    """
    known = Counter(file.name for file in files)
    own = [f"{UNSAFE.sub('_', name)}{file.suffix}" for name, file in zip(names, files, strict=True)]
    return [
        name if file.name == RUN_FILE or known[file.name] > 1 else file.name
        for name, file in zip(own, files, strict=True)
    ]


def _notes(file: Path, called: str, schedule: str, words: Sequence[str], uploaded: bool) -> list[str]:
    """Return what somebody has to know who uses the texts of an adapter elsewhere."""
    notes = []
    if schedule:
        notes.append(f"The schedule {schedule} is in the bwlab generate line only.")
    if words:
        notes.append(
            f"Its words {', '.join(words)} are in the original file only; bwlab convert writes them beside it."
        )
    if uploaded:
        notes.append(f"It was uploaded: in the bwlab generate line, give the path of your own {file.name}.")
    if called != file.name:
        notes.append(f"The prompt tag and the workflow call it {called}: give your copy of {file} this name.")
    return notes


def _lines(spec: BlockSpec, name: str) -> list[Json]:
    """Return each notation of a spec with its notes; where a notation cannot say it, the reason in place of a text."""
    canonical = spec.canonical()
    lines: list[Json] = [{"label": "block spec", "text": canonical, "notes": []}]
    for form, label in NOTATIONS.items():
        try:
            said = translate_to(form, canonical, spec.scheme, "scale", name)
            lines.append({"label": label, "text": said.text, "notes": list(said.notes)})
        except BwlabError as error:
            lines.append({"label": label, "text": None, "notes": [f"{error.found}. {error.fix}"]})
    return lines


def command(
    base: str, files: Sequence[Path], specs: Sequence[BlockSpec], schedules: Sequence[str], settings: ImageSettings
) -> str:
    """Return the line of `bwlab generate`, for a shell, that makes the image of the page."""
    words = generate_words(base, files, [spec.canonical() for spec in specs], schedules)
    words += ["--prompt", settings.prompt, "--seed", str(settings.seed), "--steps", str(settings.steps)]
    return shlex.join([*words, "--cfg", f"{settings.cfg:g}"])


def workflow(base: str, files: Sequence[str], specs: Sequence[BlockSpec], settings: ImageSettings, side: int) -> Json:
    """Return a workflow for ComfyUI in its API form: a checkpoint, each adapter with its spec, and the sampler.

    ComfyUI looks the names of the checkpoint and of the adapters up in its own folders. The sampler is the one that
    `bwlab generate` uses for diffusion; schedules are left out. ComfyUI loads most transformers by nodes of their own,
    so this is for UNets.
    """
    nodes: dict[str, Json] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": Path(base).name}},
    }
    model, clip = ["1", 0], ["1", 1]
    for number, (file, spec) in enumerate(zip(files, specs, strict=True), 2):
        inputs = {"model": model, "clip": clip, "adapter": file, "scale": spec.canonical()}
        nodes[str(number)] = {"class_type": LOADER, "inputs": inputs}
        model, clip = [str(number), 0], [str(number), 1]
    ids = [str(number) for number in range(len(files) + 2, len(files) + 8)]
    positive, negative, latent, sampler, decoder, saver = ids
    nodes[positive] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": settings.prompt}}
    nodes[negative] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}}
    nodes[latent] = {"class_type": "EmptyLatentImage", "inputs": {"width": side, "height": side, "batch_size": 1}}
    nodes[sampler] = {
        "class_type": "KSampler",
        "inputs": {
            "model": model,
            "positive": [positive, 0],
            "negative": [negative, 0],
            "latent_image": [latent, 0],
            "seed": settings.seed,
            "steps": settings.steps,
            "cfg": settings.cfg,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
        },
    }
    nodes[decoder] = {"class_type": "VAEDecode", "inputs": {"samples": [sampler, 0], "vae": ["1", 2]}}
    nodes[saver] = {"class_type": "SaveImage", "inputs": {"images": [decoder, 0], "filename_prefix": "bwlab"}}
    return nodes
