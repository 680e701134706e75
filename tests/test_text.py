"""JSON and TOML from strangers are read, or refused for what is wrong."""

from __future__ import annotations

import pytest

from bwlab.text import parse_json, parse_toml


@pytest.mark.parametrize(
    ("text", "value"),
    [("[1, -2.5, null]", [1, -2.5, None]), ("9" * 300, int("9" * 300)), ('{"a": {"b": "\\u00e9"}}', {"a": {"b": "é"}})],
)
def test_json(text: str, value: object) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "no finite number"),
        ("-Infinity", "no finite number"),
        ("1e999", "no finite number"),
        ("9" * 301, "a number of 301 digits"),
        ("9" * 5000, "a number of 5000 digits"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_toml() -> None:
    assert parse_toml('a.b = 1\n[c]\nd = [1, "x"]') == {"a": {"b": 1}, "c": {"d": [1, "x"]}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"a = {'[' * 100_000}", "nested too deeply"),
        (f"a = {'{a = ' * 20_000}", "nested too deeply"),
        (f"{'.'.join('a' * 5000)} = 1", "nested too deeply"),
        (f"a = {'9' * 5000}", "digits"),
        ("a = ", "Invalid"),
    ],
)
def test_toml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_toml(text)
