"""Captions for a folder of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.dataset.folders import caption_path
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.images import UnreadableImage, read_image
from bwlab.tagging.captions import Mode, CaptionRecord, updated_caption, parse_tags
from bwlab.tagging.tagger import TagImages, Tag

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TagSettings:
    """How a folder is tagged.

    Attributes:
        folder: of pictures, with those below it.
        extension: of caption files.
        mode: what to do with captions that a person wrote or edited.
        prefix: tags that come first, such as the word that is to be trained.
        top: how many of a picture's tags are written, the surest; None means all.
        batch: pictures at once.
        dry_run: whether nothing is written.

    """

    folder: Path
    extension: str = ".txt"
    mode: Mode = Mode.KEEP
    prefix: tuple[str, ...] = ()
    top: int | None = None
    batch: int = 8
    dry_run: bool = False


@dataclass(frozen=True)
class TagOutcome:
    """What became of one picture's caption.

    Attributes:
        picture: its file.
        caption: the file of the caption.
        action: that of a `Change`; `"broken"`; or `"shared"`, where another picture has the same caption.
        text: of the caption; empty where there is none.
        note: why it is broken, or with which picture it shares its caption.

    """

    picture: Path
    caption: Path
    action: str
    text: str = ""
    note: str = ""


def tag_folder(job: TagSettings, describe: TagImages, pictures: Sequence[Path]) -> Iterator[TagOutcome]:
    """Yield what became of each picture's caption, in order.

    Captions are written one by one, whole or not at all, and taken down after each batch, also when it is interrupted.

    Raises:
        BwlabError: a caption or a record cannot be written, a record cannot be read, or the tagger gives something else
            than tags.

    """
    desk = _Desk(job, describe)
    for start in range(0, len(pictures), job.batch):
        try:
            yield from desk.outcomes(pictures[start : start + job.batch])
        finally:
            desk.save()


def tag_counts(outcomes: Iterable[TagOutcome]) -> Counter[str]:
    """How many captions hold each tag."""
    return Counter(tag for outcome in outcomes for tag in dict.fromkeys(parse_tags(outcome.text)))


class _Desk:
    """Tags batch after batch, and remembers whose each caption is."""

    def __init__(self, job: TagSettings, describe: TagImages) -> None:
        self.job, self.describe = job, describe
        self._records: dict[Path, CaptionRecord] = {}
        self._owners: dict[Path, Path] = {}

    def outcomes(self, pictures: Sequence[Path]) -> list[TagOutcome]:
        """Tag one batch and return what became of each picture's caption."""
        found: dict[Path, TagOutcome] = {}
        images: dict[Path, Image] = {}
        for picture in pictures:
            try:
                left = self._left_alone(picture)
                if left is None:
                    images[picture] = read_image(picture)
            except UnreadableImage as error:
                left = TagOutcome(picture, self._caption(picture), "broken", note=error.found)
            if left is not None:
                found[picture] = left
        found |= {picture: self._write(picture, tags) for picture, tags in self._described(images).items()}
        return [found[picture] for picture in pictures]

    def save(self) -> None:
        """Write what is to be remembered."""
        if not self.job.dry_run:
            for record in self._records.values():
                record.save()

    def _left_alone(self, picture: Path) -> TagOutcome | None:
        """Return the outcome of a picture that need not be looked at, or None."""
        caption = self._caption(picture)
        owner = self._owners.setdefault(caption, picture)
        if owner != picture:
            return TagOutcome(picture, caption, "shared", note=f"its caption is that of {owner.name}")
        try:
            before = read_caption(caption)
        except UnicodeDecodeError:
            return TagOutcome(picture, caption, "broken", note=f"{caption.name} is not UTF-8 text")
        kept = before is not None and before.strip() and not self._record(caption).is_own(caption, before)
        return TagOutcome(picture, caption, "kept", before or "") if kept and self.job.mode is Mode.KEEP else None

    def _described(self, images: Mapping[Path, Image]) -> dict[Path, list[str]]:
        """Return the tags of each picture; a tagger is foreign code, so what it gives is looked at."""
        described = self.describe(list(images.values())) if images else []
        if len(described) != len(images):
            found = f"{len(described)} lists of tags for {len(images)} pictures"
            raise BwlabError("tagging pictures", found, "Update or change the tagger")
        return {picture: self._texts(tags) for picture, tags in zip(images, described, strict=True)}

    def _texts(self, tags: Sequence[Tag]) -> list[str]:
        """Return the texts of the surest `top` tags, in the tagger's order, none of which parts in two."""
        top = self.job.top
        least = sorted((tag.score for tag in tags), reverse=True)[:top][-1] if tags and top else 0.0
        texts = [" ".join(tag.text.replace(",", " ").split()) for tag in tags if tag.score >= least]
        return [text for text in texts if text][:top]

    def _write(self, picture: Path, tags: Sequence[str]) -> TagOutcome:
        caption, job = self._caption(picture), self.job
        before, record = read_caption(caption), self._record(caption)
        own = before is not None and record.is_own(caption, before)
        change = updated_caption(before, own, job.prefix, tags, job.mode)
        if not job.dry_run:
            if change.text != before:
                write_atomically(caption, change.text.encode())
            if change.own:
                record.note(caption, change.text)
            else:
                record.forget(caption)
        return TagOutcome(picture, caption, change.action, change.text)

    def _record(self, caption: Path) -> CaptionRecord:
        if caption.parent not in self._records:
            self._records[caption.parent] = CaptionRecord(caption.parent)
        return self._records[caption.parent]

    def _caption(self, picture: Path) -> Path:
        return caption_path(picture, self.job.extension)


def read_caption(path: Path) -> str | None:
    """Return the text of a caption, None if there is none; raises `BwlabError` if it is not readable."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BwlabError(f"caption {path}", error.strerror or "not readable", "Make it readable") from error
