"""Zero-shot tags by a CLIP model that open_clip loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwlab.errors import BwlabError, first_line
from bwlab.open_clip_model import LOCAL, load_open_clip
from bwlab.registry import Describe, Tag
from bwlab.tagging.options import share
from bwlab.tagging.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_MODEL = "ViT-B-32"
DEFAULT_TEMPLATE = "a picture of {}"
DEFAULT_THRESHOLD = 0.05
TEXTS_AT_ONCE = 64


def load(options: Mapping[str, str]) -> Describe:
    """A tagger over a vocabulary.

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
    threshold = share(options, "threshold", DEFAULT_THRESHOLD)
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
    """The tags of one picture: the best of each group, then the others from the surest.

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
    """The model, what makes a picture its input, and its tokenizer."""
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
