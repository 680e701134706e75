"""`bwlab tag`: write captions of comma-separated tags for a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError
from bwlab.tables import Cell, Column, Table, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from bwlab.tagging.captions import Mode
    from bwlab.tagging.folder import TagOutcome
    from bwlab.tagging.tagger import TagImages

Text = str | None

ACTIONS = {
    "new": "written; there was no caption",
    "refreshed": "written again; bwlab wrote it and nobody edited it",
    "appended": "extended",
    "overwritten": "replaced, although a person had written or edited it",
    "unchanged": "already up to date",
    "kept": "kept; a person wrote or edited it",
    "shared": "skipped; another image has the same caption",
    "broken": "skipped; not readable",
}
MOST_FREQUENT = 12


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of images, with its subfolders.")],
    tagger: Annotated[str, typer.Option(help="Name of the tagger: clip, wd14, or a tagger of a plugin.")] = "clip",
    model: Annotated[Text, typer.Option(help="Model: a name or a folder for clip, the .onnx file for wd14.")] = None,
    pretrained: Annotated[Text, typer.Option(help="Weights of the clip model.", metavar="FILE")] = None,
    vocabulary: Annotated[
        Text, typer.Option(help="Tags for clip to choose from, one per line.", metavar="FILE")
    ] = None,
    threshold: Annotated[Text, typer.Option(help="Lowest score of a tag, 0..1.", metavar="F")] = None,
    top: Annotated[int | None, typer.Option(help="Highest number of tags per image.", min=1, metavar="N")] = None,
    prefix: Annotated[str, typer.Option(help="Tags that come first, such as a trigger word.", metavar="TAGS")] = "",
    append: Annotated[bool, typer.Option("--append", help="Add the missing tags to existing captions.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace edited captions too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the captions and write nothing.")] = False,
    extension: Annotated[str, typer.Option("--caption-extension", help="File extension of the captions.")] = ".txt",
    batch_size: Annotated[int, typer.Option(help="Number of images tagged at once.", min=1, metavar="N")] = 8,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option of the tagger, such as rating=true.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Write captions of comma-separated tags beside the images of a folder.

    Captions that a person wrote or edited are kept unless --append or --overwrite is given; bwlab's own are refreshed.
    The exit code is 1 if an image or a caption is broken.
    """
    from bwlab.tagging.captions import parse_tags
    from bwlab.tagging.folder import TagSettings, tag_folder
    from bwlab.terminal import stdout_console, track, warn

    flags = {"model": model, "pretrained": pretrained, "vocabulary": vocabulary, "threshold": threshold}
    given = {name: text for name, text in flags.items() if text is not None}
    mode = mode_of(append, overwrite)
    job = TagSettings(folder, extension, mode, tuple(parse_tags(prefix)), top, batch_size, dry_run)
    images = images_in(folder)
    tag_images = load_tagger(tagger, given, settings or ())
    outcomes = list(track(tag_folder(job, tag_images, images), "tagging images", len(images)))
    console = stdout_console()
    if dry_run:
        print_captions(console, outcomes, folder)
    for outcome in outcomes:
        if outcome.note:
            warn(f"{outcome.image}: {outcome.note}")
    print_table(console, summary(outcomes, dry_run))
    print_frequencies(console, outcomes)
    if any(outcome.action == "broken" for outcome in outcomes):
        raise typer.Exit(1)


def mode_of(append: bool, overwrite: bool) -> Mode:
    """Return how to treat captions of a person; BwlabError if both flags are given."""
    from bwlab.tagging.captions import Mode

    if append and overwrite:
        raise BwlabError("bwlab tag", "both --append and --overwrite are given", "Give one of them")
    if append:
        return Mode.APPEND
    return Mode.OVERWRITE if overwrite else Mode.KEEP


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, sorted; BwlabError if there is no such folder or no image in it."""
    from bwlab.images import IMAGE_SUFFIXES, image_paths

    if not folder.is_dir():
        raise BwlabError(f"bwlab tag {folder}", "no such folder", "Give a folder of images")
    images = list(image_paths(folder))
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BwlabError(f"bwlab tag {folder}", "no images in it", f"Put images ({suffixes}) there")
    return images


def load_tagger(name: str, flags: dict[str, str], settings: Sequence[str]) -> TagImages:
    """Return the tagging function of a tagger; BwlabError for an option given twice or one that the tagger lacks."""
    from bwlab.plugins.manager import installed_manager
    from bwlab.tagging.tagger import require_known_options

    tagger = installed_manager().tagger(name)
    options = dict(flags)
    for key, value in parsed_settings(settings):
        if key in options:
            twice = f"--{key}" if key in flags else f"another --set {key}"
            raise BwlabError(f"--set {key}={value}", f"{twice} is given too", "Give one of them")
        options[key] = value
    require_known_options(tagger, options)
    return tagger.load(options)


def parsed_settings(settings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, value as typed) of `KEY=VALUE` texts."""
    from bwlab.config.sources import Typed, parse_set

    for text in settings:
        setting = parse_set(text)
        assert isinstance(setting.value, Typed)
        yield setting.key, setting.value.text


def print_captions(console: Console, outcomes: Iterable[TagOutcome], folder: Path) -> None:
    """Print the new text of each caption."""
    for outcome in outcomes:
        console.print(f"{outcome.caption.relative_to(folder)} ({outcome.action}): {outcome.text}", soft_wrap=True)


def summary(outcomes: Iterable[TagOutcome], dry_run: bool) -> Table:
    """Return a table of the number of captions by action."""
    counts = Counter(outcome.action for outcome in outcomes)
    columns = (Column("action", align="left"), Column("captions"), Column("meaning", align="left"))
    rows = [
        (Cell(action), Cell(str(counts[action])), Cell(meaning))
        for action, meaning in ACTIONS.items()
        if counts[action]
    ]
    return Table(columns, tuple(rows), title="Dry run: nothing was written" if dry_run else "")


def print_frequencies(console: Console, outcomes: Sequence[TagOutcome]) -> None:
    """Print the most frequent tags with the number of captions that have each."""
    from bwlab.tagging.folder import tag_counts

    most = tag_counts(outcomes).most_common(MOST_FREQUENT)
    if most:
        counts = ", ".join(f"{tag} {count}" for tag, count in most)
        console.print(f"most frequent tags: {counts}", soft_wrap=True)
