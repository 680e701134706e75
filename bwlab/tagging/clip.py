"""The tagger `clip`: zero-shot tags from a vocabulary, by a CLIP or SigLIP model that open_clip loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.base.open_clip import LOCAL, load_open_clip
from bwlab.errors import BwlabError, first_line
from bwlab.tagging.tagger import Tag, TagImages, fraction_option

if TYPE_CHECKING:
    from PIL.Image import Image


DEFAULT_MODEL = "ViT-B-32"
DEFAULT_TEMPLATE = "a picture of {}"
DEFAULT_THRESHOLD = 0.05
TEXT_BATCH_SIZE = 64


def load(options: Mapping[str, str]) -> TagImages:
    """Return a tagger that chooses from a vocabulary.

    Each group gives its best tag; then come the other tags with a score of at least `threshold`, the surest first. The
    score is a probability: for CLIP, among all tags without a group (softmax; Radford et al. 2021, arXiv 2103.00020,
    section 3.1); for SigLIP, which has a bias, of that tag alone (sigmoid; Zhai et al. 2023, arXiv 2303.15343,
    equation 1).

    Args:
        options: `model` (a name of open_clip's, or a folder with `open_clip_config.json` and weights), `pretrained` (a
            file of weights, or a name of open_clip's), `vocabulary` (a file), `threshold` (0..1), `template` (a text
            with `{}` in place of the tag).

    Raises:
        BwlabError: there are no weights or an option is wrong.

    """
    vocabulary = read_vocabulary(Path(options["vocabulary"]) if "vocabulary" in options else None)
    threshold = fraction_option(options, "threshold", DEFAULT_THRESHOLD)
    template = options.get("template", DEFAULT_TEMPLATE)
    if template.count("{}") != 1:
        raise BwlabError(f"tagger option template = {template}", "it has no single {}", "Write {} for the tag")
    model, preprocess, tokenizer = _load_model(options.get("model", DEFAULT_MODEL), options.get("pretrained"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).requires_grad_(False)
    tags = [*vocabulary.tags, *(tag for group in vocabulary.groups.values() for tag in group)]
    texts = _encode_texts(model, tokenizer, [template.replace("{}", tag) for tag in tags], device)

    @torch.no_grad()
    def tag_images(images: Sequence[Image]) -> list[list[Tag]]:
        batch = torch.stack([preprocess(image) for image in images]).to(device)
        embeddings = model.encode_image(batch, normalize=True).float()
        logits = embeddings @ texts.T * model.logit_scale.float().exp()
        bias = getattr(model, "logit_bias", None)
        return [select_tags(row, vocabulary, threshold, None if bias is None else float(bias)) for row in logits.cpu()]

    return tag_images


def select_tags(logits: Tensor, vocabulary: Vocabulary, threshold: float, bias: float | None) -> list[Tag]:
    """Return the tags of one image: the best of each group, then the others, the surest first.

    Args:
        logits: `(tags,)`, first the tags without a group, then group by group.
        vocabulary: the tags.
        threshold: least score of a tag without a group.
        bias: bias of the sigmoid; None means that tags compete (softmax).

    """
    best: list[Tag] = []
    begin = len(vocabulary.tags)
    for group in vocabulary.groups.values():
        shares = logits[begin : begin + len(group)].softmax(0)
        best.append(Tag(group[int(shares.argmax())], float(shares.max())))
        begin += len(group)
    ungrouped = logits[: len(vocabulary.tags)]
    scores = ungrouped.softmax(0) if bias is None else (ungrouped + bias).sigmoid()
    likely = [Tag(tag, float(score)) for tag, score in zip(vocabulary.tags, scores, strict=True) if score >= threshold]
    return best + sorted(likely, key=lambda tag: -tag.score)


def _load_model(name: str, pretrained: str | None) -> tuple[Any, Callable[[Image], Tensor], Any]:
    """Return the model, the function that turns an image into its input, and its tokenizer."""
    asked = f"tagger clip with --model {name}" + (f" --pretrained {pretrained}" if pretrained else "")
    if Path(name).is_dir():
        name = LOCAL + name
    elif pretrained is None and not name.startswith(("hf-hub:", LOCAL)):
        raise BwlabError(
            asked, "no weights are given", "Add --pretrained FILE, or give a folder with config and weights"
        )
    if pretrained is not None and _looks_like_path(pretrained) and not Path(pretrained).is_file():
        raise BwlabError(asked, f"no such file: {pretrained}", "Give a file of weights")
    try:
        return load_open_clip(name, pretrained)
    except Exception as error:  # open_clip raises nearly anything for a wrong name, file or connection
        fix = "Give a name that open_clip knows with --pretrained FILE, or a folder with config and weights"
        raise BwlabError(asked, f"open_clip cannot load it ({first_line(error).rstrip('.')})", fix) from error


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or Path(text).suffix in {".pt", ".bin", ".safetensors", ".pth"}


@torch.no_grad()
def _encode_texts(model: Any, tokenizer: Any, texts: Sequence[str], device: torch.device) -> Tensor:
    """Return the embeddings `(texts, width)`, of norm 1."""
    parts = [
        model.encode_text(tokenizer(list(texts[begin : begin + TEXT_BATCH_SIZE])).to(device), normalize=True).float()
        for begin in range(0, len(texts), TEXT_BATCH_SIZE)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Vocabulary:
    """The tags to choose from.

    Attributes:
        tags: tags that are written if they score high enough.
        groups: name -> alternatives, of which the best is always written.

    """

    tags: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]


def read_vocabulary(path: Path | None) -> Vocabulary:
    """Return the vocabulary of a file, without a file that of bwlab; BwlabError as from `parse_vocabulary`."""
    if path is None:
        text = files("bwlab").joinpath("data", "tagging", "vocabulary.txt").read_text(encoding="utf-8")
        return parse_vocabulary(text, "the default vocabulary")
    try:
        return parse_vocabulary(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        fix = "Give a text file with one tag per line"
        raise BwlabError(f"vocabulary {path}", reason or "not readable", fix) from error


def parse_vocabulary(text: str, source: str) -> Vocabulary:
    """Return the vocabulary of a text.

    Each line has one tag; a line such as `style: ink | flat | photo` has a group of alternatives. Empty lines and
    comments after `#` are ignored.

    Args:
        text: the text.
        source: name of its file, for messages.

    Raises:
        BwlabError: a tag with a comma, one given twice, a group without alternatives, or no tags at all.

    """
    tags: list[str] = []
    groups: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = " ".join(raw.partition("#")[0].split())
        if not line:
            continue
        where = f"vocabulary {source}, line {number}"
        name, colon, rest = (part.strip() for part in line.partition(":"))
        alternatives = tuple(tag.strip() for tag in rest.split("|")) if colon else (line,)
        _check_tags(where, alternatives, seen)
        if not colon:
            tags.append(line)
        elif not name or name in groups or len(alternatives) < 2:
            raise BwlabError(where, f"{line!r} is no new group", "Write a group as in 'style: ink | flat'")
        else:
            groups[name] = alternatives
    if not seen:
        raise BwlabError(f"vocabulary {source}", "it holds no tags", "Write one tag per line")
    return Vocabulary(tuple(tags), groups)


def _check_tags(where: str, tags: tuple[str, ...], seen: set[str]) -> None:
    """Raise BwlabError for invalid or repeated tags; add the others to `seen`."""
    for tag in tags:
        if not tag or "," in tag or "|" in tag:
            raise BwlabError(where, f"{tag!r} is no tag", "Write a tag without comma and |, which separate tags")
        if tag.lower() in seen:
            raise BwlabError(where, f"the tag {tag!r} is given twice", "Delete one of them")
        seen.add(tag.lower())
