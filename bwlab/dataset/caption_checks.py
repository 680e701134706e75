"""Mistakes in captions that only a comparison with the other captions shows."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from bwlab.dataset.examples import SEPARATOR, Example, split_tags
from bwlab.terminal import counted

NOTES = 10
FILES_IN_NOTES = 3
SHORTEST_WORD = 4  # letters of a misspelt word
SHORTEST_REPLACED = 6  # letters of words that differ in one letter: "shirt" and "skirt" are no mistake
LONGEST_TAG = 60

TagImages = Mapping[str, Sequence[str]]  # names of the images that have a tag


def caption_notes(examples: Sequence[Example]) -> Iterator[str]:
    """Yield a note for each pair of tags that look like one tag, and one about captions without commas."""
    own = [example for example in examples if example.captioned and not example.regularisation]
    images = tag_images(own)
    pairs = sorted({*same_letters(images), *misspelt(images)})
    for rare, common in pairs[:NOTES]:
        texts = [f'"{tag}" ({images_text(images[tag])})' for tag in (rare, common)]
        yield f"Similar tags: {' and '.join(texts)}"
    if len(pairs) > NOTES:
        yield f"Similar tags: {counted(len(pairs) - NOTES, 'more pair')}"
    yield from comma_notes(own)


def tag_images(examples: Iterable[Example]) -> TagImages:
    """Return the names of the images that have each tag."""
    images: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        for tag in dict.fromkeys(split_tags(example.caption)):
            images[tag].append(example.path.name)
    return images


def images_text(names: Sequence[str]) -> str:
    """Return the number of images, and the names of the first ones."""
    first = ", ".join(names[:FILES_IN_NOTES]) + (", ..." if len(names) > FILES_IN_NOTES else "")
    return f"{counted(len(names), 'image')}: {first}"


def same_letters(images: TagImages) -> Iterator[tuple[str, str]]:
    """Yield (rarer, more frequent) tags that differ in letter case, blanks, underscores or Unicode form only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for tag in images:
        groups[plain_tag(tag)].append(tag)
    for tags in groups.values():
        *rarer, common = sorted(tags, key=lambda tag: (len(images[tag]), tag))
        for rare in rarer:
            yield rare, common


def plain_tag(tag: str) -> str:
    """Return a tag without differences in letter case, blanks, underscores and Unicode form.

    >>> plain_tag("Long_hair")
    'long hair'
    """
    return " ".join(re.split(r"[\s_]+", unicodedata.normalize("NFKC", tag).lower()))


def misspelt(images: TagImages) -> Iterator[tuple[str, str]]:
    """Yield (rarer, more frequent) tags one of which looks like a typing mistake of the other."""
    groups: dict[str, list[str]] = defaultdict(list)
    for tag in images:
        if len(tag) <= LONGEST_TAG:
            for key in {tag, *without_one_letter(tag)}:
                groups[key].append(tag)
    for first, second in {pair for tags in groups.values() for pair in combinations(sorted(tags), 2)}:
        rare, common = sorted((first, second), key=lambda tag: (len(images[tag]), tag))
        is_rare = len(images[rare]) == 1 or 2 * len(images[rare]) <= len(images[common])
        if is_rare and plain_tag(rare) != plain_tag(common) and is_typing_mistake(plain_tag(rare), plain_tag(common)):
            yield rare, common


def without_one_letter(text: str) -> Iterator[str]:
    """Yield a text without each of its letters."""
    return (text[:index] + text[index + 1 :] for index in range(len(text)))


def is_typing_mistake(tag: str, other: str) -> bool:
    """Return whether two tags differ in one word, by a letter left out, added, exchanged with the next or replaced.

    Plural forms, other numbers, other first letters and short words are no mistakes.

    >>> is_typing_mistake("whte robot", "white robot"), is_typing_mistake("red shirt", "red skirt")
    (True, False)
    >>> is_typing_mistake("1girl", "2girl"), is_typing_mistake("red eye", "red eyes")
    (False, False)

    """
    words, other_words = tag.split(" "), other.split(" ")
    differing = [pair for pair in zip(words, other_words, strict=False) if pair[0] != pair[1]]
    if len(words) != len(other_words) or len(differing) != 1:
        return False
    short, long = sorted(differing[0], key=len)
    if len(short) < SHORTEST_WORD or short[0] != long[0] or re.findall(r"\d", short) != re.findall(r"\d", long):
        return False
    if len(short) < len(long):
        return long != f"{short}s" and short in without_one_letter(long)
    places = [index for index, pair in enumerate(zip(short, long, strict=True)) if pair[0] != pair[1]]
    if len(places) == 1:
        return len(short) >= SHORTEST_REPLACED
    left, right = places[0], places[-1]
    return len(places) == 2 and right == left + 1 and (short[left], short[right]) == (long[right], long[left])


def comma_notes(examples: Sequence[Example]) -> Iterator[str]:
    """Yield a note about captions of several words without commas, if most captions have commas."""
    with_commas = sum(SEPARATOR in example.caption for example in examples)
    without = [example.path.name for example in examples if SEPARATOR not in example.caption and " " in example.caption]
    if without and len(without) <= with_commas:
        captions = counted(len(without), "caption")
        names = images_text(without).partition(": ")[2]
        yield f"{captions} without commas, and {with_commas} with commas: {names}"
