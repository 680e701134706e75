"""CLIP's tokenizer, which all Stable Diffusions share, from the vocabulary that open_clip ships."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY_SIZE = 49408
LETTERS = 256


def clip_tokenizer(pad: str = END, length: int = 77) -> CLIPTokenizer:
    """Return the tokenizer of CLIP's 49,408 tokens.

    Args:
        pad: the token that fills captions up; as in diffusers' pipelines, it has the same meaning inside captions.
        length: maximum number of tokens of a caption, start and end included.

    Raises:
        BwlabError: open_clip lacks its vocabulary.

    """
    from transformers import CLIPTokenizer

    merges = clip_merges()
    tokenizer: CLIPTokenizer = CLIPTokenizer(
        vocab=clip_vocabulary(merges), merges=merges, pad_token=pad, model_max_length=length
    )
    return tokenizer


def clip_merges() -> list[tuple[str, str]]:
    """Return CLIP's byte-pair merges, first to last; the file lists more than CLIP uses."""
    spec = find_spec("open_clip")  # finds the folder without the seconds that importing it takes
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0]) / BPE_FILE if folders else Path(BPE_FILE)
    if not file.is_file():
        found = f"open_clip's {BPE_FILE} is not there"
        raise BwlabError("CLIP's vocabulary", found, "Install open_clip_torch again, or give a diffusers folder")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    most = VOCABULARY_SIZE - 2 * LETTERS - 2
    pairs = (line.split() for line in lines[1 : most + 1])  # the first line is a heading
    return [(left, right) for left, right in pairs]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Return each token's number: letters, letters that end a word, merged pieces, then the two marks."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + WORD_END for letter in letters), *(left + right for left, right in merges)]
    return {piece: number for number, piece in enumerate([*pieces, START, END])}
