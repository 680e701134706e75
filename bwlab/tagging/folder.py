"""Tagging a folder: the captions of its images are written batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.dataset.captions import CaptionFiles, caption_path, decoded_text
from bwlab.errors import BwlabError
from bwlab.files import write_atomically
from bwlab.images import UnreadableImage, read_image
from bwlab.tagging.captions import CaptionRecord, Mode, parse_tags, updated_caption
from bwlab.tagging.tagger import Tag, TagImages

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TagSettings:
    """How to tag a folder.

    Attributes:
        folder: folder of images, with its subfolders.
        extension: file extension of the captions.
        mode: what to do with captions that a person wrote or edited.
        prefix: tags that come first, such as a trigger word.
        top: number of tags per image, the surest ones; None means all.
        batch_size: number of images that are tagged at once.
        dry_run: whether nothing is written.

    """

    folder: Path
    extension: str = ".txt"
    mode: Mode = Mode.KEEP
    prefix: tuple[str, ...] = ()
    top: int | None = None
    batch_size: int = 8
    dry_run: bool = False


@dataclass(frozen=True)
class TagOutcome:
    """What became of one image's caption.

    Attributes:
        image: the image file.
        caption: the caption file.
        action: the action of a `CaptionUpdate`; `"broken"`; or `"shared"`, if another image has the same caption file.
        text: text of the caption; empty if there is none.
        note: why the image or its caption is broken, or which image shares the caption.

    """

    image: Path
    caption: Path
    action: str
    text: str = ""
    note: str = ""


def tag_folder(settings: TagSettings, tag_images: TagImages, images: Sequence[Path]) -> Iterator[TagOutcome]:
    """Yield what became of each image's caption, in order.

    Captions are written one by one, whole or not at all, and recorded after each batch, also after an interrupt.

    Raises:
        BwlabError: a caption or a record cannot be written, a record cannot be read, or the tagger returns something
            other than tags.

    """
    tagger = _FolderTagger(settings, tag_images)
    for begin in range(0, len(images), settings.batch_size):
        try:
            yield from tagger.outcomes(images[begin : begin + settings.batch_size])
        finally:
            tagger.save_records()


def tag_counts(outcomes: Iterable[TagOutcome]) -> Counter[str]:
    """Return how many captions have each tag."""
    return Counter(tag for outcome in outcomes for tag in dict.fromkeys(parse_tags(outcome.text)))


class _FolderTagger:
    """Tags batch after batch, and keeps the records of all subfolders."""

    def __init__(self, settings: TagSettings, tag_images: TagImages) -> None:
        self.settings, self.tag_images = settings, tag_images
        self._records: dict[Path, CaptionRecord] = {}
        self._owners: dict[Path, Path] = {}
        self._captions = CaptionFiles()

    def outcomes(self, paths: Sequence[Path]) -> list[TagOutcome]:
        """Tag one batch and return what became of each image's caption."""
        outcomes: dict[Path, TagOutcome] = {}
        images: dict[Path, Image] = {}
        for path in paths:
            try:
                skipped = self._skipped(path)
                if skipped is None:
                    images[path] = read_image(path)
            except UnreadableImage as error:
                skipped = TagOutcome(path, self._caption_path(path), "broken", note=error.found)
            if skipped is not None:
                outcomes[path] = skipped
        outcomes |= {path: self._write(path, tags) for path, tags in self._tags_of(images).items()}
        return [outcomes[path] for path in paths]

    def save_records(self) -> None:
        """Write the records of all captions that the tagger has written."""
        if not self.settings.dry_run:
            for record in self._records.values():
                record.save()

    def _skipped(self, image: Path) -> TagOutcome | None:
        """Return the outcome of an image that is not tagged, None for one that is."""
        caption = self._caption_path(image)
        owner = self._owners.setdefault(caption, image)
        if owner != image:
            return TagOutcome(image, caption, "shared", note=f"its caption is that of {owner.name}")
        try:
            before = read_caption(caption)
        except ValueError:
            return TagOutcome(image, caption, "broken", note=f"{caption.name} is not UTF-8 or UTF-16 text")
        by_person = before is not None and before.strip() and not self._record(caption).is_own(caption, before)
        return (
            TagOutcome(image, caption, "kept", before or "") if by_person and self.settings.mode is Mode.KEEP else None
        )

    def _tags_of(self, images: Mapping[Path, Image]) -> dict[Path, list[str]]:
        """Return the tags of each image; BwlabError if the tagger does not return one list for each."""
        tag_lists = self.tag_images(list(images.values())) if images else []
        if len(tag_lists) != len(images):
            reason = f"{len(tag_lists)} lists of tags for {len(images)} images"
            raise BwlabError("tagging images", reason, "Update or change the tagger")
        return {path: self._texts(tags) for path, tags in zip(images, tag_lists, strict=True)}

    def _texts(self, tags: Sequence[Tag]) -> list[str]:
        """Return the texts of the surest `top` tags, in the tagger's order, without commas."""
        top = self.settings.top
        least = sorted((tag.score for tag in tags), reverse=True)[:top][-1] if tags and top else 0.0
        texts = [" ".join(tag.text.replace(",", " ").split()) for tag in tags if tag.score >= least]
        return [text for text in texts if text][:top]

    def _write(self, image: Path, tags: Sequence[str]) -> TagOutcome:
        caption, settings = self._caption_path(image), self.settings
        before, record = read_caption(caption), self._record(caption)
        is_own = before is not None and record.is_own(caption, before)
        update = updated_caption(before, is_own, settings.prefix, tags, settings.mode)
        if not settings.dry_run:
            if update.text != before:
                write_atomically(caption, update.text.encode())
            if update.is_own:
                record.add(caption, update.text)
            else:
                record.remove(caption)
        return TagOutcome(image, caption, update.action, update.text)

    def _record(self, caption: Path) -> CaptionRecord:
        if caption.parent not in self._records:
            self._records[caption.parent] = CaptionRecord(caption.parent)
        return self._records[caption.parent]

    def _caption_path(self, image: Path) -> Path:
        extension = self.settings.extension
        return self._captions.find(image, extension) or caption_path(image, extension)


def read_caption(path: Path) -> str | None:
    """Return the text of a caption file, None if it does not exist; errors if it is not readable or not text."""
    try:
        return decoded_text(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BwlabError(f"caption {path}", error.strerror or "not readable", "Make it readable") from error
