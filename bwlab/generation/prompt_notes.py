"""Warnings about prompts: syntax of other tools that is read as plain words, and texts longer than an encoder reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from bwlab.base.models import family_of
from bwlab.base.text_chunks import chunk_size, unread_tokens
from bwlab.generation.a1111_syntax import A1111
from bwlab.generation.chunks import chunk_count, token_count
from bwlab.generation.job import COMPEL
from bwlab.generation.lora_tags import TAG
from bwlab.generation.prompt_weighting import without_weights
from bwlab.terminal import counted

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline

SHOWN = 30  # characters of a prompt
MOST_EXAMPLES = 4

ESCAPE = r"\\[()\[\]]"
# What `--weighting a1111` reads, and of that what compel does not read as something of its own.
WEIGHTED = r"\([^()]*:\s*[+-]?[\d.]+\s*\)"
SQUARE = r"(?<!\\)\[[^\[\]:|]+\]"
BREAK = r"\bBREAK\b"
BRACKETS = r"(?<!\\)\(+[^()\\]*(?:\\.[^()\\]*)*\)+"
# What no syntax here reads.
EDITED = r"(?<!\\)\[[^\[\]]*[:|][^\[\]]*\]"
WILDCARD = r"\{[^{}]*\|[^{}]*\}|__[^\W_][\w\-/*]*?__"
EMBEDDING = r"\bembedding:[^\s,()<>]+"
AND = r"(?<=\S )AND(?= \S)"

READ: Mapping[str | None, str] = {
    None: "|".join((WEIGHTED, BRACKETS, ESCAPE, SQUARE, BREAK)),
    COMPEL: "|".join((WEIGHTED, SQUARE, BREAK)),
}
ADVICE = (
    (f"(?i:{TAG.pattern})", "Only 'bwlab generate' loads the adapters of tags"),
    (EDITED, "bwlab reads neither prompt editing nor alternating words"),
    (AND, "bwlab composes no prompts with AND"),
    (WILDCARD, "bwlab fills in no wildcards"),
    (EMBEDDING, "Load an embedding with --embedding FILE and write its word alone"),
)


def notes_on_prompts(pipe: Pipeline, prompts: Collection[str], weighting: str | None) -> Iterator[str]:
    """Return the warnings about all prompts of a call, the negative prompt included.

    Args:
        pipe: the base, which knows the words of embeddings.
        prompts: the prompts without tags of adapters.
        weighting: syntax of weights in prompts, or None.

    """
    syntax = syntax_note(prompts, weighting)
    if syntax:
        yield syntax
    if not family_of(pipe).reads_chunks:
        length = unread_note(pipe, prompts)
    else:
        length = cut_note(pipe, prompts) if weighting == COMPEL else chunk_note(pipe, prompts, weighting)
    if length:
        yield length


def syntax_note(prompts: Collection[str], weighting: str | None = None, *, selectable: bool = True) -> str | None:
    """Return a warning about syntax in prompts that is read as plain words, or None.

    Args:
        prompts: the prompts; where tags load adapters, without these tags.
        weighting: syntax of weights in prompts, or None.
        selectable: whether the command has the option `--weighting`.

    >>> syntax_note(["a (red:1.2) fox"], None)
    'prompt syntax read as plain words: (red:1.2). Add --weighting a1111 to read weights, escaped brackets and BREAK'
    >>> syntax_note(["a (red:1.2) fox"], "a1111")
    """
    text = "\n".join(dict.fromkeys(prompts))
    examples = _matches(READ[weighting], text) if weighting in READ else []
    reads, option = "to read weights, escaped brackets and BREAK", f"--weighting {A1111}"
    add = f"Add {option} {reads}" if selectable else f"Only 'bwlab generate' has {option}, {reads}"
    advice = [add] if examples else []
    for pattern, fix in ADVICE:
        unread = _matches(pattern, text)
        examples += unread
        advice += [fix] if unread else []
    if not examples:
        return None
    shown = list(dict.fromkeys(examples))
    more = f" and {len(shown) - MOST_EXAMPLES} more" if len(shown) > MOST_EXAMPLES else ""
    listed = ", ".join(_shortened(example) for example in shown[:MOST_EXAMPLES])
    return f"prompt syntax read as plain words: {listed}{more}. {'. '.join(advice)}"


def _matches(pattern: str, text: str) -> list[str]:
    return [match[0] for match in re.finditer(pattern, text)]


def chunk_note(pipe: Pipeline, prompts: Collection[str], weighting: str | None) -> str | None:
    """Return a warning about prompts that are read in several chunks because of their length, or None."""
    size = chunk_size(pipe)
    counts = {prompt: token_count(pipe, prompt, weighting) for prompt in dict.fromkeys(prompts)}
    long = [prompt for prompt, count in counts.items() if count > size]
    if not long:
        return None
    longest = max(long, key=lambda prompt: counts[prompt])
    chunks = counted(chunk_count(pipe, longest, weighting), "chunk")
    size_text = f"more than the {size} tokens that the text encoder reads at once"
    return f"{_prompts(long)} {size_text}: read in {'up to ' if len(long) > 1 else ''}{chunks}, as A1111 and kohya do"


def cut_note(pipe: Pipeline, prompts: Collection[str]) -> str | None:
    """Return a warning about prompts whose end compel does not read, or None."""
    size = chunk_size(pipe)
    texts = [without_weights(prompt) for prompt in dict.fromkeys(prompts)]
    long = [text for text in texts if token_count(pipe, text) > size]
    if not long:
        return None
    with_unread = f"{_prompts(long)} more than {size} tokens, of which --weighting {COMPEL} reads the first {size}"
    ids = pipe.tokenizer(pipe.maybe_convert_prompt(long[0], pipe.tokenizer), add_special_tokens=False).input_ids[size:]
    unread = _shortened(pipe.tokenizer.decode(ids))
    return f"{with_unread}: {counted(len(ids), 'token')} not read, from {unread!r} on"


def unread_note(pipe: Pipeline, prompts: Collection[str]) -> str | None:
    """Return a warning about prompts whose end is not read by a base that reads no chunks, or None."""
    long = [prompt for prompt in dict.fromkeys(prompts) if unread_tokens(pipe, prompt)]
    if not long:
        return None
    return f"{_prompts(long)} more tokens than the {family_of(pipe).prompt_tokens(pipe)} that the base reads"


def _prompts(long: Collection[str]) -> str:
    first = _shortened(next(iter(long)))
    return f"the prompt {first!r} has" if len(long) == 1 else f"{len(long)} prompts such as {first!r} have"


def _shortened(text: str) -> str:
    """Return a text of at most `SHOWN` characters, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
