"""Tags of adapters in prompts, as the AUTOMATIC1111 web UI reads them: `<lora:fox:0.8>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bwlab.adapters.names import adapter_name
from bwlab.blocks.notations.prompt_tag import PRESETS, from_a1111_tag
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import NUMBER, number_text
from bwlab.errors import BwlabError, did_you_mean
from bwlab.generation.job import GenerateJob

TAG = re.compile(r"<\s*(?P<kind>lora|lyco|hypernet)\s*:(?P<rest>[^<>]*)>", re.IGNORECASE)
SUFFIX = ".safetensors"
OFF = "0"  # scale of an adapter in prompts without its tag


@dataclass(frozen=True)
class LoraTag:
    """A tag in a prompt.

    Attributes:
        text: the tag as it was written, `<lora:fox:0.8>`.
        kind: `"lora"`, `"lyco"` or `"hypernet"`.
        name: name of the adapter file.
        values: the text after the name, split at the colons.

    """

    text: str
    kind: str
    name: str
    values: tuple[str, ...]


def tags_in(prompt: str) -> list[LoraTag]:
    """Return the tags of a prompt, in order.

    >>> [(tag.name, tag.values) for tag in tags_in("a fox <lora:ink:0.8>")]
    [('ink', ('0.8',))]
    """
    return [_tag(match) for match in TAG.finditer(prompt)]


def _tag(match: re.Match[str]) -> LoraTag:
    name, *values = (part.strip() for part in match["rest"].split(":"))
    return LoraTag(match[0], match["kind"].lower(), name, tuple(values))


def with_tags(job: GenerateJob) -> GenerateJob:
    """Return a job whose prompts have no tags, with the adapters of the tags after those of `--adapter`.

    An adapter has scale 0 in prompts without its tag.

    Raises:
        BwlabError: there is no folder of adapters, a tag names no file in it, or a tag stands where it loads nothing.

    """
    for option, text in (("--negative", job.negative), *(("--xy", axis) for axis in job.xy)):
        for tag in tags_in(text):
            raise BwlabError(f"prompt tag {tag.text}", f"tags in {option} load no adapter", "Write it in --prompt")
    tags = [tags_in(prompt) for prompt in job.prompts]
    if not any(tags):
        return job
    files = [_files_of_tags(job, row) for row in tags]
    added = tuple(dict.fromkeys(file for row in files for file in row))
    return replace(
        job,
        prompts=tuple(TAG.sub("", prompt).strip() for prompt in job.prompts),
        scales=job.paired_scales(),
        schedules=job.paired_schedules(),
        adapters=(*job.adapters, *added),
        tag_scales=tuple(tuple(row[file].text if file in row else OFF for file in added) for row in files),
    )


def _files_of_tags(job: GenerateJob, tags: Sequence[LoraTag]) -> dict[Path, LoraTag]:
    """Return the tags of one prompt by adapter file."""
    files: dict[Path, LoraTag] = {}
    for tag in tags:
        file = _file_of(tag, job.lora_dir)
        if file in files:
            found = f"{files[file].text} in the same prompt names the same file"
            raise BwlabError(f"prompt tag {tag.text}", found, "Write one tag for each adapter")
        files[file] = tag
    return files


def _file_of(tag: LoraTag, folder: Path | None) -> Path:
    asked = f"prompt tag {tag.text}"
    if tag.kind == "hypernet":
        raise BwlabError(asked, "bwlab reads no hypernetworks", "Leave it out")
    if folder is None:
        raise BwlabError(asked, "no folder of adapters is given", "Give it with --lora-dir, or the file with --adapter")
    if not folder.is_dir():
        raise BwlabError(f"--lora-dir {folder}", "no such folder", "Give the folder of the adapters in prompt tags")
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    wanted = tag.name.replace("\\", "/").removesuffix(SUFFIX)
    matching = _named(wanted, files, folder)
    if not matching:
        names = sorted({adapter_name(file) for file in files})
        fix = f"{did_you_mean(wanted, names)}Give the name of a {SUFFIX} file without its ending"
        raise BwlabError(asked, f"{folder} has no adapter {tag.name!r}", fix)
    if len(matching) > 1:
        found = f"{matching[0].relative_to(folder)} and {matching[1].relative_to(folder)} have this name"
        raise BwlabError(asked, found, "Write the folder too, as in <lora:folder/name:1>")
    return matching[0]


def _named(name: str, files: Sequence[Path], folder: Path) -> list[Path]:
    """Return the file at the path `name` below the folder, otherwise all files with this name in any folder."""
    exact = [file for file in files if file.relative_to(folder).with_suffix("").as_posix() == name]
    return exact or [file for file in files if name in (file.stem, adapter_name(file))]


def with_scales(job: GenerateJob, scheme: BlockScheme) -> GenerateJob:
    """Return a job with block specs in place of the tags; `BwlabError` if a tag has no meaning for the base."""
    return replace(job, tag_scales=tuple(tuple(_scale(text, scheme) for text in row) for row in job.tag_scales))


def _scale(text: str, scheme: BlockScheme) -> str:
    if text == OFF:
        return OFF
    (tag,) = tags_in(text)
    spec = from_a1111_tag(_with_named_list(tag), scheme)
    numbers = set(spec.values.values())
    return number_text(numbers.pop()) if len(numbers) == 1 else spec.text


def _with_named_list(tag: LoraTag) -> str:
    """Return a tag whose list of block numbers is named, as in `<lora:fox:1:lbw=1,0,...>`; it may stand unnamed."""
    values = [f"lbw={value}" if "," in value and "=" not in value else value for value in tag.values]
    presets = [value.removeprefix("lbw=") for value in values if value.startswith("lbw=") and "," not in value]
    presets += [value for value in values[1:] if "=" not in value and not NUMBER.fullmatch(value)]
    for preset in presets:
        if preset.upper() not in PRESETS:
            found = f"{preset!r} is a preset of the extension LoRA Block Weight, which its user can change"
            raise BwlabError(f"prompt tag {tag.text}", found, "Write its numbers, as in <lora:fox:1:lbw=1,0,0,...>")
    named = [f"lbw={value}" if value.upper() in PRESETS else value for value in values]
    return f"<lora:{tag.name}:{':'.join(named)}>" if named else f"<lora:{tag.name}>"
