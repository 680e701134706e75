"""`bwlab tag`: captions of comma-separated tags for a folder of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bwlab.tagging.captions import Mode
    from bwlab.tagging.folder import Outcome, TagJob
    from bwlab.tagging.tagger import Describe

Text = str | None

SAYS = {
    "new": "written, there was none",
    "refreshed": "written again: bwlab's own, not edited since",
    "appended": "added to",
    "overwritten": "replaced, though a person had written or edited it",
    "unchanged": "already said that",
    "kept": "left alone: a person wrote or edited it",
    "shared": "left alone: the caption of another picture",
    "broken": "not readable",
}
MOST_FREQUENT = 12


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, with those below it.")],
    tagger: Annotated[str, typer.Option(help="Who tags: clip, wd14, or that of a plugin.")] = "clip",
    model: Annotated[Text, typer.Option(help="Of clip: a name, or a folder; of wd14: the .onnx file.")] = None,
    pretrained: Annotated[Text, typer.Option(help="Weights of the clip model.", metavar="FILE")] = None,
    vocabulary: Annotated[Text, typer.Option(help="Tags that clip chooses from, one a line.", metavar="FILE")] = None,
    threshold: Annotated[Text, typer.Option(help="Least score of a tag, 0..1.", metavar="F")] = None,
    top: Annotated[int | None, typer.Option(help="Most tags of a picture.", min=1, metavar="N")] = None,
    prefix: Annotated[str, typer.Option(help="Tags that come first, such as the trigger word.", metavar="TAGS")] = "",
    append: Annotated[bool, typer.Option("--append", help="Add tags to captions that are there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace edited captions too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the captions and write nothing.")] = False,
    extension: Annotated[str, typer.Option("--caption-extension", help="Ending of caption files.")] = ".txt",
    batch_size: Annotated[int, typer.Option(help="Pictures at once.", min=1, metavar="N")] = 8,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option of the tagger, such as rating=true.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Write captions of comma-separated tags beside the pictures of a folder.

    Captions that a person wrote or edited are kept unless --append or --overwrite says otherwise; bwlab's own are
    refreshed. Exits 1 if a picture is broken.
    """
    from rich.console import Console

    from bwlab.tagging.captions import tags_of
    from bwlab.tagging.folder import TagJob
    from bwlab.terminal import warn

    flags = {"model": model, "pretrained": pretrained, "vocabulary": vocabulary, "threshold": threshold}
    typed = {name: text for name, text in flags.items() if text is not None}
    job = TagJob(folder, extension, mode_of(append, overwrite), tuple(tags_of(prefix)), top, batch_size, dry_run)
    pictures = pictures_in(folder)
    describe = load_tagger(tagger, typed, settings or ())
    outcomes = list(with_bar(run(job, describe, pictures), len(pictures), Console(stderr=True)))
    console = Console()
    if dry_run:
        print_captions(console, outcomes, folder)
    for outcome in outcomes:
        if outcome.note:
            warn(f"{outcome.picture}: {outcome.note}")
    console.print(summary(outcomes, dry_run))
    print_frequencies(console, outcomes)
    if any(outcome.action == "broken" for outcome in outcomes):
        raise typer.Exit(1)


def mode_of(append: bool, overwrite: bool) -> Mode:
    """Return what to do with a person's captions; BwlabError if both flags are given."""
    from bwlab.tagging.captions import Mode

    if append and overwrite:
        raise BwlabError("bwlab tag", "both --append and --overwrite are given", "Give one of them")
    if append:
        return Mode.APPEND
    return Mode.OVERWRITE if overwrite else Mode.KEEP


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder, sorted; BwlabError if there is no such folder or none in it."""
    from bwlab.images import IMAGE_SUFFIXES, image_paths

    if not folder.is_dir():
        raise BwlabError(f"bwlab tag {folder}", "no such folder", "Give a folder of pictures")
    found = list(image_paths(folder))
    if not found:
        raise BwlabError(
            f"bwlab tag {folder}", "no pictures there", f"Put pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) there"
        )
    return found


def load_tagger(name: str, typed: dict[str, str], settings: Sequence[str]) -> Describe:
    """Return the tagger of this name with its options; BwlabError for an option given twice or that it lacks."""
    from bwlab.plugins.manager import build_manager
    from bwlab.tagging.tagger import read_settings, require_known

    tagger, more = build_manager().tagger(name), read_settings(settings)
    twice = sorted(typed.keys() & more.keys())
    if twice:
        raise BwlabError(f"--set {twice[0]}={more[twice[0]]}", f"--{twice[0]} is given too", "Give one of them")
    options = typed | more
    require_known(name, options, tagger.options)
    return tagger.load(options)


def run(job: TagJob, describe: Describe, pictures: Sequence[Path]) -> Iterator[Outcome]:
    """Yield what became of each picture's caption (imports torch)."""
    from bwlab.tagging.folder import tag_folder

    yield from tag_folder(job, describe, pictures)


def with_bar(outcomes: Iterator[Outcome], total: int, console: Console) -> Iterator[Outcome]:
    """Yield the outcomes while a bar on a terminal goes along."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(outcomes, total=total, description="tagging")


def print_captions(console: Console, outcomes: Iterable[Outcome], folder: Path) -> None:
    """Print what each caption would be."""
    for outcome in outcomes:
        caption = outcome.caption.relative_to(folder)
        console.print(f"{caption} ({outcome.action}): {outcome.text}", markup=False, highlight=False, soft_wrap=True)


def summary(outcomes: Iterable[Outcome], dry_run: bool) -> Table:
    """Return the table of what was done to how many captions."""
    from rich import box
    from rich.table import Table

    counts = Counter(outcome.action for outcome in outcomes)
    heading = "captions, had this been no dry run" if dry_run else "captions"
    table = Table("", "number", heading, box=box.SIMPLE_HEAD)
    for action, says in SAYS.items():
        if counts[action]:
            table.add_row(action, str(counts[action]), says)
    return table


def print_frequencies(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the most frequent tags with the number of captions that hold each."""
    from bwlab.tagging.folder import tag_counts

    most = tag_counts(outcomes).most_common(MOST_FREQUENT)
    if most:
        words = ", ".join(f"{tag} {number}" for tag, number in most)
        console.print(f"most frequent: {words}", markup=False, highlight=False, soft_wrap=True)
