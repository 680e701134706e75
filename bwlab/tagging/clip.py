"""Zero-shot tags by a CLIP model that open_clip loads."""

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
from bwlab.tagging.tagger import TagImages, Tag, fraction_option

if TYPE_CHECKING:
    from PIL.Image import Image


DEFAULT_MODEL = "ViT-B-32"
DEFAULT_TEMPLATE = "a picture of {}"
DEFAULT_THRESHOLD = 0.05
TEXTS_AT_ONCE = 64


def load(options: Mapping[str, str]) -> TagImages:
    """Return a tagger over a vocabulary.

    Groups give their best tag, the others those whose score is at least `threshold`, surest first. The score is a
    probability: for CLIP among all ungrouped tags (softmax; Radford et al. 2021, arXiv 2103.00020, section 3.1), for
    SigLIP, which has a bias, of that tag alone (sigmoid; Zhai et al. 2023, arXiv 2303.15343, equation 1).

    Args:
        options: `model` (a name of open_clip's, or a folder with `open_clip_config.json` and weights), `pretrained` (a
            file of weights, or a name of open_clip's), `vocabulary` (a file), `threshold` (0..1), `template` (a text in
            which `{}` stands for the tag).

    Raises:
        BwlabError: there are no weights, or an option is wrong.

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
    def describe(pictures: Sequence[Image]) -> list[list[Tag]]:
        batch = torch.stack([preprocess(picture) for picture in pictures]).to(device)
        images = model.encode_image(batch, normalize=True).float()
        logits = images @ texts.T * model.logit_scale.float().exp()
        bias = getattr(model, "logit_bias", None)
        return [chosen(row, vocabulary, threshold, None if bias is None else float(bias)) for row in logits.cpu()]

    return describe


def chosen(logits: Tensor, vocabulary: Vocabulary, threshold: float, bias: float | None) -> list[Tag]:
    """Return the tags of one picture: the best of each group, then the others from the surest.

    Args:
        logits: `(tags,)`, those without a group first, then group by group.
        bias: of the sigmoid; None means that tags compete (softmax).

    """
    best: list[Tag] = []
    start = len(vocabulary.tags)
    for group in vocabulary.groups.values():
        shares = logits[start : start + len(group)].softmax(0)
        best.append(Tag(group[int(shares.argmax())], float(shares.max())))
        start += len(group)
    own = logits[: len(vocabulary.tags)]
    scores = own.softmax(0) if bias is None else (own + bias).sigmoid()
    found = [Tag(tag, float(score)) for tag, score in zip(vocabulary.tags, scores, strict=True) if score >= threshold]
    return best + sorted(found, key=lambda tag: -tag.score)


def _load_model(name: str, pretrained: str | None) -> tuple[Any, Callable[[Image], Tensor], Any]:
    """Return the model, what makes a picture its input, and its tokenizer."""
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
    """Embeddings `(texts, width)` of norm 1."""
    parts = [
        model.encode_text(tokenizer(list(texts[start : start + TEXTS_AT_ONCE])).to(device), normalize=True).float()
        for start in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Vocabulary:
    """Tags to choose from.

    Attributes:
        tags: those that are written if a picture shows them.
        groups: name -> alternatives, of which the best is always written.

    """

    tags: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]


def read_vocabulary(path: Path | None) -> Vocabulary:
    """Return the vocabulary in a file, or the one that comes with bwlab; raises `BwlabError` as `parse_vocabulary` does."""
    if path is None:
        text = files("bwlab").joinpath("data", "tagging", "vocabulary.txt").read_text(encoding="utf-8")
        return parse_vocabulary(text, "the default vocabulary")
    try:
        return parse_vocabulary(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        fix = "Give a text file with one tag a line"
        raise BwlabError(f"vocabulary {path}", reason or "not readable", fix) from error


def parse_vocabulary(text: str, source: str) -> Vocabulary:
    """Return the vocabulary in a text.

    One tag a line. A line `style: ink | flat | photo` is a group of alternatives. Empty lines and what follows `#` are
    left out.

    Args:
        text: of the file.
        source: its name, for messages.

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
        found = tuple(tag.strip() for tag in rest.split("|")) if colon else (line,)
        _check(where, found, seen)
        if not colon:
            tags.append(line)
        elif not name or name in groups or len(found) < 2:
            raise BwlabError(where, f"{line!r} is no new group", "Write it as in 'style: ink | flat'")
        else:
            groups[name] = found
    if not seen:
        raise BwlabError(f"vocabulary {source}", "it holds no tags", "Write one tag a line")
    return Vocabulary(tuple(tags), groups)


def _check(where: str, found: tuple[str, ...], seen: set[str]) -> None:
    """Raise `BwlabError` for tags that cannot be, and notes the others as seen."""
    for tag in found:
        if not tag or "," in tag or "|" in tag:
            raise BwlabError(where, f"{tag!r} is no tag", "A tag is not empty and has no comma or |, which part tags")
        if tag.lower() in seen:
            raise BwlabError(where, f"the tag {tag!r} is there twice", "Take one away")
        seen.add(tag.lower())
