"""Which adapters make which block."""

from __future__ import annotations

import pytest

from bwlab.blocks.configs import SD14
from bwlab.blocks.families import scheme_for
from bwlab.errors import BwlabError
from bwlab.merging.merge import parse_choice
from bwlab.terminal import capital_letters

SCHEME = scheme_for(SD14)


def made_by(text: str, path: str, count: int = 3) -> str:
    module = SCHEME.module_of(path)
    assert module is not None
    return "".join(sorted(parse_choice(text, SCHEME, count)[module.path]))


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("upper=B, *=A", "down_blocks.0.resnets.0.conv1", "B"),
        ("*=A, upper=B", "up_blocks.3.resnets.2.conv1", "B"),
        ("upper=B, *=A", "mid_block.resnets.0.conv1", "A"),
        ("upper=B, *=A", "te.encoder.layers.0.mlp.fc1", "A"),
        ("mid=A+C", "mid_block.resnets.0.conv1", "AC"),
        ("mid=A", "down_blocks.1.resnets.0.conv1", "ABC"),
        ("in0=A, in0.1=none", "down_blocks.0.attentions.1.proj_in", ""),
        ("in0.1=none, in0=A", "down_blocks.0.attentions.1.proj_in", "A"),
        ("*=none", "conv_in", ""),
    ],
)
def test_choices(text: str, path: str, expected: str) -> None:
    assert made_by(text, path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upper=D", r"--choose 'upper=D': there is no adapter D\. There are A, B, C"),
        ("uper=A", "block 'uper': no such block.*Did you mean upper"),
        ("upper", "'upper' does not name adapters. Write block=letters"),
        ("upper=1", "'upper=1' does not name adapters"),
        ("upper=b", "'upper=b' does not name adapters"),
        ("upper=A,,mid=B", "an entry is empty"),
        ("upper=A+", "'upper=A\\+' does not name adapters"),
        ("=A", "'=A' does not name adapters"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(BwlabError, match=message):
        parse_choice(text, SCHEME, 3)


def test_letters_end() -> None:
    assert capital_letters(26).endswith("Z")
    with pytest.raises(BwlabError, match="letters end at Z"):
        capital_letters(27)
